"""`aigciqa convert`: a checkpoint of the paper authors' training script becomes one of ours."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from aigciqa.cli.common import command, license_option, put, say, trainable_metric_option
from aigciqa.registry import SCORE_RANGES


@command("convert")
@click.argument("pt_file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@trainable_metric_option("What was trained, such as fr-resnet50.")
@click.option(
    "-d", "--dimension", required=True, type=click.Choice(list(SCORE_RANGES)), help="Opinion score it was trained on."
)
@click.option("-o", "--output", required=True, help="Folder to write.", metavar="DIR")
@license_option
@click.option("--overwrite", is_flag=True, help="Replace a checkpoint that DIR holds, and any README.md.")
def main(pt_file: Path, metric: str, dimension: str, output: str, license: str | None, overwrite: bool) -> None:
    """Convert a .pt file of the PKU-I2IQA authors' training script.

    FILE becomes a checkpoint in the folder DIR: config.json, model.safetensors and README.md, a model card to be
    completed. FILE is read without running anything in it. Exit status: 0 converted, 1 not such a file, 2 usage error.
    """
    from aigciqa.convert import convert_checkpoint
    from aigciqa.errors import CheckpointError, OutputExistsError

    try:
        convert_checkpoint(
            pt_file, metric=metric, dimension=dimension, output=output, license=license, overwrite=overwrite
        )
    except OutputExistsError as error:
        raise click.UsageError(str(error)) from None
    except (CheckpointError, OSError) as error:
        raise click.ClickException(str(error)) from None
    put(output)
    say(f"Use it: aigciqa score IMAGES -m {metric} --weights {shlex.quote(os.path.join(output, ''))}")

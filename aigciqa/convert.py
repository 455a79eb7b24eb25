"""Checkpoints of the paper authors' training script (github.com/jiquan123/AIGIQA4K) become checkpoints of ours.

Such a file is somebody's pickle: nothing in it is executed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigciqa.checkpoints.card import checked_folder
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.format import CONFIG_FILE, check_tensors, file_sha256, write_checkpoint
from aigciqa.checkpoints.pickles import as_state_dict, read_pickle, without_classifier
from aigciqa.errors import CheckpointError, InputError, OutputExistsError, shortened
from aigciqa.metric import Metric
from aigciqa.registry import MetricSpec, metric_info
from aigciqa.utils.object_stores import local_path

SCRIPT = "github.com/jiquan123/AIGIQA4K"
#: What the script trains.
_BACKBONES = ("vgg16", "vgg19", "resnet18", "resnet50", "inceptionv4")


def convert_checkpoint(
    pt_file: str | os.PathLike[str],
    *,
    metric: str,
    dimension: str,
    output: str | os.PathLike[str],
    license: str | None = None,
    overwrite: bool = False,
) -> Metric:
    """Convert a checkpoint of the paper authors' training script.

    The optimizer and the ImageNet classifier are left out. The script's ResNet18 has LeakyReLU (slope 0.01) in its
    residual blocks, and so has the converted one: it computes what theirs computes.

    Args:
        pt_file: the `.pt` file.
        metric: what was trained: `"fr-resnet50"`.
        dimension: the opinion score it was trained on: `"quality"`, `"authenticity"`, `"correspondence"`, `"overall"`.
        output: folder to write `config.json`, `model.safetensors` and a model card to.
        license: SPDX identifier of the weights' license, if known.
        overwrite: replace a checkpoint that `output` holds, and any `README.md`.

    Returns:
        The converted metric, as `create_metric(metric, weights=output)` gives it.

    Raises:
        InputError: unknown metric or dimension, or a metric that is not the paper's.
        OutputExistsError: `output` holds a checkpoint, or a `README.md` that is not a model card.
        CheckpointError: not such a file, another metric's, or one with NaN or infinite weights.

    Example::

        metric = aigciqa.convert_checkpoint("best.pt", metric="fr-resnet50", dimension="quality", output="checkpoint")
        score = metric("out.png", "prompt.png")
    """
    spec = metric_info(metric)
    if spec.backbone not in _BACKBONES or spec.head != "regression":
        raise InputError(f"the paper's script does not train {metric}; expected nr- or fr- and {', '.join(_BACKBONES)}")
    if dimension not in spec.score_ranges:
        raise InputError(f"dimension is one of {', '.join(spec.dimensions)}; got {dimension!r}")
    output = local_path(output)
    if not overwrite:
        if (output / CONFIG_FILE).exists():
            raise OutputExistsError(
                f"{output} holds a checkpoint already: pass `overwrite=True` to replace it, or name another"
            )
        checked_folder(output)
    path = Path(os.path.expanduser(pt_file))
    content = _read(path)
    backbone = without_classifier(_states(content, "backbone", path))
    tensors = {f"backbone.{name}": value for name, value in backbone.items()}
    tensors |= {f"head.{name}": value for name, value in _states(content, "regressor", path).items()}
    config = _config(spec, dimension, license, path, content)
    with torch.device("meta"):
        expected = Metric(config).state_dict()
    _check_regressor(tensors, expected, spec, path)
    check_tensors(tensors, expected, str(path))
    write_checkpoint(output, config, tensors)
    return Metric.from_pretrained(output, metric=metric)


def _read(path: Path) -> Mapping[str, Any]:
    content = read_pickle(path)
    if not isinstance(content, dict) or not {"backbone", "regressor"} <= content.keys():
        holds = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        expected = "'backbone' and 'regressor'"
        raise CheckpointError(
            f"{path} is not a checkpoint of {SCRIPT}: expected {expected}, it holds {shortened(holds, 200)}"
        )
    return content


def _states(content: Mapping[str, Any], key: str, path: Path) -> dict[str, Tensor]:
    """A state dict of the file, its keys without the prefix that DataParallel gives them."""
    states = as_state_dict(content[key], f"{path}: {key!r}")
    wrapped = all(name.startswith("module.") for name in states)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in states.items()}


def _config(
    spec: MetricSpec, dimension: str, license: str | None, path: Path, content: Mapping[str, Any]
) -> MetricConfig:
    training: dict[str, Any] = {"script": SCRIPT, "file": path.name, "sha256": file_sha256(path)}
    if isinstance(content.get("epoch"), int):
        training["epoch"] = content["epoch"]
    if isinstance(content.get("rho_best"), float):  # NumPy's float64 is one
        training["rho_best"] = round(float(content["rho_best"]), 6)
    return replace(
        MetricConfig.from_spec(spec),
        score_ranges={dimension: spec.score_ranges[dimension]},
        # Its ResNet18 has LeakyReLU inside the residual blocks.
        options={"negative_slope": 0.01} if spec.backbone == "resnet18" else {},
        license=license,
        training=training,
    )


def _check_regressor(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], spec: MetricSpec, path: Path
) -> None:
    """Raise CheckpointError if the file was trained with references and is taken for one without, or vice versa."""
    found, wanted = tensors.get("head.fc1.weight"), expected["head.fc1.weight"]
    if found is None or found.dim() != 2 or found.shape == wanted.shape:
        return
    other = "nr" if spec.kind == "fr" else "fr"
    if found.shape[1] == wanted.shape[1] * (2 if other == "fr" else 0.5):
        raise CheckpointError(
            f"{path}: its regressor reads {found.shape[1]} features, as {other}-{spec.backbone} does; "
            f"{spec.name} reads {wanted.shape[1]}: convert it with `metric='{other}-{spec.backbone}'`"
        )

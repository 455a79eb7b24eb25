"""`aigciqa`: one command, whose subcommands are imported when they are run."""

from __future__ import annotations

import difflib
import importlib

import click

from aigciqa.cli.common import SETTINGS, VERSION, Command

#: Subcommand -> what it does. Each is the function `main` of the module of its name, which has the same short help.
COMMANDS = {
    "score": "Score the quality of AI-generated images.",
    "compare": "Compare generators or checkpoints: means, differences, win rates by prompt, significance.",
    "select": "Select images by their scores.",
    "evaluate": "Compare metrics with the people who rated a database.",
    "rate": "Collect people's ratings of images in a browser.",
    "mos": "Turn people's votes into opinion scores with intervals.",
    "train": "Train a metric on a database of rated images.",
    "fit": "Fit a head to few ratings of your own.",
    "convert": "Convert a .pt file of the PKU-I2IQA authors' training script.",
    "publish": "Publish a checkpoint on the Hugging Face Hub.",
}


class _Lazy(Command, click.Group):
    """A group that lists its commands without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"aigciqa.cli.{name}").main
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not context.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(COMMANDS)}"
            context.fail(f"unknown command {name!r}; {hint}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings=SETTINGS)
@VERSION
def main() -> None:
    """Perceptual quality metrics for AI-generated images.

    `aigciqa COMMAND --help` lists the options of a command.
    """

"""What the library says, in the words of a command.

Its messages spell an argument as Python does, between backticks: `weights='org/name'`. A command that has such an
option says `--weights org/name` instead.
"""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
import warnings
from collections.abc import Iterator

import click

from aigciqa.tables.text import printable

_ARGUMENT = re.compile(r"`([a-z_]+)=([^`]*)`")
#: Argument -> what else an option for it is called.
_OTHER_NAMES = {
    "references": "reference",
    "score_ranges": "score_range",
    "cache_dir": "cache",
    "weights": "start",
    "dimensions": "dimension",
}


def in_shell_words(text: str, command: click.Command) -> str:
    """A message with the options of a command for the arguments that it has."""
    options = {option.lstrip("-").replace("-", "_"): (option, each) for each in command.params for option in each.opts}

    def spelled(match: re.Match[str]) -> str:
        name, value = match.groups()
        option, parameter = options.get(name) or options.get(_OTHER_NAMES.get(name, "")) or ("", None)
        return match[0] if parameter is None else f"{option}{_as_typed(value, ',' if parameter.nargs == 1 else ' ')}"

    return _ARGUMENT.sub(spelled, text)


def _as_typed(value: str, comma: str) -> str:
    """A value behind its option, with `comma` between several."""
    try:
        given = ast.literal_eval(value)
    except (SyntaxError, ValueError):  # a placeholder such as FOLDER, or nothing
        return f" {value}" if value else ""
    if given is True:
        return ""
    values = given if isinstance(given, (list, tuple)) else (given,)
    return f" {comma.join(shlex.quote(str(each)) for each in values)}"


def warn(text: str) -> None:
    """Put a warning on standard error."""
    context = click.get_current_context(silent=True)  # other threads have none
    words = text if context is None else in_shell_words(text, context.command)
    click.secho(printable(f"WARNING: {words}"), err=True, fg="yellow")


@contextlib.contextmanager
def said_warnings() -> Iterator[None]:
    """Python's warnings as lines of the command, each text once, whichever lines of the library warn of it."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object, **_named: object) -> None:
        text = str(message)
        if text not in said:
            said.add(text)
            warn(text)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield

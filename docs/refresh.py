"""Brings up to date what the pages quote: `python -m docs.refresh [PAGE...]`. Tests fail where it was forgotten.

- What examples print. A fence ```` ```python run ```` or ```` ```bash run ```` runs, all of a page in one namespace and
  one folder; what it prints is the fence ```` ```text ```` behind it. A fence ```` ```pycon ```` is a doctest.
- The options in `commands.md`, which are those of `--help`.
- The names in `api.md`, which are those of the pages in `reference/`.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from aigciqa.cli.main import COMMANDS, main

DOCS = Path(__file__).resolve().parent
EXAMPLE = re.compile(r"^```(python run|bash run|pycon)\n(.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", re.MULTILINE)
#: The order of `api.md`.
REFERENCE = ("metrics", "scoring", "tables", "integrations", "weights", "databases", "training", "evaluation")
REFERENCE += ("ratings", "backbones", "errors")


def refreshed(page: Path, names: dict[str, Any]) -> str:
    """The text of a page whose examples have run, with `names` for their variables."""

    def run(match: re.Match[str]) -> str:
        kind, code = match.groups()
        if kind == "pycon":
            _check(code, names, page.name)
            return match[0]
        printed = _bash(code) if kind == "bash run" else _python(code, names)
        lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
        return f"```{kind}\n{code}```\n" + (f"\n```text\n{lines}```\n" if lines else "")

    text = page.read_text(encoding="utf-8")
    with _elsewhere():
        return EXAMPLE.sub(run, text)


def options_of(name: str) -> str:
    """The section of `commands.md` about one command."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    context = click.Context(command, info_name=f"aigciqa {name}")
    about = inspect.cleandoc(command.help or "").partition("\f")[0].replace("\b\n", "").strip()
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## aigciqa {name}", "", f"`aigciqa {name} {usage}`", "", _escaped(about), ""]
    for parameter in command.params:
        declared, explained = parameter.get_help_record(context) or ("", "")
        if explained and declared != "--version":
            lines += [f"- `{declared}`: {_escaped(' '.join(explained.split()))}"]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """The text of `commands.md`."""
    page = DOCS / "commands.md"
    beginning = page.read_text(encoding="utf-8").partition("\n## ")[0]
    return "\n".join([beginning, *(options_of(name) for name in COMMANDS)])


def api() -> str:
    """The text of `api.md`."""
    beginning = (DOCS / "api.md").read_text(encoding="utf-8").partition("\n## ")[0]
    parts = [beginning.rstrip()]
    for name in REFERENCE:
        text = (DOCS / f"reference/{name}.rst").read_text(encoding="utf-8")
        title = text.partition("\n")[0]
        parts += [f"\n## {title}\n"]
        parts += [f"- `{each}`: {_summary(each)}" for each in DIRECTIVE.findall(text)]
    return "\n".join(parts) + "\n"


def resolved(name: str) -> Any:
    """The object of a dotted name; raises AttributeError or ImportError where there is none."""
    module, _, rest = name.partition(".")
    value: Any = importlib.import_module(module)
    for part in rest.split("."):
        module = f"{module}.{part}"
        if not hasattr(value, part):
            importlib.import_module(module)
        value = getattr(value, part)
    return value


def _summary(name: str) -> str:
    value = resolved(name)
    if not (inspect.isclass(value) or inspect.isfunction(value)):
        return f"`{dict(value) if isinstance(value, Mapping) else value!r}`"
    return inspect.getdoc(value).partition("\n\n")[0].replace("\n", " ")  # type: ignore[union-attr]


def _escaped(text: str) -> str:
    """Text that Markdown leaves as it is."""
    return re.sub(r"([*_<\[|])", r"\\\1", text)


@contextlib.contextmanager
def _elsewhere() -> Iterator[None]:
    """In a fresh folder, where `examples` is the repository's, with the installed commands at hand."""
    before, path = os.getcwd(), os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(DOCS.parent / "examples", f"{folder}/examples")
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), path])
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            os.environ["PATH"] = path


def _python(code: str, names: dict[str, Any]) -> str:
    """What code prints; a last expression is shown as the interpreter shows it."""
    *body, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        body.append(last)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(ast.Module(body, []), "<example>", "exec"), names)
        if isinstance(last, ast.Expr):
            sys.displayhook(eval(compile(ast.Expression(last.value), "<example>", "eval"), names))
    return printed.getvalue()


def _bash(code: str) -> str:
    command = ["bash", "-euo", "pipefail", "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{code}\n{done.stdout}")
    return done.stdout


def _check(code: str, names: dict[str, Any], page: str) -> None:
    test = doctest.DocTestParser().get_doctest(code, names, page, page, 0)
    report = io.StringIO()
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.write, clear_globs=False)
    names.update(test.globs)
    if report.getvalue():
        raise RuntimeError(report.getvalue())


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(commands(), encoding="utf-8")
    (DOCS / "api.md").write_text(api(), encoding="utf-8")
    pages = [DOCS / name for name in sys.argv[1:]] or sorted(DOCS.glob("*.md"))
    for path in pages:
        path.write_text(refreshed(path, {}), encoding="utf-8")

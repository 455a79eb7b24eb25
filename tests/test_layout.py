"""The package reads like a table of contents: few names at its top, files of a length to read, imports that go down."""

from __future__ import annotations

from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aigciqa"
MOST_LINES = 400
#: File -> why it is longer.
LONG: dict[str, str] = {}


def test_the_top_of_the_package_is_small() -> None:
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    assert len(folders) <= 16


def test_no_file_is_long_without_a_reason() -> None:
    lines = {path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > MOST_LINES and name not in LONG} == {}


def test_imports_go_down(capsys: pytest.CaptureFixture[str]) -> None:
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out

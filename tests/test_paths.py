"""Files under other names, behind links, no files at all: nothing is overwritten, mistaken, waited for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aigciqa.cli import benchmark, compare, score, select
from tests import lookalikes

Write = Callable[..., list[str]]
TABLE = "image,group,metric,quality,error\na/1.png,a,nr-lite,3,\nb/1.png,b,nr-lite,2,\n"


def run(command: object, *arguments: str) -> Result:
    return CliRunner().invoke(command.main, arguments)  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two tables and an image; links to each of them."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text(TABLE)
    (tmp_path / "one.png").write_bytes(b"an image")
    for link, target in (("link.csv", "a.csv"), ("r.html", "a.csv"), ("i.csv", "one.png"), ("i.html", "one.png")):
        (tmp_path / link).symlink_to(target)
    return tmp_path


class TestInputsAreNotOverwritten:
    @pytest.mark.parametrize(
        ("command", "arguments"),
        [
            (compare, ["a.csv", "b.csv", "-o", "a.csv"]),
            (compare, ["a.csv", "b.csv", "-o", "link.csv"]),
            (compare, ["link.csv", "b.csv", "-o", "./a.csv"]),
            (compare, ["a.csv", "b.csv", "--report", "r.html"]),
            (compare, ["a.csv", "b.csv", "-o", "i.csv"]),
            (score, ["a.csv", "-o", "link.csv"]),
            (score, ["one.png", "-r", "one.png", "-o", "i.csv"]),
            (score, ["a.csv", "-r", "one.png", "-o", "i.csv"]),
            (score, [".", "-o", "i.csv"]),
            (score, ["a.csv", "--report", "r.html"]),
            (score, ["one.png", "--report", "i.html"]),
            (score, ["a.csv", "-o", "link.csv", "--resume"]),
            (select, ["a.csv", "-o", "a.csv"]),
            (select, ["a.csv", "-o", "link.csv"]),
        ],
    )
    def test_under_any_name(self, command: object, arguments: Sequence[str], folder: Path) -> None:
        done = run(command, *arguments)
        assert done.exit_code == 2
        assert "would overwrite" in done.stderr or "is there already" in done.stderr
        assert (folder / "a.csv").read_text() == TABLE
        assert (folder / "one.png").read_bytes() == b"an image"

    def test_in_letters_of_another_case(self, folder: Path) -> None:
        if not (folder / "A.CSV").exists():  # as a file system shows it that knows no case
            os.link(folder / "a.csv", folder / "A.CSV")
        assert run(compare, "a.csv", "b.csv", "-o", "A.CSV").exit_code == 2
        assert (folder / "a.csv").read_text() == TABLE

    def test_an_output_of_its_own_is_written(self, folder: Path) -> None:
        (folder / "old.csv").write_text("of an earlier run")
        assert run(compare, "a.csv", "b.csv", "-o", "old.csv").exit_code == 0
        assert (folder / "old.csv").read_text().startswith("metric,dimension")

    @pytest.mark.parametrize("option", ["-o", "--predictions"])
    def test_by_benchmark(self, option: str, tmp_path: Path) -> None:
        root = lookalikes.write_folder(tmp_path / "own", prompts=4)
        scores = tmp_path / "s.csv"
        scores.write_text("image,mine\nx.png,1\n")
        for path in (scores, root / "manifest.csv"):
            before = path.read_bytes()
            arguments = ["folder", str(root), "--scores", str(scores), "-m", "mine", option, str(path)]
            done = run(benchmark, *arguments)
            assert (done.exit_code, "would overwrite" in done.stderr) == (2, True)
            assert path.read_bytes() == before

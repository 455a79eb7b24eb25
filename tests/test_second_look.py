"""Tables, manifests and `--resume` as they meet what people do to them between two runs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from aigciqa.cli import compare, score
from aigciqa.databases import load_database
from aigciqa.errors import LockedError
from aigciqa.evaluation import PrecomputedScores
from aigciqa.tables.csv_text import plain, protected
from aigciqa.tables.formats import read_rows
from aigciqa.utils.files import locked

Write = Callable[..., list[str]]


@pytest.fixture
def folder(write_images: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images, in the current folder."""
    write_images(".", "p0.png", "p1.png", "p2.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(score.main, [*arguments, "-m", "nr-lite", "--quiet"])


def columns(output: str) -> list[str]:
    return next(csv.reader(io.StringIO(output)))


class TestQuotationMarks:
    @pytest.mark.parametrize("name", ["p1", "s3://b/p1?x=1", "p1.heic"])
    def test_rows_of_images_without_a_usual_suffix_are_not_swallowed(self, folder: Path, name: str) -> None:
        (folder / "p0.png").rename(folder / "p0")
        (folder / "p1.png").rename(folder / "p1")
        (folder / "m.csv").write_text(f'image,prompt\np0,"a cat\n{name},a dog"\np2.png,a tree\n')
        done = run("m.csv")
        assert (done.exit_code, "line 2: a cell holds what looks like rows" in done.stderr) == (2, True)

    def test_a_table_of_scores_is_named_once(self, folder: Path) -> None:
        (folder / "t.csv").write_text('image,mine\n"p0.png,1\np1.png,2"\n')
        with pytest.raises(ValueError, match=r"^t\.csv: line 2: a cell holds"):
            PrecomputedScores.read("t.csv", columns=["mine"])


def test_a_column_of_two_manifests_keeps_its_name(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.csv").write_text(f"image,prompt,seed\np0.png,of {name},-1\n")
    done = run("a.csv", "b.csv")
    assert columns(done.stdout)[6:] == ["prompt", "seed"]
    assert [line.split(",")[6:] for line in done.stdout.splitlines()[1:]] == [["of a", "-1"], ["of b", "-1"]]


@pytest.mark.parametrize("number", ["-1", "-0.5", "-.5", "-3e-7", "-1."])
def test_a_number_is_no_formula(number: str) -> None:
    assert protected(number) == number
    assert plain(number) == number
    assert plain(protected(f"'{number}")) == f"'{number}"


@pytest.mark.parametrize("text", ["-1+2", "-a", "=1", "+1", "-", "-1\n", "-١", "--1"])
def test_what_a_spreadsheet_would_compute_is_none(text: str) -> None:
    assert protected(text) == f"'{text}"
    assert plain(protected(text)) == text


def test_json_lines_in_utf_16_are_read(folder: Path) -> None:
    (folder / "m.jsonl").write_bytes('{"image": "p0.png", "prompt": "é"}\n'.encode("utf-16"))
    assert list(read_rows("m.jsonl")) == [{"image": "p0.png", "prompt": "é"}]


def test_images_in_structs_with_more_in_them_are_read(folder: Path) -> None:
    cells = [{"bytes": (folder / "p0.png").read_bytes(), "path": "a.png", "width": 8}]
    pyarrow.parquet.write_table(pyarrow.table({"image": cells}), folder / "m.parquet")
    assert run("m.parquet").exit_code == 0


def test_scores_of_windows_paths_are_found(folder: Path, write_images: Write) -> None:
    write_images("db/a", "0.png", "1.png")
    write_images("db/b", "0.png", "1.png")
    rows = [f"{each}/{number}.png" for each in "ab" for number in (0, 1)]
    (folder / "db" / "manifest.csv").write_text("image,prompt,quality\n" + "".join(f"{row},x,3\n" for row in rows))
    paths = ["D:\\runs\\db\\" + row.replace("/", "\\") for row in rows]
    (folder / "t.csv").write_text("image,mine\n" + "".join(f"{path},{place}\n" for place, path in enumerate(paths)))
    samples = load_database("folder", "db").samples
    found = PrecomputedScores.read("t.csv", columns=["mine"])
    found = found.predictions("mine", samples, root=folder / "db", dimensions=["quality"])
    assert list(found.scores["quality"]) == [0, 1, 2, 3]


def test_compare_says_what_it_skips(folder: Path, write_images: Write) -> None:
    for each in "ab":
        write_images(each, "0.png", "1.png")
        (folder / each / "2.psd").touch()
    done = CliRunner().invoke(compare.main, ["a", "b"])
    assert (done.exit_code, "skipped in folders: 2 .psd" in done.stderr) == (0, True)


class TestResume:
    def begin(self, suffix: str = "csv") -> tuple[list[str], Path]:
        arguments = ["p0.png", "p1.png", "-o", f"t.{suffix}"]
        assert run(*arguments).exit_code == 0
        return arguments, Path(f"t.{suffix}")

    def test_a_row_without_a_score_or_an_error_is_refused(self, folder: Path) -> None:
        arguments, table = self.begin()
        lines = table.read_text().splitlines(keepends=True)
        edited = lines[0] + "p0.png,,,nr-lite,,\n" + lines[2]
        table.write_text(edited)
        done = run(*arguments, "--resume")
        assert (done.exit_code, "has neither a score nor an error of 'p0.png'" in done.stderr) == (2, True)
        assert table.read_text() == edited

    def test_a_row_without_a_column_is_named(self, folder: Path) -> None:
        arguments, table = self.begin("json")
        rows = json.loads(table.read_text())
        del rows[1]["quality"]
        table.write_text(json.dumps(rows))
        done = run(*arguments, "--resume")
        assert done.exit_code == 2
        assert "has other columns than this run: image, reference, group, metric, error; expected" in done.stderr

    def test_an_empty_line_at_the_end_is_none(self, folder: Path) -> None:
        arguments, table = self.begin()
        whole = table.read_text()
        table.write_text(whole + "\n")
        assert run(*arguments, "--resume").exit_code == 0
        assert table.read_text() == whole

    def test_the_same_names_below_another_folder_are_other_images(
        self, folder: Path, write_images: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for each in ("one", "two"):
            write_images(each, "p0.png", "p1.png")
        arguments = ["p0.png", "p1.png", "-o", "../t.csv"]
        monkeypatch.chdir(folder / "one")
        assert run(*arguments).exit_code == 0
        before = (folder / "t.csv").read_text()
        monkeypatch.chdir(folder / "two")
        done = run(*arguments, "--resume")
        assert (done.exit_code, "folder was one, is two now" in done.stderr) == (2, True)
        assert (folder / "t.csv").read_text() == before
        (folder / "one").rename(folder / "three")
        monkeypatch.chdir(folder)
        (folder / "moved").mkdir()
        for each in ("three", "t.csv", "t.csv.meta.json"):
            (folder / each).rename(folder / "moved" / each.replace("three", "one"))
        monkeypatch.chdir(folder / "moved" / "one")
        assert run(*arguments, "--resume").exit_code == 0  # all of it may be moved

    def test_absolute_paths_are_the_same_anywhere(
        self, folder: Path, write_images: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        arguments = [str(folder / "p0.png"), "-o", str(folder / "t.csv")]
        assert run(*arguments).exit_code == 0
        (folder / "else").mkdir()
        monkeypatch.chdir(folder / "else")
        assert run(*arguments, "--resume").exit_code == 0

    def test_a_parquet_file_with_other_images_in_it_is_refused(self, folder: Path) -> None:
        def write(*names: str) -> None:
            cells = [
                {"bytes": (folder / name).read_bytes(), "path": f"{place}.png"} for place, name in enumerate(names)
            ]
            pyarrow.parquet.write_table(pyarrow.table({"image": cells}), folder / "m.parquet")

        write("p0.png", "p1.png")
        arguments = ["m.parquet", "-o", "t.csv"]
        assert run(*arguments).exit_code == 0
        assert run(*arguments, "--resume").exit_code == 0
        before = (folder / "t.csv").read_text()
        write("p1.png", "p2.png")
        later = (folder / "t.csv").stat().st_mtime + 9
        os.utime(folder / "m.parquet", (later, later))
        done = run(*arguments, "--resume")
        assert (done.exit_code, "can't resume: m.parquet was changed after t.csv was written" in done.stderr) == (
            2,
            True,
        )
        assert (folder / "t.csv").read_text() == before


class TestRay:
    """What `read_images` makes of the tables that Ray has read."""

    def read(self, text: str) -> dict[str, list[str]]:
        from aigciqa.integrations.ray import _from_table

        table = pyarrow.csv.read_csv(io.BytesIO(text.encode()))
        return _from_table(table.append_column("path", pyarrow.array(["/data/m.csv"] * len(table))), "", True)

    @pytest.mark.parametrize(
        "text",
        ['image,prompt\np0.png,"a cat\np1.png,a dog"\n', 'prompt,image\n"a cat,p0.png\na dog,p1.png\nx",p2.png\n'],
    )
    def test_swallowed_rows_are_an_error(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"/data/m\.csv: a cell holds what looks like rows of the file"):
            self.read(text)

    def test_so_is_a_table_without_the_column(self) -> None:
        with pytest.raises(ValueError, match=r"/data/m\.csv has no column 'image'; it has: image;prompt"):
            self.read("image;prompt\np0.png;x\n")

    def test_line_breaks_in_texts_are_none(self) -> None:
        found = self.read('image,prompt,n\np0.png,"a cat,\non a mat",1\n')
        assert found == {"image": ["/data/p0.png"]}


def test_a_lock_is_that_of_the_file_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    (tmp_path / "link.csv").symlink_to("t.csv")
    with locked(tmp_path / "t.csv"), pytest.raises(LockedError, match="is being written by another run"):
        locked(tmp_path / "link.csv").__enter__()

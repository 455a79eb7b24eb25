"""Tables of scores: what is written is read back, and what is none is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aigciqa.errors import SourceError
from aigciqa.records import Record
from aigciqa.scoring.sinks import FileSink
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.tables.scores import read_table

COLUMNS = columns_of(("quality", "authenticity"))
RECORDS = (
    Record("out/a, b.png", "prompts/a.png", "sd", "fr-x", {"quality": 3.25, "authenticity": -0.5}),
    Record('out/"\nnext\r line.png', None, None, "fr-x", {"quality": 1e-6}),
    Record("out/\udcff.png", None, "", "fr-x", error="cut off"),
)


def written(path: Path) -> Path:
    sink = FileSink(str(path), COLUMNS, {"format": 1})
    sink.start()
    sink.write([to_row(record, COLUMNS) for record in RECORDS])
    sink.close()
    return path


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    table = read_table(written(tmp_path / f"scores{suffix}"))
    assert table.dimensions == ("quality", "authenticity")
    assert table.columns == COLUMNS
    rows = list(table.rows)
    assert all(tuple(row) == COLUMNS for row in rows)
    expected = [to_row(record, COLUMNS) for record in RECORDS]
    expected[2]["group"] = None
    if suffix == ".parquet":  # which holds UTF-8 only
        expected[2]["image"] = r"out/\udcff.png"
    assert rows == expected
    assert list(table.rows) == rows  # from the start again


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_are_read_as_they_are_asked_for(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"scores{suffix}")
    with open(path, "ab") as stream:
        stream.write(b"nonsense\n")
    rows: Iterator[dict[str, Any]] = read_table(path).rows
    assert [next(rows)["quality"] for _ in range(3)] == [3.25, 1e-6, None]
    with pytest.raises(SourceError, match="row 4"):
        next(rows)


def test_an_error_may_be_without_an_image(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("image,quality,error\na.png,1,\n,,row 2: the column 'image' is empty\n")
    assert [row["image"] for row in read_table(path).rows] == ["a.png", ""]


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "scores.csv"))
    table.path.unlink()
    with pytest.raises(SourceError, match=r"scores\.csv': No such file"):
        list(table.rows)


def test_a_folder_of_parts_is_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "scores.parquet"
    folder.mkdir()
    with pytest.raises(SourceError, match="has no rows"):
        read_table(folder)
    written(tmp_path / "one.parquet").rename(folder / "part-00000000.parquet")
    written(tmp_path / "one.parquet").rename(folder / "part-00000001.parquet")
    rows = list(read_table(folder).rows)
    assert rows[:3] == rows[3:]
    assert len(rows) == 6


def test_paths_lead_from_the_current_folder_else_from_beside_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    table = read_table(written(tmp_path / "scores.csv"))
    for name in ("a.png", "here/a.png", "b.png"):
        (tmp_path / name).touch()
    row = table.located({"image": "a.png", "reference": "b.png", "quality": 1.0})
    assert row == {"image": "a.png", "reference": str(tmp_path / "b.png"), "quality": 1.0}
    assert table.located({"image": "gone.png", "reference": None}) == {"image": "gone.png", "reference": None}


def test_a_table_of_another_tool_needs_an_image_and_scores_only(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("image,clip\na.png,0.5\nb.png,\nc.png,7")  # no last line break
    rows = list(read_table(path, ["clip"]).rows)
    assert [(row["image"], row["metric"], row["clip"], row["error"]) for row in rows] == [
        ("a.png", "other", 0.5, None), ("b.png", "other", None, None), ("c.png", "other", 7.0, None)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("scores.txt", "", r"ends in one of \.csv"),
        ("absent.csv", None, "no such file"),
        ("empty.csv", "", "no column 'image'; it has: nothing"),
        ("header.csv", "image,quality\n", "has no rows"),
        ("none.csv", "img,quality\na,1\n", "no column 'image'; it has: img, quality"),
        ("none.jsonl", '{"img": 1}\n', "no column 'image'; it has: img"),
        ("unscored.csv", "image,error\na,\n", "no column of scores; it has: image, error"),
        ("list.json", '{"image": 1}', "no list of rows but dict"),
        ("torn.json", '[{"image": ', "is not JSON"),
        ("item.json", "[3]", "row 1: expected an object, got int"),
        ("no.parquet", "image", "is not Parquet"),
    ],
)
def test_what_is_no_table_of_scores_is_refused(tmp_path: Path, name: str, text: str | None, complaint: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(SourceError, match=complaint):
        read_table(path)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"image": "a", "quality": "good"}, "row 2: 'quality' is 'good'; expected a finite number"),
        ({"image": "a", "quality": float("nan")}, "row 2: 'quality' is nan"),
        ({"image": "a", "quality": True}, "row 2: 'quality' is True"),
        ({"image": "a", "quality": [1]}, r"row 2: 'quality' is \[1\]"),
        ({"image": "", "quality": 1}, "row 2: the column 'image' is empty"),
        ({"image": ["a"], "quality": 1}, r"row 2: 'image' is \['a'\]; expected text"),
        ({"image": "a", "speed": 1}, "row 2 has not the columns of the first"),
    ],
)
def test_a_row_that_can_not_be_read_is_named(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "scores.json"
    path.write_text(json.dumps([{"image": "first", "quality": 1}, row]))
    with pytest.raises(SourceError, match=complaint):
        list(read_table(path).rows)


@pytest.mark.parametrize("row", ["b.png,1", "b.png,1,,"])
def test_a_line_cut_off_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"image,quality,error\na.png,1,\n{row}")
    with pytest.raises(SourceError, match=r"row 2 has not the columns.*cut off"):
        list(read_table(path).rows)

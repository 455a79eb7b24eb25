"""`score_to_file`: a table on disk, and going on with it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import aigciqa
from aigciqa import Item, Metric, Record, score_to_file
from aigciqa.errors import ImageError, InputError, LockedError
from aigciqa.scoring.parts import Parts
from aigciqa.tables.columns import columns_of, to_record, to_row
from aigciqa.tables.formats import read_rows
from aigciqa.tables.scores import read_table
from aigciqa.utils.files import locked

Write = Callable[..., list[str]]
SUFFIXES = ["csv", "json", "jsonl", "parquet"]


@pytest.fixture(scope="module")
def lite() -> Metric:
    return aigciqa.create_metric("nr-lite")


@pytest.fixture
def paths(write_images: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four images and one that is none, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_images("gen", *(f"{index}.png" for index in range(5)))
    Path("gen/3.png").write_bytes(b"bad")
    return [f"gen/{index}.png" for index in range(5)]


def stopping_after(count: int) -> Callable[[Record, bool], None]:
    """Stands in for whoever interrupts a run."""
    seen: list[Record] = []

    def stop(record: Record, _is_new: bool) -> None:
        if len(seen) == count:
            raise KeyboardInterrupt
        seen.append(record)

    return stop


@pytest.mark.parametrize("options", [{"x": float("nan")}, {"x": Path("a")}])
def test_options_that_can_not_be_told_cost_no_table(paths: list[str], lite: Metric, options: dict[str, object]) -> None:
    score_to_file(paths, "t.csv", metric=lite)
    before = Path("t.csv").read_bytes()
    with pytest.raises(InputError, match=r"options: .*JSON"):
        score_to_file(paths, "t.csv", metric=lite, overwrite=True, options=options)
    assert Path("t.csv").read_bytes() == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_that_was_changed_is_seen_after_an_interrupted_look(
    paths: list[str], lite: Metric, suffix: str
) -> None:
    score_to_file(paths, f"t.{suffix}", metric=lite)
    for age, path in ((300, "gen"), *((200, each) for each in paths[:4]), (50, paths[4]), (100, f"t.{suffix}")):
        os.utime(path, (time.time() - age,) * 2)
    with pytest.raises(KeyboardInterrupt):
        score_to_file(paths, f"t.{suffix}", metric=lite, resume=True, on_record=stopping_after(2))
    with pytest.raises(InputError, match=r"gen/4\.png was changed after"):
        score_to_file(paths, f"t.{suffix}", metric=lite, resume=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_long_cell_is_read_back(paths: list[str], lite: Metric, suffix: str) -> None:
    items = [Item(paths[0], extra={"workflow": "x" * 200_000})]
    score_to_file(items, f"t.{suffix}", metric=lite, extra_columns=["workflow"])
    assert [row["workflow"] for row in read_table(f"t.{suffix}").rows] == ["x" * 200_000]
    done = score_to_file(items, f"t.{suffix}", metric=lite, extra_columns=["workflow"], resume=True)
    assert done.resumed == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_table_holds_the_records(paths: list[str], lite: Metric, suffix: str) -> None:
    done = score_to_file(paths, f"new/t.{suffix}", metric=lite)
    assert (done.path, done.rows, done.failed, done.resumed) == (Path(f"new/t.{suffix}"), 5, 1, 0)
    table = read_table(done.path)
    assert list(table.rows) == [to_row(record, table.columns) for record in aigciqa.score_files(paths, metric=lite)]
    assert sorted(os.listdir("new")) == [f"t.{suffix}", f"t.{suffix}.meta.json"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_interrupted_run_goes_on(paths: list[str], lite: Metric, suffix: str) -> None:
    output = f"t.{suffix}"
    score_to_file(paths, f"whole.{suffix}", metric=lite)
    with pytest.raises(KeyboardInterrupt):
        score_to_file(paths, output, metric=lite, on_record=stopping_after(2))
    with pytest.raises(InputError, match="is there already"):
        score_to_file(paths, output, metric=lite)
    taken: list[tuple[str, bool]] = []
    done = score_to_file(
        iter(paths), output, metric=lite, resume=True, on_record=lambda record, new: taken.append((record.image, new))
    )
    assert taken == [(path, index >= 2) for index, path in enumerate(paths)]
    assert (done.rows, done.failed, done.resumed) == (5, 1, 2)
    assert Path(output).read_bytes() == Path(f"whole.{suffix}").read_bytes()
    assert score_to_file(paths, output, metric=lite, resume=True).resumed == 5
    assert Path(output).read_bytes() == Path(f"whole.{suffix}").read_bytes()
    assert not list(Path().glob("*.partial"))


def test_resuming_what_is_not_there_begins(paths: list[str], lite: Metric) -> None:
    done = score_to_file(paths, Path("t.csv"), metric=lite, resume=True)
    assert (done.rows, done.resumed) == (5, 0)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"metric": "nr-lite", "dtype": "bfloat16"}, "dtype of nr-lite was float32, is bfloat16 now"),
        ({"options": {"prompt": "v2"}}, "prompt was v1, is v2 now"),
        ({"images": ["gen/1.png"]}, "it has 'gen/0.png' by nr-lite, this run 'gen/1.png' by nr-lite"),
        ({"extra_columns": ["seed"]}, "other columns than this run"),
    ],
)
def test_a_table_of_another_run_is_refused_and_kept(
    paths: list[str], lite: Metric, changed: dict[str, object], text: str
) -> None:
    arguments = {"images": paths, "metric": lite, "options": {"prompt": "v1"}}
    score_to_file(output="t.csv", **arguments)  # type: ignore[arg-type]
    before = Path("t.csv").read_bytes()
    with pytest.raises(InputError, match=text):
        score_to_file(output="t.csv", resume=True, **(arguments | changed))  # type: ignore[arg-type]
    assert Path("t.csv").read_bytes() == before


def test_so_is_a_table_of_another_metric(paths: list[str], lite: Metric) -> None:
    score_to_file(paths[:1], "t.jsonl", metric=lite)
    with pytest.raises(InputError, match="the metric was nr-lite, is fr-lite now"):
        score_to_file(paths[:1], "t.jsonl", metric="fr-lite", references=paths[1], resume=True)


def test_a_table_that_is_there_is_not_replaced_unasked(paths: list[str], lite: Metric) -> None:
    Path("t.csv").write_text("mine")
    with pytest.raises(InputError, match=r"'t\.csv' is there already: pass `resume=True` to go on with it, `overwrite"):
        score_to_file(paths, "t.csv", metric=lite)
    assert Path("t.csv").read_text() == "mine"
    score_to_file(paths, "t.csv", metric=lite, overwrite=True)
    assert len(list(read_rows("t.csv"))) == 5


@pytest.mark.parametrize(
    ("output", "arguments", "text"),
    [
        ("t.xlsx", {}, r"the output ends in one of \.csv, \.json"),
        ("gen.csv", {}, "is a folder; name a file"),
        ("t.csv", {"dimension": "overall"}, "dimension is one of quality; got 'overall'"),
        ("t.csv", {"extra_columns": ["seed", "quality"]}, "two columns 'quality'; rename one"),
        ("t.csv", {"references": "gen/0.png"}, "nr-lite takes none"),
        ("t.csv", {"batch_size": 0}, "batch_size is 1 or more"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_written(
    paths: list[str], lite: Metric, output: str, arguments: dict[str, object], text: str
) -> None:
    Path("gen.csv").mkdir()
    before = set(os.listdir())
    with pytest.raises(InputError, match=text):
        score_to_file(paths, output, metric=lite, **arguments)  # type: ignore[arg-type]
    assert set(os.listdir()) == before


def test_one_path_is_no_iterable_of_paths(lite: Metric, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="for one file pass"):
        score_to_file("a.png", tmp_path / "t.csv", metric=lite)


def test_strict_stops_and_what_was_written_stays(paths: list[str], lite: Metric) -> None:
    with pytest.raises(ImageError, match=r"gen/3\.png"):
        score_to_file(paths, "t.jsonl", metric=lite, strict=True)
    assert [row["image"] for row in read_table("t.jsonl").rows] == paths[:3]
    Path("gen/3.png").unlink()
    os.link("gen/2.png", "gen/3.png")
    assert score_to_file(paths, "t.jsonl", metric=lite, strict=True, resume=True).resumed == 3


def test_a_table_that_is_being_written_is_locked(paths: list[str], lite: Metric) -> None:
    with locked("t.csv"), pytest.raises(LockedError, match="is being written by another run"):
        score_to_file(paths, "t.csv", metric=lite)
    assert not Path("t.csv").exists()


def test_references_and_items(paths: list[str]) -> None:
    metric = aigciqa.create_metric("fr-lite")
    items = [
        Item(paths[0], group="a", extra={"seed": "7"}),
        Item(paths[1], reference=paths[2], group="b", extra={"prompt": "not asked for"}),
    ]
    arguments = {"metric": [metric, "nr-lite"], "references": [paths[4], paths[4]], "extra_columns": ["seed"]}
    score_to_file(items[:1], "t.csv", **(arguments | {"references": paths[4:]}))  # type: ignore[arg-type]
    done = score_to_file(items, "t.csv", resume=True, **arguments)  # type: ignore[arg-type]
    assert (done.rows, done.resumed) == (4, 2)
    rows = list(read_rows("t.csv"))
    assert [[row[name] for name in ("reference", "group", "metric", "seed")] for row in rows] == [  # type: ignore[index]
        [paths[4], "a", "fr-lite", "7"], [paths[4], "a", "nr-lite", "7"],
        [paths[2], "b", "fr-lite", ""], [paths[2], "b", "nr-lite", ""],
    ]  # fmt: skip


def test_paths_from_another_folder_are_other_images(paths: list[str], lite: Metric, tmp_path: Path) -> None:
    score_to_file(paths, tmp_path / "t.csv", metric=lite)
    score_to_file([os.path.abspath(path) for path in paths], tmp_path / "whole.csv", metric=lite)
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    with pytest.raises(InputError, match=r"folder was \., is elsewhere now"):
        score_to_file(paths, tmp_path / "t.csv", metric=lite, resume=True)
    whole = [str(tmp_path / path) for path in paths]
    assert score_to_file(whole, tmp_path / "whole.csv", metric=lite, resume=True).resumed == 5


def test_so_are_relative_paths_after_an_absolute_one(
    paths: list[str], lite: Metric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [os.path.abspath(paths[0]), paths[1]]
    score_to_file(images, tmp_path / "t.csv", metric=lite)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(InputError, match="folder was"):
        score_to_file(images, tmp_path / "t.csv", metric=lite, resume=True)


class TestOnesOwnDimension:
    @pytest.fixture(scope="class")
    def own(self, lite: Metric) -> Metric:
        """A metric that predicts `aesthetics`, from 1 to 10."""
        ranges = {"aesthetics": (1.0, 10.0)}
        metric = Metric(dataclasses.replace(lite.config, score_ranges=ranges))
        metric.load_state_dict(lite.state_dict())
        return metric

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_it_is_a_column_of_every_format_and_resumed(self, paths: list[str], own: Metric, suffix: str) -> None:
        output = f"t.{suffix}"
        with pytest.raises(KeyboardInterrupt):
            score_to_file(paths[:2], output, metric=own, on_record=stopping_after(1))
        assert score_to_file(paths[:2], output, metric=own, resume=True).resumed == 1
        assert json.loads(Path(f"{output}.meta.json").read_text())["dimensions"] == {"aesthetics": [1, 10]}
        table = read_table(output)
        assert table.dimensions == ("aesthetics",)
        scores = own.predict(paths[:2])["aesthetics"].tolist()
        assert [row["aesthetics"] for row in table.rows] == pytest.approx(scores, abs=2e-5)

    def test_it_stands_beside_those_of_the_paper(self, paths: list[str], lite: Metric, own: Metric) -> None:
        score_to_file(paths[:1], "t.csv", metric=[own, lite])
        table = read_table("t.csv")
        assert table.columns == columns_of(["quality", "aesthetics"])
        assert [[row[name] is None for name in table.dimensions] for row in table.rows] == [
            [True, False],
            [False, True],
        ]
        with pytest.raises(InputError, match="dimension is one of quality; got 'aesthetics'"):
            score_to_file(paths[:1], "t.csv", metric=[own, lite], dimension="aesthetics", overwrite=True)

    def test_it_is_a_column_of_parts(self, tmp_path: Path) -> None:
        columns = columns_of(["aesthetics"], ["seed"])
        record = Record("a.png", None, "g", "nr-mine", {"aesthetics": 7.5}, extra={"seed": "1"})
        parts = Parts(str(tmp_path / "t.parquet"), columns, {"format": 1})
        parts.begin(keep=False)
        parts.write(0, [to_row(record, columns)])
        (row,) = parts.read(0) or []
        assert to_record(row, columns) == record

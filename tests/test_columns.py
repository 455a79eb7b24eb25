"""Which columns of a table hold scores, and what the others do: nothing."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from aigciqa.cli import select
from aigciqa.evaluation import PrecomputedScores
from aigciqa.tables.column_table import read_columns
from aigciqa.tables.columns import dimensions_of
from aigciqa.tables.scores import read_table
from tests.test_compare import run

SEEDS = """image,reference,group,metric,seed,quality,error,prompt
a/1.png,,a,nr-lite,11,3.0,,a cat
a/2.png,,a,nr-lite,12,3.5,,"a cat, asleep"
b/1.png,,b,nr-lite,21,2.0,,a dog
b/2.png,,b,nr-lite,22,2.5,,a dog
"""
OWN = "image,group,aesthetics,seed\na/1.png,a,7,1\na/2.png,a,8,2\nb/1.png,b,6,3\nb/2.png,b,5,4\n"


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def selected(*arguments: str) -> list[str]:
    done = CliRunner().invoke(select.main, arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout.split()


def test_a_column_of_numbers_is_no_score(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", SEEDS)
    found = read_table(path)
    assert (found.dimensions, found.others) == (("quality",), ("seed", "prompt"))
    assert next(found.rows)["seed"] == "11"
    done = run(path, "--baseline", "a", "--fail-below", "0.95")
    assert done.exit_code == 1
    assert "seed" not in done.stdout
    assert "FAILED: nr-lite · quality: b is 0.692" in done.stdout
    assert selected(path, "--top", "1") == ["a/2.png"]


def test_other_columns_are_carried_into_a_selection(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", SEEDS)
    for suffix in (".csv", ".jsonl", ".parquet"):
        assert selected(path, "--top", "1", "-o", str(tmp_path / f"best{suffix}")) == []
        best = read_table(tmp_path / f"best{suffix}")
        (row,) = best.rows
        assert best.columns == ("image", "reference", "group", "metric", "quality", "error", "seed", "prompt", "rank")
        assert (row["image"], row["quality"], row["seed"], row["prompt"]) == ("a/2.png", 3.5, "12", "a cat, asleep")


def test_scores_of_ones_own_are_named_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", OWN)
    refused = run(path)
    assert refused.exit_code == 2
    assert "has no column of scores; it has: image, group, aesthetics, seed" in refused.stderr
    assert "a dimension of your own must be named" in refused.stderr
    assert "t · aesthetics" in run(path, "--dimension", "aesthetics").stdout
    assert selected(path, "--dimension", "aesthetics", "--top", "1") == ["a/2.png"]
    assert selected(path, "--min", "aesthetics=6.5") == ["a/1.png", "a/2.png"]
    assert run(path, "--dimension", "group").exit_code == 2


def test_or_declared_beside_the_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", OWN)
    write(tmp_path / "t.csv.meta.json", json.dumps({"format": 1, "dimensions": {"aesthetics": [1, 10]}}))
    assert read_table(path).dimensions == ("aesthetics",)
    assert "t · aesthetics" in run(path).stdout


@pytest.mark.parametrize("text", ["", "[1]", '{"dimensions": "aesthetics"}', "[" * 100_000])
def test_what_beside_the_table_declares_nothing_is_left_alone(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,quality,aesthetics\na.png,3,7\n")
    write(tmp_path / "t.csv.meta.json", text)
    assert read_table(path).dimensions == ("quality",)


@pytest.mark.usefixtures("own_metric")
def test_or_predicted_by_a_registered_metric(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", OWN)
    assert read_table(path).dimensions == ("aesthetics",)
    scores = PrecomputedScores.read(write(tmp_path / "mine.csv", "image,aesthetics,seed\n0.png,7,1\n"))
    assert (list(scores.metrics), scores.dimensions) == (["mine"], ("aesthetics",))


def test_a_metrics_own_dimensions_are_columns_too() -> None:
    class Mine:
        dimensions = ("aesthetics", "overall", "quality")

    assert dimensions_of([Mine()]) == ["quality", "overall", "aesthetics"]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("cell", "text"),
    [(1.0, "1.0"), (0.25, "0.25"), (datetime.date(2026, 1, 2), "2026-01-02"), (3, "3"), (" sd ", "sd"), ("  ", None),
     (float("nan"), None), (None, None)],
)  # fmt: skip
def test_a_group_is_text_whatever_its_type(cell: Any, text: str | None, tmp_path: Path) -> None:
    columns = {"image": ["a.png"], "group": [cell], "quality": [3.0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    (row,) = read_table(tmp_path / "t.parquet").rows
    assert (row["group"], row["error"]) == (text, None)


def test_decimal_numbers_of_parquet_are_numbers(tmp_path: Path) -> None:
    columns = {"image": ["a.png", "b.png"], "quality": [Decimal("3.50"), None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert [row["quality"] for row in read_table(tmp_path / "t.parquet").rows] == [3.5, None]
    numbers = read_columns(tmp_path / "t.parquet", ["image"]).numbers("quality")
    assert numbers == pytest.approx([3.5, float("nan")], nan_ok=True)


def test_cells_are_stripped(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,group,metric,quality\n a.png , sd, nr-lite , 3.5 \n")
    (row,) = read_table(path).rows
    assert [row[name] for name in ("image", "group", "metric", "quality")] == ["a.png", "sd", "nr-lite", 3.5]
    (tmp_path / " a.png ").touch()
    (row,) = read_table(path).rows
    assert row["image"] == " a.png "  # a file is called so


def test_scores_of_another_tool_are_stripped_and_have_one_column_of_a_name(tmp_path: Path) -> None:
    found = PrecomputedScores.read(write(tmp_path / "t.csv", " image , mine \n a.png , 3.5 \n"), columns=["mine"])
    assert [(row["image"], row["mine"]) for row in found.rows] == [("a.png", 3.5)]
    with pytest.raises(ValueError, match="has two columns 'image': rename one"):
        PrecomputedScores.read(write(tmp_path / "t.csv", "image,mine,image\na.png,1,b.png\n"))


def test_one_image_a_side_is_said_to_be_too_few(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "image,group,metric,quality\na/1.png,a,nr-lite,3\nb/1.png,b,nr-lite,2\n")
    done = run(path)
    assert done.exit_code == 0
    assert "nr-lite · quality: one score only of a, b: no interval, no test. Two images or more" in done.stdout
    assert "no two groups have 2 prompts or more in common" in done.stdout


def test_a_metric_whose_scores_are_all_equal_is_named(tmp_path: Path) -> None:
    rows = [f"{group}/{n}.png,{group},{metric},{score}" for group in "ab" for n in range(5)
            for metric, score in (("flat", 2.3), ("nr-lite", n / 3))]  # fmt: skip
    path = write(tmp_path / "t.csv", "\n".join(["image,group,metric,quality", *rows]))
    done = run(path)
    assert "flat · quality: all scores are equal (2.300): they say nothing of these images." in done.stdout
    assert "nr-lite · quality: all" not in done.stdout


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_a_selection_keeps_what_is_declared_beside_the_table(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", OWN)
    made_by = {"format": 1, "dimensions": {"aesthetics": [1, 10]}, "metrics": []}
    write(tmp_path / "t.csv.meta.json", json.dumps(made_by))
    best = tmp_path / f"best{suffix}"
    selected(path, "--top", "2", "-o", str(best))
    assert json.loads((tmp_path / f"{best.name}.meta.json").read_text()) == made_by
    assert selected(str(best), "--top", "1") == ["a/2.png"]


def test_a_selection_does_not_replace_what_is_told_of_another_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", SEEDS)
    write(tmp_path / "best.csv.meta.json", "mine")
    done = CliRunner().invoke(select.main, [path, "--top", "1", "-o", str(tmp_path / "best.csv")])
    assert (done.exit_code, "best.csv.meta.json is there already" in done.stderr) == (2, True)
    assert not (tmp_path / "best.csv").exists()
    assert (tmp_path / "best.csv.meta.json").read_text() == "mine"

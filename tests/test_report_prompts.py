"""The report's view prompts x generators: its rows, people's ratings, and what images are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from aigciqa.cli.compare import main as compare
from aigciqa.report import payload, write_report
from aigciqa.report.prompts import distinct_names
from aigciqa.stats.correlations import agreement
from aigciqa.tables.columns import columns_of
from aigciqa.tables.csv_text import csv_lines
from tests.test_report import COLUMNS, cells_of, data_of, row, rows_of

RATED = columns_of(["quality"], ["prompt", "quality_given"])


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def grid_of(page: Path) -> dict[str, Any] | None:
    grid: dict[str, Any] | None = data_of(page)["grid"]
    assert ('id="prompts"' in page.read_text()) == (grid is not None)
    return grid


def rated(count: int) -> list[dict[str, Any]]:
    """Rows of two generators, two images to a prompt, all rated."""
    rng = np.random.default_rng(0)
    return [
        {
            **row(f"{group}/{number}.png", float(rng.uniform(0, 5)), group=group, reference=f"p{number // 2}.png"),
            "prompt": f"a cat, {number // 2} years old",
            "quality_given": float(rng.integers(1, 6)),
        }
        for number in range(count)
        for group in ("flux", "sdxl")
    ]


def test_a_row_for_each_prompt(page: Path) -> None:
    rows = [
        row("flux/1-a.png", 3.0, group="flux", reference="prompts/1.png", prompt="a cat"),
        row("flux/1-b.png", 4.0, group="flux", reference="prompts/1.png", prompt="a cat"),
        row("flux/2.png", 2.0, group="flux", reference="prompts/2.png"),
        row("sdxl/2.png", 1.0, group="sdxl", reference="prompts/2.png"),
        row("sdxl/1.png", 5.0, group="sdxl", reference="prompts/1.png", prompt="a dog"),
        row("sdxl/3.png", 4.5, group="sdxl", reference="prompts/3.png"),
    ]
    write_report(page, rows, COLUMNS)
    assert grid_of(page) == {
        "row": [0, 0, 1, 1, 0, 2],
        "rows": [
            {"name": "1.png", "text": "a cat / a dog", "reference": 0},
            {"name": "2.png", "text": "", "reference": 1},
            {"name": "3.png", "text": "", "reference": 2},
        ],
    }
    data = data_of(page)
    assert dict(zip(data["groups"], data["columns"][0]["means"], strict=True)) == {"flux": 3.0, "sdxl": 3.5}


@pytest.mark.parametrize(
    "rows",
    [
        [row(f"{number}.png", 1.0, reference="p.png") for number in range(4)],  # one group
        [row(f"{group}/{group}.png", 1.0, group=group) for group in "ab"],
        [row(f"{group}/p.png", 1.0, group=group, reference="p.png") for group in "ab"],  # one prompt is no ground
        [row(f"{group}/p.png", None, group=group, reference="p.png") for group in "ab"],
    ],
)
def test_without_shared_prompts_there_is_no_such_view(page: Path, rows: list[dict[str, Any]]) -> None:
    write_report(page, rows, COLUMNS)
    assert grid_of(page) is None


@pytest.mark.parametrize("texts", [False, True])
def test_rows_are_matched_as_a_comparison_matches_them(tmp_path: Path, page: Path, texts: bool) -> None:
    scores = np.random.default_rng(0).uniform(0, 5, (2, 8))
    rows = [
        {
            **row(f"out/{group}/{'xy'[number % 2]}/{number + offset * texts}.png", float(score), group=group),
            "prompt": f"prompt {number}" if texts else None,
        }
        for offset, (group, line) in enumerate(zip(("flux", "sdxl"), scores, strict=True))
        for number, score in enumerate(line)
    ]
    write_report(page, rows, RATED[:-1])
    table, comparison = tmp_path / "scores.csv", tmp_path / "comparison.html"
    table.write_text(csv_lines(rows, RATED[:-1]))
    done = CliRunner().invoke(compare, [str(table), "--report", str(comparison)])
    assert done.exit_code == 0, done.output
    assert f"matched by their {'prompt' if texts else 'relative path'}: 8 prompts in common" in done.stdout
    found = grid_of(page)
    assert found == grid_of(comparison)
    assert found is not None
    assert found["row"] == [*range(8), *range(8)]
    assert found["rows"][1]["name" if not texts else "text"] == ("prompt 1" if texts else "1.png")
    assert cells_of(page, "Every pair")[1:] == cells_of(comparison, "Every pair")[1:]
    assert cells_of(page, "Every pair")[1][-1] == "8 prompts"


def test_of_a_very_large_run_whole_prompts_are_shown(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "GALLERY_LIMIT", 30)
    write_report(page, rows_of(200), COLUMNS)
    found = grid_of(page)
    assert found is not None
    assert len(found["rows"]) == 5
    assert sorted(number for number in found["row"] if number is not None) == sorted([*range(5), *range(5)])
    assert "The prompts were drawn at random" in page.read_text()


def test_agreement_with_people(page: Path) -> None:
    rows = rated(10)
    more = [{**each, "metric": "other", "quality": 1 - each["quality"]} for each in rows[:9]]
    write_report(page, [*rows, *more], RATED)
    prompts = [each["reference"] for each in rows]
    expected = agreement([each["quality"] for each in rows], [each["quality_given"] for each in rows], groups=prompts)
    figures = [f"{expected.srcc.value:.3f}", f"{expected.srcc.low:.3f} to {expected.srcc.high:.3f}"]
    assert cells_of(page, 'id="people"') == [
        ["Score", "Images rated", "SRCC", "95% interval"],
        ["nr-lite · quality", "20", *[each.replace("-", "−") for each in figures]],
        ["other · quality", "9", "fewer than 10 images: none is given"],
    ]
    assert [column["isPeople"] for column in data_of(page)["columns"]] == [False, True, False]
    write_report(page, rows_of(20), COLUMNS)
    assert 'id="people"' not in page.read_text()


def test_the_report_of_a_comparison_keeps_ratings_and_prompts(tmp_path: Path, page: Path) -> None:
    rows = rated(10)
    for group in ("flux", "sdxl"):
        table = tmp_path / f"{group}.csv"
        table.write_text(csv_lines([each for each in rows if each["group"] == group], RATED))
    done = CliRunner().invoke(compare, [str(tmp_path / "flux.csv"), str(tmp_path / "sdxl.csv"), "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert cells_of(page, 'id="people"')[1][:2] == ["nr-lite · quality", "20"]
    found = grid_of(page)
    assert found is not None
    assert found["rows"][4] == {"name": "p4.png", "text": "a cat, 4 years old", "reference": 4}


def test_images_of_one_name_are_told_apart() -> None:
    names = {
        "out/flux/p10.png": "flux/p10.png",
        "out/sdxl/p10.png": "out/sdxl/p10.png",
        "old/sdxl/p10.png": "old/sdxl/p10.png",
        "out/flux/p1.png": "p1.png",
        "p10.png": "p10.png",
        "C:\\out\\sd\\p10.png": "sd/p10.png",
        "s3://bucket/p2.png": "p2.png",
        "/": "/",
    }
    assert distinct_names([*names, "p10.png"]) == [*names.values(), "p10.png"]

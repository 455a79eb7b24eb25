"""The mean of scores and its interval: the same on the terminal, in the report and in a comparison."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aigciqa.report import write_report
from aigciqa.scoring.sinks import FileSink
from aigciqa.scoring.summary import Summary
from aigciqa.stats.correlations import agreement, srcc_interval
from aigciqa.stats.means import mean_interval, prompt_of
from aigciqa.tables.columns import columns_of
from aigciqa.tables.scores import read_table
from tests.conftest import call_command
from tests.test_compare import run
from tests.test_report import cells_of

COLUMNS = columns_of(["quality"], ["prompt"])
RNG = np.random.default_rng


def row(image: str, quality: float | None, **cells: Any) -> dict[str, Any]:
    """A row of a table of scores."""
    error = "torn" if quality is None else None
    blank = dict.fromkeys(COLUMNS)
    return {**blank, "image": image, "metric": "nr-lite", "quality": quality, "error": error, **cells}


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    scores = RNG(0).gamma(2, 1, 60)
    found = mean_interval(scores)
    expected = stats.bootstrap((scores,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found.value == scores.mean()
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.06 * (expected.high - expected.low))


def test_prompts_are_resampled_with_all_their_images() -> None:
    sizes = RNG(1).integers(1, 6, 40)
    prompts = np.repeat(np.arange(40), sizes)
    scores = np.repeat(RNG(2).normal(3, 1, 40), sizes) + RNG(3).normal(0, 0.2, sizes.sum())
    sums = np.bincount(prompts, scores)
    expected = stats.bootstrap(
        (sums, sizes), lambda s, n, axis: s.sum(axis) / n.sum(axis), n_resamples=20_000, method="percentile",
        paired=True, rng=1,
    ).confidence_interval  # fmt: skip
    found = mean_interval(scores, [f"prompt {number}" for number in prompts])
    assert found.value == pytest.approx(scores.mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.06 * (expected.high - expected.low))
    alone = mean_interval(scores)
    assert alone.high - alone.low < 0.7 * (found.high - found.low)


def test_order_and_names_of_prompts_make_no_difference() -> None:
    scores, prompts = RNG(0).normal(3, 1, 2000), np.arange(2000) // 3
    found = mean_interval(scores, prompts)
    order = RNG(1).permutation(2000)
    names = [str(7919 * number % 10007) for number in prompts[order]]
    again = mean_interval(scores[order], names)
    assert (again.value, again.low, again.high) == pytest.approx((found.value, found.low, found.high), rel=1e-12)


def test_images_in_order_of_their_score_are_dealt_out_at_random() -> None:
    scores = np.sort(RNG(0).normal(3, 1, 5000))
    found = mean_interval(scores)
    half = 1.96 * scores.std() / math.sqrt(len(scores))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


def test_the_interval_stays_inside_the_scale() -> None:
    found = mean_interval([0.0, 0.1, 4.9, 5.0, 5.0])
    assert 0 <= found.low < found.value < found.high <= 5
    assert mean_interval([2.5, 2.5, 2.5]) == mean_interval([2.5, 2.5])


@pytest.mark.parametrize(
    ("scores", "prompts"), [([4.0], None), ([4.0, 3.0], ["cat", "cat"]), ([], []), ([math.nan], None)]
)
def test_a_single_prompt_has_no_interval(scores: list[float], prompts: list[str] | None) -> None:
    found = mean_interval(scores, prompts)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_interval_of_one_correlation_is_that_among_all_figures() -> None:
    scores, mos = RNG(0).normal(3, 1, 50), RNG(1).normal(3, 1, 50)
    one, all_figures = srcc_interval(scores, mos), agreement(scores, mos)
    assert (one.value, one.low, one.high) == pytest.approx(astuple(all_figures.srcc), rel=1e-12)


def test_the_prompt_is_the_reference_else_the_given_one_else_the_image() -> None:
    assert prompt_of(row("a.png", 1, reference="p.png", prompt="a cat")) == "p.png"
    assert prompt_of(row("a.png", 1, prompt="a cat")) == "a cat"
    assert prompt_of(row("a.png", 1)) == "a.png"
    assert prompt_of({"image": "a.png", "reference": None}) == "a.png"


def test_the_summary_counts_rows_and_shows_means_with_their_intervals() -> None:
    summary = Summary({"quality": (0, 5), "authenticity": (-5, 5)})
    summary.add([row("a.png", 2.0, group="one", authenticity=None), row("b.png", 4.0, group="one", authenticity=None)])
    summary.add([row("c.png", 1.0, authenticity=-3.0), row("d.png", None), row("e.png", None, metric="fr-lite")])
    assert summary.failed == 2
    assert summary.lines()[0] == "quality: 0 to 5; authenticity: -5 to 5, higher is better"
    assert [re.split("  +", line) for line in summary.lines()[1:]] == [
        ["metric", "group", "n", "failed", "quality (95% CI)", "authenticity (95% CI)"],
        ["nr-lite", "one", "2", "0", "3.000 [2.000, 4.000]", "-"],
        ["nr-lite", "-", "1", "1", "1.000", "-3.000"],
        ["fr-lite", "-", "0", "1", "-", "-"],
    ]


def test_a_summary_of_very_many_rows_takes_a_few_bytes_of_each() -> None:
    summary = Summary({"quality": (0, 5)})
    tracemalloc.start()
    summary.add(row(f"{number}.png", float(number % 5)) for number in range(20_000))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 24 * 20_000


def test_terminal_report_and_comparison_give_the_same_interval(tmp_path: Path) -> None:
    by_reference = [row(f"a/{n}.png", RNG(n).uniform(0, 5), group="a", reference=f"p{n // 4}.png") for n in range(40)]
    by_prompt = [row(f"b/{n}.png", RNG(n).uniform(0, 3), group="b", prompt=f"cat {n // 5}") for n in range(40)]
    by_image = [row(f"c/{n}.png", RNG(n).uniform(1, 5), group="c") for n in range(40)]
    rows = [{**each, "quality": round(each["quality"], 4)} for each in [*by_reference, *by_prompt, *by_image]]

    summary = Summary({"quality": (0, 5)})
    summary.add(rows)
    terminal = {name: cell for _, name, _, _, cell in (re.split("  +", line) for line in summary.lines()[2:])}
    assert len(set(terminal.values())) == 3

    page = write_report(tmp_path / "report.html", rows, COLUMNS)
    cells = {line[0]: line for line in cells_of(page, 'id="summary"')[1:-1]}
    assert {name: f"{line[5]} [{line[6].replace(' to ', ', ')}]" for name, line in cells.items()} == terminal

    sink = FileSink(str(tmp_path / "scores.csv"), COLUMNS, {"format": 1})
    sink.start()
    sink.write(rows)
    sink.close()
    done = run(str(tmp_path / "scores.csv"), "--format", "json", "--report", str(tmp_path / "comparison.html"))
    (block,) = json.loads(done.stdout)["blocks"]
    assert {
        each["name"]: f"{each['mean']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" for each in block["standings"]
    } == terminal
    cells = {line[0]: line for line in cells_of(tmp_path / "comparison.html", 'id="summary"')[1:-1]}
    assert {name: f"{line[5]} [{line[6].replace(' to ', ', ')}]" for name, line in cells.items()} == terminal


def test_the_command_takes_the_prompts_of_a_manifest(write_images: Callable[..., list[str]], tmp_path: Path) -> None:
    write_images("gen", *(f"{number}.png" for number in range(5)), size=(64, 64))
    lines = [f"gen/{number}.png,a {'cat' if number < 2 else 'dog'}" for number in range(5)]
    (tmp_path / "images.csv").write_text("\n".join(["image,prompt", *lines]))
    done = call_command("images.csv", "-o", "scores.csv", "--report", "report.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [each["quality"] for each in read_table(tmp_path / "scores.csv").rows]
    expected = mean_interval(scores, ["cat"] * 2 + ["dog"] * 3)
    assert str(mean_interval(scores)) != str(expected)
    assert str(expected) in done.stderr
    (cells,) = cells_of(tmp_path / "report.html", 'id="summary"')[1:]
    assert f"{cells[4]} [{cells[5].replace(' to ', ', ')}]" == str(expected)

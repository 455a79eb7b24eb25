"""The report: what is in the file, how it is written, and `aigciqa score --report` as a real process."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import signal
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aigciqa.errors import MissingExtraError
from aigciqa.images.colour_maps import colour_map
from aigciqa.report import Report, payload, sections, thumbnails, write_report
from aigciqa.report.collection import FAILURE_LIMIT, MAP_SIDE, SmallMap
from aigciqa.stats.groups import Scores, differences, summaries
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.tables.columns import columns_of
from aigciqa.tables.provenance import MetricFacts
from tests.conftest import Watch, call_command, draw

Write = Callable[..., list[str]]
COLUMNS = columns_of(["quality", "authenticity"])
HOSTILE = [
    "<script>alert(1)</script>.png",
    "</script><img src=x onerror=alert(1)>.png",
    "<!-- \" ' & {{ 7*7 }} .png",
    "new\nline\tand\\.png",
    "\u202egnp.exe\u2066.png",
    "caf\udce9.png",
    "x" * 300 + ".png",
    "\u2028\u0000é漢🙂.png",
]


def row(image: str, quality: float | None = None, **cells: Any) -> dict[str, Any]:
    """A row of a table of scores."""
    blank = dict.fromkeys(COLUMNS)
    error = None if quality is not None else f"{image}: broken"
    return {**blank, "image": image, "metric": "nr-lite", "quality": quality, "error": error, **cells}


def rows_of(count: int, groups: int = 2) -> list[dict[str, Any]]:
    """Rows of images that are not there, from several generators with the same prompts."""
    scores = np.random.default_rng(0).normal(2, 0.5, count)
    return [
        row(f"g{i % groups}/{i}.png", float(score) + i % groups, group=f"g{i % groups}", reference=f"p{i // groups}")
        for i, score in enumerate(scores)
    ]


def data_of(page: Path) -> dict[str, Any]:
    """What the page's script reads."""
    found: dict[str, Any] = json.loads(_script(page, "data"))
    return found


def thumbnails_of(page: Path) -> list[str]:
    return _script(page, "thumbnails").split("\n")


def _script(page: Path, name: str) -> str:
    match = re.search(f'<script type="[a-z/]+" id="{name}">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def cells_of(page: Path, start: str) -> list[list[str]]:
    """The text of the rows of the first table after some text."""
    text = page.read_text("utf-8").split(start, 1)[1].split("</table>", 1)[0]
    cells = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", part, re.DOTALL) for part in text.split("<tr")[1:]]
    return [[re.sub("<.*?>", "", cell).strip() for cell in line] for line in cells]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def test_summary_and_leaderboard_are_the_comparison(page: Path) -> None:
    rows = [*rows_of(40), row("g1/bad.png", group="g1")]
    write_report(page, rows, COLUMNS)
    groups = {
        name: Scores(
            np.array([each["quality"] for each in rows[:-1] if each["group"] == name]),
            tuple(each["reference"] for each in rows[:-1] if each["group"] == name),
        )
        for name in ("g0", "g1")
    }
    table = cells_of(page, 'id="summary"')
    assert table[0] == ["Group", "Metric", "Dimension", "n", "Failed", "Mean", "95% interval", "Median", "Worst"]
    for summary, failed in zip(sorted(summaries(groups), key=lambda each: each.name), ("0", "1"), strict=True):
        figures = [f"{summary.mean:.3f}", f"{summary.low:.3f} to {summary.high:.3f}", f"{summary.median:.3f}"]
        line = [summary.name, "nr-lite", "quality", "20", failed, *figures, f"{summary.worst:.3f}"]
        assert line in table
    assert ["all images", "nr-lite", "quality", "40", "1"] in [line[:5] for line in table]
    assert [line[:2] for line in cells_of(page, 'class="ranks"')[1:]] == [["g1", "1"], ["g0", "2"]]
    (found,) = differences({"g1": groups["g1"], "g0": groups["g0"]})
    assert found.matched
    assert found.is_significant
    assert leaders_of(page) == "g1 is significantly better than each of the others."
    assert cells_of(page, 'class="matrix"')[1:] == [
        ["g1", "·", f"{found.difference:+.3f}*"],
        ["g0", f"{-found.difference:+.3f}*".replace("-", "−"), "·"],
    ]
    assert cells_of(page, "Every pair")[1][-1] == "20 prompts"
    assert cells_of(page, 'id="failures"')[1:] == [["g1/bad.png", "g1", "nr-lite", "g1/bad.png: broken"]]


def test_a_group_without_scores_has_no_rank(page: Path) -> None:
    write_report(page, [*rows_of(4), row("bad.png")], COLUMNS)
    assert [line[:2] for line in cells_of(page, 'class="ranks"')[1:]] == [["g1", "1"], ["g0", "2"], ["no group", "n/a"]]


def leaders_of(page: Path) -> str:
    """What is said below the leaderboard of who leads; empty if nothing is."""
    below = page.read_text("utf-8").split("Bars run from", 1)[1].split("<h3>")[0].split("<p", 2)[1:]
    return re.sub("<.*?>", "", below[0].split(">", 1)[1]).strip() if below else ""


def test_a_leader_is_named_only_if_it_is_proved(page: Path) -> None:
    first, second = np.arange(8) + 0.01 * np.arange(8) ** 2, np.arange(8.0)
    scores = {"a": [*first, 90, 90, 90, 90], "b": list(first + 1), "c": list(second)}  # a: by prompts of its own
    rows = [
        row(f"{group}/{i}.png", value, group=group, reference=f"p{i}")
        for group, values in scores.items()
        for i, value in enumerate(values)
    ]
    write_report(page, rows, COLUMNS)
    assert cells_of(page, 'class="ranks"')[1][0] == "a"
    assert leaders_of(page) == "b is significantly better than each of the others."
    write_report(page, [*rows, row("d.png", group="d")], COLUMNS)
    assert leaders_of(page) == "b is significantly better than each of the others that are compared."
    write_report(page, [*rows, row("d.png", 5.0, group="d")], COLUMNS)
    assert leaders_of(page) == "No group is significantly better than each of the others."
    write_report(page, rows, COLUMNS, baseline="a")
    assert leaders_of(page) == ""
    write_report(page, rows, COLUMNS, findings=["b is best."])
    assert leaders_of(page) == ""


def test_data_of_the_gallery_and_the_charts(page: Path) -> None:
    rows = [
        row("a.png", 1.0, group="x", reference="p.png", authenticity=3.0),
        row("a.png", 2.0, group="x", reference="p.png", metric="fr-lite"),
        row("b.png", 4.0),
        row("c.png", None, metric="fr-lite"),
        row("b.png", 5.0),
    ]
    write_report(page, rows, COLUMNS, title="Five & more")
    data = data_of(page)
    assert data["images"] == ["a.png", "b.png", "b.png"]  # the second b.png is a row of its own
    assert [(each["label"], each["values"]) for each in data["columns"]] == [
        ("nr-lite · quality", [1.0, 4.0, 5.0]),
        ("nr-lite · authenticity", [3.0, None, None]),
        ("fr-lite · quality", [2.0, None, None]),
    ]
    assert [data["groups"][index] for index in data["group"]] == ["x", "", ""]
    assert (data["reference"], data["references"]) == ([0, None, None], ["p.png"])
    assert data["maps"] == {}
    assert "<title>Five &amp; more</title>" in page.read_text()
    assert thumbnails_of(page) == [""] * 4  # none of the files is there


def test_ratings_by_people_are_a_column_beside_the_scores(page: Path) -> None:
    columns = columns_of(["quality"], ["quality_given"])
    given = {"a.png": "4.5", "b.png": None, "c.png": "2"}
    rows = [
        {**row(image, 3.0), "metric": metric, "quality_given": rating}
        for image, rating in given.items()
        for metric in ("nr-lite", "other")
    ]
    write_report(page, rows, columns)
    values = {column["label"]: column["values"] for column in data_of(page)["columns"]}
    assert values == {
        "nr-lite · quality": [3.0, 3.0, 3.0],
        "people · quality": [4.5, None, 2.0],
        "other · quality": [3.0, 3.0, 3.0],
    }


def test_people_have_none_of_the_metrics_uncertainty(page: Path) -> None:
    columns = columns_of(["quality", "quality_std"], ["quality_given"])
    write_report(page, [{**row("a.png", 3.0), "quality_std": 0.4, "quality_given": "4.5"}], columns)
    std = {column["label"]: column["std"] for column in data_of(page)["columns"]}
    assert std == {"nr-lite · quality": [0.4], "people · quality": None}


def test_distribution_is_percentiles_of_every_group(page: Path) -> None:
    rows = [row(f"{name}{value}.png", value / 10, group=name) for name in ("a", "b") for value in range(41)]
    rows += [row(f"b{value}.png", value / 10, group="b") for value in range(41, 51)]
    write_report(page, [*rows, row("c.png", group="c")], COLUMNS)
    assert cells_of(page, 'class="spread"')[1:] == [
        ["b", "", "2.500", "1.250 to 3.750", "0.250 to 4.750"],
        ["a", "", "2.000", "1.000 to 3.000", "0.200 to 3.800"],
        ["all images", "", "2.250", "1.100 to 3.400", "0.200 to 4.545"],
    ]
    text = page.read_text()
    assert "on a scale of 0 to 5" in text
    strip = text.split('<div class="strip" data-group="1"', 1)[1].split("</div>", 1)[0]
    # An axis from -0.1 to 5.1: the median of `b` is in the middle, its box from (1.25 + 0.1) / 5.2.
    assert '<u style="left:50.00%">' in strip
    assert '<b style="left:25.96%;right:25.96%">' in strip


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 5, [0, 1, 2, 3, 4, 5]), (3.31, 3.52, [3.35, 3.4, 3.45, 3.5]), (-40, 900, [0, 200, 400, 600, 800]), (2, 2, 0)],
)
def test_an_axis_has_round_ticks(low: float, high: float, ticks: Any) -> None:
    axis = sections.Axis.over(low, high)
    assert axis.low < low <= high < axis.high
    assert axis.ticks == pytest.approx(ticks if ticks else [1.6, 1.8, 2.0, 2.2, 2.4])
    assert axis.share(axis.low) == 0
    assert axis.share(axis.high) == pytest.approx(100)


def test_what_is_known_of_a_metric_is_said(page: Path, tmp_path: Path) -> None:
    columns = columns_of(["quality", "quality_std"])
    rows = [row("a.png", 4.1, quality_std=0.3), row("b.png", 2.0, quality_std=None)]
    write_report(page, rows, columns, maps=[np.ones((2, 2))] * 2)
    (column,) = data_of(page)["columns"]
    assert (column["label"], column["values"], column["std"]) == ("nr-lite · quality", [4.1, 2.0], [0.3, None])
    assert "Scores are on a scale of 0 to 5: higher is better." in page.read_text()
    assert "sees the centre square of an image only" not in page.read_text()
    known = ReferenceSet.of("photographs", {"quality": [1, 2, 3, 4]}, {"quality": (0, 5)})
    facts = {"nr-lite": MetricFacts({"quality": (1, 7)}, seen=320 / 480, reference_sets=(known,))}
    write_report(page, rows, columns, maps=[np.ones((2, 2))] * 2, metrics=facts)
    assert "Scores are on a scale of 1 to 7: higher" in page.read_text()
    assert "nr-lite sees the centre square of an image only: 67% of its short side" in page.read_text()
    assert data_of(page)["maps"]["nr-lite"]["crop"] == 320 / 480
    assert data_of(page)["columns"][0]["percentiles"] == [{"of": "4 photographs", "values": [100, 38]}]
    assert "lie beyond it" not in page.read_text()
    strange = [row("a.png", 4.1, metric="mine"), row("b.png", 5.2)]
    write_report(page, strange, columns)
    assert "Higher scores are better. nr-lite · quality is on a scale of 0 to 5." in page.read_text()
    assert "Some of nr-lite · quality lie beyond it." in page.read_text()
    # In a table, a column of that name is people's if their ratings are there, too.
    given = columns_of(["quality"], ["quality_std", "quality_given"])
    write_report(page, [{**each, "quality_given": "3"} for each in rows], given)
    assert [each["std"] for each in data_of(page)["columns"]] == [None, None]
    write_report(page, [{**rows[0], "quality_std": "0.25"}], columns_of(["quality"], ["quality_std"]))
    assert data_of(page)["columns"][0]["std"] == [0.25]


def test_links_lead_from_the_page_to_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = write_report("out/deep/r.html", [row("gen/a #1?.png", 1.0), row(str(tmp_path / "b%.png"), 2.0)], COLUMNS)
    assert data_of(page)["links"] == ["../../gen/a%20%231%3F.png", "../../b%25.png"]
    remote = write_report("r.html", [row("s3://bucket/a.png", 1.0)], COLUMNS)
    assert data_of(remote)["links"] == [None]


def test_hostile_names_are_text(page: Path) -> None:
    rows = [row(name, 1.0 + index, group=name, reference=name) for index, name in enumerate(HOSTILE)]
    rows += [row(name, None, group=name, error=f"{name}: broken") for name in HOSTILE]
    write_report(page, rows, COLUMNS, title=HOSTILE[0])
    assert data_of(page)["images"] == data_of(page)["groups"] == HOSTILE
    text = page.read_text("utf-8")
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "{{ 7*7 }}" in text
    assert text.count("<script") == text.count("</script>") == 3
    assert "caf\\udce9.png" in text


def test_thumbnails(write_images: Write, page: Path, tmp_path: Path) -> None:
    images = write_images("gen", "a.jpg", "b.png", size=(300, 600))
    (reference,) = write_images("ref", "p.png")
    turned = Image.fromarray(draw(300, 600))
    exif = turned.getexif()
    exif[0x0112] = 6  # the image lies on its side
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(bomb)
    more = [str(tmp_path / name) for name in ("turned.jpg", "clear.png", "broken.png", "bomb.png")]
    write_report(page, [row(image, 1.0, reference=reference) for image in [*images, *more]], COLUMNS)
    found = [Image.open(io.BytesIO(base64.b64decode(each))) if each else None for each in thumbnails_of(page)]
    assert [each and each.size for each in found] == [
        (256, 128),
        (256, 128),
        (128, 256),
        (10, 10),
        None,
        None,
        (80, 70),
    ]
    assert found[3] is not None
    assert np.asarray(found[3].convert("L")).min() > 250
    assert not (tmp_path / "report_files").exists()


def test_many_thumbnails_go_to_a_folder(
    write_images: Write, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "INLINE_BYTES", 4000)
    images = write_images("gen", *(f"{number}.jpg" for number in range(6)))
    rows = [row(image, 1.0) for image in [*images[:3], "missing.png", *images[3:]]]
    write_report(page, rows, COLUMNS)
    folder = tmp_path / "report_files"
    listed = thumbnails_of(page)
    assert [bool(each) for each in listed] == [True] * 3 + [False] + [True] * 3
    assert all((tmp_path / each).is_file() for each in listed if each)
    (folder / "mine.txt").write_text("keep")
    write_report(page, rows[:5], COLUMNS)
    assert all((tmp_path / each).is_file() for each in thumbnails_of(page) if each)
    assert not any((tmp_path / each).exists() for each in listed if each)
    monkeypatch.undo()
    write_report(page, rows, COLUMNS)
    assert data_of(page)["inline"]
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_the_gallery_of_a_very_large_run_is_a_part(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "GALLERY_LIMIT", 30)
    rows = rows_of(200)
    write_report(page, rows, COLUMNS)
    data = data_of(page)
    ordered = sorted(rows, key=lambda each: each["quality"])
    assert 20 <= len(data["images"]) <= 30
    assert {each["image"] for each in [*ordered[:10], *ordered[-10:]]} <= set(data["images"])
    assert len(data["sample"]) == 10
    assert f"{len(data['images'])} of 200 images are here" in page.read_text()
    assert "10 images drawn at random" in page.read_text()
    assert ["all images", "200"] in [[line[0], line[3]] for line in cells_of(page, 'id="summary"')]


def test_many_groups_and_failures_are_cut_off(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "GROUP_LIMIT", 20)
    rows = [row(f"{number}.png", 1.0 + number % 3, group=f"group {number % 50}") for number in range(100)]
    rows += [row(f"bad{number}.png") for number in range(FAILURE_LIMIT + 5)]
    write_report(page, rows, COLUMNS)
    assert "<dt>Groups</dt><dd>51</dd>" in page.read_text()
    assert "The 20 largest groups are listed" in page.read_text()
    assert f"The best {sections.PAIRED_LIMIT} groups." in page.read_text()
    table = cells_of(page, 'id="summary"')
    assert len(table) == 1 + 20 + 1
    assert table[-1][:5] == ["all images", "nr-lite", "quality", "100", "1,005"]
    assert len(cells_of(page, 'class="spread"')) == 1 + 20 + 1
    assert len(cells_of(page, 'class="matrix"')) == 1 + sections.PAIRED_LIMIT
    assert len(cells_of(page, 'id="failures"')) == 1 + FAILURE_LIMIT
    assert "The first 1,000 of 1,005." in page.read_text()


def test_as_many_groups_as_are_listed_are_not_cut_off(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = sections.PAIRED_LIMIT
    monkeypatch.setattr(sections, "GROUP_LIMIT", count)
    write_report(page, rows_of(2 * count, count), COLUMNS)
    assert f"<dt>Groups</dt><dd>{count}</dd>" in page.read_text()
    assert "largest groups are listed" not in page.read_text()
    assert "The best" not in page.read_text()


def test_a_baseline_is_compared_with_all_groups(page: Path) -> None:
    count = sections.PAIRED_LIMIT + 3
    write_report(page, rows_of(4 * count, count), COLUMNS, baseline="g1")
    matrix = cells_of(page, 'class="matrix"')
    assert matrix[0] == ["", "g1"]
    assert {line[0] for line in matrix[1:]} == {f"g{number}" for number in range(count)} - {"g1"}
    assert {line[1] for line in cells_of(page, "Every pair")[1:]} == {"g1"}
    assert len(cells_of(page, "Every pair")) == count
    write_report(page, [*rows_of(8), row("bad.png", group="base")], COLUMNS, baseline="base")
    assert 'class="matrix"' not in page.read_text()


def test_what_is_not_finite_was_not_scored(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "GALLERY_LIMIT", 2)
    odd = [row("a.png", math.inf), row("b.png", math.nan), row("c.png", -math.inf)]
    write_report(page, odd, COLUMNS)
    assert "No image could be scored." in page.read_text()
    assert data_of(page)["columns"] == []
    write_report(page, [*odd, row("d.png", 2.5)], COLUMNS, maps=[np.full((2, 2), math.nan)] * 4)
    assert data_of(page)["columns"][0]["values"][-1] == 2.5
    assert "Infinity" not in _script(page, "data")


def test_a_report_without_scores_or_groups(page: Path) -> None:
    write_report(page, [row("a.png")], COLUMNS)
    assert "No image could be scored." in page.read_text()
    assert cells_of(page, 'id="failures"')[1:] == [["a.png", "nr-lite", "a.png: broken"]]
    write_report(page, [row("a.png", 1.5)], COLUMNS)
    assert 'id="leaderboard"' not in page.read_text()
    assert cells_of(page, 'id="summary"')[1:] == [["nr-lite", "quality", "1", "0", "1.500", "n/a", "1.500", "1.500"]]


def test_maps_say_how_far_their_cells_lie_below_the_score(page: Path) -> None:
    maps = [np.array([[2.0, 1.0, -0.7], [3.0, 5.6, 1.1]]), None, np.full((1, 2), 3.0)]
    rows = [row("a.png", 2.0), row("b.png", 2.0), row("c.png", 3.0), row("a.png", 1.0, metric="nr-resnet18")]
    write_report(page, rows, COLUMNS, maps=[*maps, np.ones((7, 7))])
    found = data_of(page)["maps"]
    lite = found["nr-lite"]
    assert (lite["low"], lite["high"]) == (0, 5)  # the scale, whatever the maps say
    assert lite["shapes"] == {"0": [2, 3], "2": [1, 2]}
    assert lite["scores"] == {"0": 2.0, "2": 3.0}
    assert lite["crop"] is None
    assert found["nr-resnet18"]["crop"] == 224 / 256
    levels = np.frombuffer(base64.b64decode(lite["levels"]["0"]), np.uint8)
    np.testing.assert_allclose(levels, [0, 51, 102, 0, 0, 46], atol=2)  # 255 is the whole scale
    assert not any(base64.b64decode(lite["levels"]["2"]))
    palette = np.frombuffer(base64.b64decode(data_of(page)["palette"]), np.uint8).reshape(256, 4)
    assert (palette == colour_map(np.linspace(5, 0, 256)[None], 5, 0, 5)[0]).all()


def test_maps_of_an_unknown_metric_span_what_they_hold(page: Path) -> None:
    write_report(page, [row("a.png", 40.0, metric="mine")], COLUMNS, maps=[np.array([[10.0, 70.0]])])
    mine = data_of(page)["maps"]["mine"]
    assert (mine["low"], mine["high"]) == (10, pytest.approx(70, abs=1e-3))


def test_maps_are_of_the_metrics_first_dimension(page: Path) -> None:
    rows = [row("a.png", 4.0, authenticity=2.0)]
    facts = MetricFacts({"authenticity": (1, 3), "quality": (0, 5)})
    write_report(page, rows, COLUMNS, maps=[np.full((1, 2), 2.0)], metrics={"nr-lite": facts})
    found = data_of(page)["maps"]["nr-lite"]
    assert (found["low"], found["high"], found["scores"]) == (1, 3, {"0": 2.0})
    assert not any(base64.b64decode(found["levels"]["0"]))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_map_without_a_score_is_not_shown(page: Path, score: float) -> None:
    odd = row("a.png", score)
    write_report(page, [odd], COLUMNS, maps=[np.ones((1, 2))])
    assert data_of(page)["maps"] == {}
    write_report(page, [odd, row("b.png", 2.0)], COLUMNS, maps=[np.ones((1, 2))] * 2)
    assert data_of(page)["maps"]["nr-lite"]["scores"] == {"1": 2.0}


def test_large_maps_are_averaged() -> None:
    quality_map = np.random.default_rng(0).normal(size=(3 * MAP_SIDE, 5))
    small = SmallMap.of(quality_map)
    assert small.shape == (MAP_SIDE, 5)
    np.testing.assert_allclose(small.scores(), quality_map.reshape(MAP_SIDE, 3, 5).mean(axis=1), atol=0.02)
    assert small.scores().mean() == pytest.approx(quality_map.mean(), abs=0.01)


def test_a_row_takes_less_than_a_kilobyte() -> None:
    report = Report("report.html", COLUMNS)
    quality_map = np.ones((4, 4))
    tracemalloc.start()
    for number in range(5000):
        report.add(row(f"outputs/{number:06}.png", float(number), group="x", reference=f"{number}.png"), quality_map)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1000 * 5000


def test_a_failure_leaves_the_earlier_report_whole(
    write_images: Write, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    monkeypatch.setattr(thumbnails, "INLINE_BYTES", 1000)
    rows = [row(image, 1.0) for image in write_images("gen", "a.jpg", "b.jpg")]
    write_report(page, rows, COLUMNS)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    watch(os, "replace", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_report(page, rows, COLUMNS)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(list((tmp_path / "report_files").iterdir())) == 1


@pytest.mark.parametrize(("module", "package"), [("jinja2", "jinja2"), ("bokeh.util.paths", "bokeh")])
def test_a_missing_extra_says_what_to_install(
    page: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"a report needs {package}: pip install 'aigciqa\[report\]'"):
        Report(page, COLUMNS)


def test_targets(tmp_path: Path) -> None:
    for name in ("report.pdf", "report.htm"):
        with pytest.raises(ValueError, match=r"a report ends in \.html"):
            Report(tmp_path / name, COLUMNS)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        Report(tmp_path / "folder.html", COLUMNS)


def test_the_command_writes_a_report(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", "x/a.jpg", "x/b.jpg", "y/a.jpg", "y/b.jpg")
    write_images("ref", "a.jpg", "b.jpg")
    (tmp_path / "gen" / "y" / "bad.jpg").write_bytes(b"")
    arguments = [
        "gen/x",
        "gen/y",
        "-r",
        "ref",
        "-m",
        "fr-lite",
        "-m",
        "nr-lite",
        "--group-by",
        "parent",
        "-o",
        "scores.csv",
    ]
    done = call_command(*arguments, "--report", "out/report.html", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "report in out/report.html" in done.stderr
    page = tmp_path / "out" / "report.html"
    data = data_of(page)
    assert data["images"] == ["gen/x/a.jpg", "gen/x/b.jpg", "gen/y/a.jpg", "gen/y/b.jpg"]
    assert data["links"][0] == "../gen/x/a.jpg"
    assert all(len(each["levels"]) == 4 for each in data["maps"].values())
    assert set(data["maps"]) == {"fr-lite", "nr-lite"}
    assert "gen/y/bad.jpg: the file is empty" in page.read_text()
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 10

    partial = (tmp_path / "scores.csv").read_text().splitlines(keepends=True)[:5]
    (tmp_path / "scores.csv").write_text("".join(partial))
    done = call_command(*arguments, "--resume", "--report", "again.html", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    again = data_of(tmp_path / "again.html")
    assert again["images"] == data["images"]
    assert [each["values"] for each in again["columns"]] == [each["values"] for each in data["columns"]]
    assert list(again["maps"]["fr-lite"]["levels"]) == ["2", "3"]  # the first two were scored before


def test_scores_outlive_a_report_that_fails(write_images: Write, tmp_path: Path) -> None:
    write_images("gen", "a.jpg")
    (tmp_path / "file").write_text("not a folder")
    done = call_command("gen", "-o", "scores.json", "--report", "file/report.html", cwd=tmp_path)
    assert done.returncode == 1
    assert "no report, but all scores have been written" in done.stderr
    assert [each["image"] for each in json.loads((tmp_path / "scores.json").read_text())] == ["gen/a.jpg"]
    refused = call_command("gen", "-o", "others.json", "--report", "report.txt", cwd=tmp_path)
    assert refused.returncode == 2
    assert "a report ends in .html" in refused.stderr


def test_an_interrupted_run_leaves_no_report(
    write_images: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    (image,) = write_images("gen", "a.jpg")
    monkeypatch.chdir(tmp_path)
    watch(Report, "add", lambda *_: signal.raise_signal(signal.SIGTERM))
    done = call_command(image, "-o", "scores.csv", "--report", "report.html")
    assert done.returncode == 143, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gen", "scores.csv", "scores.csv.meta.json"]

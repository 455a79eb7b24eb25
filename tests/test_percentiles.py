"""Where scores stand among those of images that are known: reference sets in checkpoints, tables and reports."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from playwright.sync_api import expect
from scipy.stats import percentileofscore

import aigciqa
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.cli.main import main
from aigciqa.errors import CheckpointError, InputError
from aigciqa.registry import METRICS
from aigciqa.report import write_report
from aigciqa.stats.reference_sets import QUANTILES, ReferenceSet
from aigciqa.tables.columns import columns_of
from aigciqa.tables.formats import read_rows
from aigciqa.tables.provenance import MetricFacts
from aigciqa.tables.scores import read_table
from aigciqa.training.lite import cards
from aigciqa.training.lite.known_images import reference_sets
from aigciqa.training.lite.photos import Photo
from tests.browser import Open, chromium, open_page  # noqa: F401
from tests.conftest import draw

RANGES = {"quality": (0.0, 5.0)}
COLUMNS = columns_of(["quality"])
#: Where the weights in the package know reference sets.
KNOWING = [("nr-lite", "default"), ("nr-lite", "native"), ("nr-efficientnet-lite2", "default")]


def known(scores: Any, name: str = "photographs") -> ReferenceSet:
    return ReferenceSet.of(name, {"quality": scores}, RANGES)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="aigciqa")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{seed}.png") for seed in range(3)]
    for seed, path in enumerate(paths):
        Image.fromarray(draw(80, 96, seed)).save(path)
    return paths


# The numbers


def test_percentiles_are_mid_ranks() -> None:
    rng = np.random.default_rng(0)
    scores, asked = rng.beta(4, 2, 400) * 5, rng.uniform(0, 5, 50)
    expected = [percentileofscore(scores, each, kind="mean") for each in asked]
    np.testing.assert_allclose(known(scores).percentiles("quality", asked), expected, atol=0.6)


def test_percentiles_by_hand() -> None:
    four = known([4.0, 1.0, 3.0, 2.0])
    assert len(four.quantiles["quality"]) == QUANTILES
    assert four.percentiles("quality", [0.5, 2.0, 2.5, 3.0, 4.5]).tolist() == [0, 37.5, 50, 62.5, 100]
    assert known([2.0] * 9).percentiles("quality", [1.9, 2.0, 2.1]).tolist() == [0, 50, 100]
    assert known([2.0, 2.0, 2.0, 4.0]).percentiles("quality", 2.0) == pytest.approx(37.5, abs=7)
    assert np.isnan(four.percentiles("quality", [np.nan])).all()
    assert known([1.0]).label == "1 photographs"
    assert known(np.ones(1600), "pictures").label == "1,600 pictures"


def test_quantiles_are_rounded_to_what_the_range_is_worth() -> None:
    scores = [1 / 3, 2 / 3, 1.0]
    assert known(scores).quantiles["quality"][0] == 0.333
    wide = ReferenceSet.of("photographs", {"quality": scores}, {"quality": (0, 100)})
    assert wide.quantiles["quality"][0] == 0.3
    moved = known(np.array(scores) + 2e-5)
    assert moved == known(scores)


# In a checkpoint


def test_a_config_keeps_them() -> None:
    config = MetricConfig.from_spec(METRICS["nr-lite"])
    assert "reference_sets" not in config.to_dict()
    config = dataclasses.replace(config, reference_sets=(known([1, 2, 3]), known([2, 3], "AI-generated images")))
    assert MetricConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.reference_set().name == "photographs"
    assert config.percentiles([[2.0], [9.0]]).tolist() == [[50.0], [100.0]]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("photographs", "a list"),
        (["photographs"], "no reference set"),
        ([{"name": "photographs", "n": 3}], "no reference set"),
        ([{"name": "photographs", "n": 0, "quantiles": {"quality": [1, 2]}}], "a number of images"),
        ([{"name": "\x1b[2J", "n": 3, "quantiles": {"quality": [1, 2]}}], "a name"),
        ([{"name": "photographs", "n": 3, "quantiles": {"quality": [2, 1]}}], "ascending"),
        ([{"name": "photographs", "n": 3, "quantiles": {"quality": [1]}}], "2 to 1001"),
        ([{"name": "photographs", "n": 3, "quantiles": {"quality": [1, float("nan")]}}], "ascending"),
        ([{"name": "photographs", "n": 3, "quantiles": {"beauty": [1, 2]}}], "every dimension"),
    ],
)
def test_what_is_no_reference_set_is_refused(wrong: Any, said: str) -> None:
    config = MetricConfig.from_spec(METRICS["nr-lite"]).to_dict() | {"reference_sets": wrong}
    with pytest.raises(CheckpointError, match=rf"reference_sets.*{said}"):
        MetricConfig.from_dict(config)


@pytest.mark.parametrize(("name", "weights"), KNOWING)
def test_the_weights_in_the_package_know_two_sets(name: str, weights: str, images: list[str]) -> None:
    metric = aigciqa.create_metric(name, weights=weights)
    generated, photographs = metric.config.reference_sets
    assert (generated.n, photographs.n) == (160, 34)
    found = metric.predict(images, percentiles=True)
    assert list(found) == ["quality", "quality_percentile"]
    expected = generated.percentiles("quality", found["quality"].numpy())
    np.testing.assert_allclose(found["quality_percentile"].numpy(), expected, atol=1e-4)


def test_full_reference_scores_have_no_percentile(images: list[str]) -> None:
    metric = aigciqa.create_metric("fr-lite")
    assert metric.config.reference_sets == ()
    with pytest.raises(InputError, match="fr-lite: no scores of a reference set"):
        metric.predict(images, images, percentiles=True)
    with pytest.raises(InputError, match="leave percentiles out"):
        aigciqa.score_files(images, metric=["nr-lite", metric], references=images, percentiles=True)


def test_a_fitted_head_knows_the_images_that_were_rated(images: list[str], tmp_path: Path) -> None:
    more = [str(tmp_path / f"more{seed}.png") for seed in range(9)]
    for seed, path in enumerate(more):
        Image.fromarray(draw(80, 96, 10 + seed)).save(path)
    rated = images + more
    rows = ["image,fun", *(f"{path},{number % 5}" for number, path in enumerate(rated))]
    (tmp_path / "ratings.csv").write_text("\n".join(rows) + "\n")
    metric = aigciqa.fit_head(tmp_path / "ratings.csv", output=tmp_path / "mine", metric="nr-lite", cache_dir=False)
    assert metric.config.reference_set().label == "12 rated images"
    found = aigciqa.Metric.from_pretrained(tmp_path / "mine").predict(rated, percentiles=True)
    ranks = found["fun"].argsort().argsort().numpy()
    np.testing.assert_allclose(found["fun_percentile"].numpy(), 100 * (ranks + 0.5) / 12, atol=4.5)


# In tables


def test_the_engine_gives_them() -> None:
    metric = aigciqa.create_metric("nr-lite")
    items = [aigciqa.Item(str(seed), content=draw(80, 96, seed)) for seed in range(3)]
    first, *_ = aigciqa.score_files(items, metric=metric, percentiles=True)
    assert list(first.scores) == ["quality", "quality_percentile"]
    expected = metric.config.reference_set().percentiles("quality", first.scores["quality"])
    assert first.scores["quality_percentile"] == expected
    assert not any("quality_percentile" in each.scores for each in aigciqa.score_files(items, metric=metric))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_tables_have_a_column_where_asked(images: list[str], tmp_path: Path, suffix: str) -> None:
    scores = str(tmp_path / f"scores{suffix}")
    command = ["score", *images, str(tmp_path / "gone.png"), "-m", "nr-lite", "-o", scores, "--percentiles"]
    done = run(*command)
    assert done.exit_code == 1
    said = "quality_percentile by nr-lite: % of 160 small AI-generated images that score lower"
    assert said in " ".join(done.stderr.split())
    rows = list(read_rows(Path(scores)))
    assert list(rows[0]) == ["image", "reference", "group", "metric", "quality", "quality_percentile", "error"]
    assert 0 <= float(rows[0]["quality_percentile"]) <= 100
    assert rows[3]["quality_percentile"] in (None, "")
    made_by = json.loads(Path(f"{scores}.meta.json").read_text())
    assert [each["name"] for each in made_by["metrics"][0]["reference_sets"]] == [
        "small AI-generated images",
        "photographs",
    ]
    before = Path(scores).read_bytes()
    assert "resuming after 4 rows" in run(*command, "--resume").stderr
    assert Path(scores).read_bytes() == before


def test_on_a_terminal_and_where_they_are_refused(images: list[str], tmp_path: Path) -> None:
    assert "quality_percentile" in run("score", images[0], "-m", "nr-lite", "--percentiles").stdout.splitlines()[0]
    refused = run("score", images[0], "-m", "fr-lite", "-r", images[1], "--percentiles")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no scores of a reference set" in refused.stderr
    ray = run("score", *images, "-m", "nr-lite", "--percentiles", "--engine", "ray", "-o", str(tmp_path / "o.parquet"))
    assert "--percentiles go with --engine local" in " ".join(ray.stderr.split())


def test_what_reads_tables_does_not_take_them_for_scores(images: list[str], tmp_path: Path) -> None:
    scores = str(tmp_path / "scores.csv")
    assert (
        run("score", *images, "-m", "nr-lite", "-o", scores, "--percentiles", "--group-by", r"(\d)\.png").exit_code == 0
    )
    assert read_table(scores).dimensions == ("quality",)
    compared = run("compare", scores)
    assert compared.exit_code == 0, compared.stderr
    assert "percentile" not in compared.stdout
    assert run("select", scores, "--top", "1", "-o", str(tmp_path / "best.csv")).exit_code == 0


# In the report


def payload_of(page: Path) -> Any:
    text = page.read_text()
    return json.loads(text.split('id="data">', 1)[1].split("</script>", 1)[0])


def test_the_report_tells_them_without_being_asked(images: list[str], tmp_path: Path) -> None:
    scores, page, other = (tmp_path / name for name in ("scores.csv", "report.html", "compared.html"))
    command = ["score", *images, "-m", "nr-lite", "-o", str(scores), "--report", str(page), "--group-by", r"(\d)\.png"]
    assert run(*command).exit_code == 0
    (column,) = payload_of(page)["columns"]
    sets = aigciqa.create_metric("nr-lite").config.reference_sets
    assert [each["of"] for each in column["percentiles"]] == [each.label for each in sets]
    for each, told in zip(sets, column["percentiles"], strict=True):
        np.testing.assert_allclose(told["values"], each.percentiles("quality", column["values"]), atol=1)
    assert run("compare", str(scores), "--report", str(other)).exit_code == 0
    assert payload_of(other)["columns"][0]["percentiles"] == column["percentiles"]


def test_a_report_rounds_no_score_to_below_or_above_all(tmp_path: Path) -> None:
    scores = (0.0, 1.01, 2.5, 3.99, 5.0)
    rows = [dict.fromkeys(COLUMNS) | {"image": f"{s}.png", "metric": "mine", "quality": s} for s in scores]
    facts = {"mine": MetricFacts(RANGES, reference_sets=(known(np.linspace(1, 4, 200)),))}
    page = write_report(tmp_path / "report.html", rows, COLUMNS, metrics=facts)
    assert payload_of(page)["columns"][0]["percentiles"] == [{"of": "200 photographs", "values": [0, 1, 50, 99, 100]}]


@pytest.mark.browser
def test_cards_and_the_large_view_say_where_a_score_stands(tmp_path: Path, open_page: Open) -> None:  # noqa: F811
    rows = [dict.fromkeys(COLUMNS) | {"image": f"{s}.png", "metric": "mine", "quality": s} for s in (0.5, 2.5, 4.5)]
    sets = (known(np.linspace(1, 4, 200)), known([1.0, 3.0, 3.0], "rated images"))
    page = open_page(
        write_report(
            tmp_path / "report.html", rows, COLUMNS, metrics={"mine": MetricFacts(RANGES, reference_sets=sets)}
        )
    )
    expect(page.locator(".card .standing")).to_have_text(
        ["above all 200 photographs", "above 50% of 200 photographs", "below all 200 photographs"]
    )
    expect(page.locator(".card button").nth(1)).to_have_attribute(
        "aria-label", re.compile("above 50% of 200 photographs")
    )
    page.locator(".card button").nth(2).click()
    expect(page.locator("#viewer-scores .standing")).to_have_text(
        ["below all 200 photographs", "below all 3 rated images"]
    )
    assert page.evaluate(
        "document.querySelector('#viewer').scrollWidth <= document.querySelector('#viewer').clientWidth"
    )


# The recipe


def test_the_recipe_scores_what_is_known(images: list[str], tmp_path: Path) -> None:
    realness = tmp_path / "realness"
    realness.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(draw(80, 96, ord(name[0]))).save(realness / name)
    (realness / "ratings.csv").write_text("image,realness,ai_generated\na.png,50,1\nb.png,60,1\nc.png,70,0\n")
    photos = [Photo(Path(path), path, path) for path in images]
    metric = aigciqa.create_metric("nr-lite")
    generated, photographs = reference_sets(metric, photos, realness)
    assert (generated.n, photographs.n) == (2, 3)
    assert photographs.quantiles["quality"][0] == round(float(metric(images).min()), 3)
    assert generated.quantiles["quality"][-1] == round(float(metric([realness / "a.png", realness / "b.png"]).max()), 3)
    assert reference_sets(metric, photos, None) == (photographs,)
    assert reference_sets(aigciqa.create_metric("fr-lite"), photos, realness) == ()


@pytest.mark.parametrize(("name", "weights"), KNOWING)
def test_the_card_has_them(name: str, weights: str) -> None:
    config = aigciqa.create_metric(name, weights=weights).config
    folder = (
        Path(aigciqa.__file__).parent / "checkpoints" / "embedded" / (f"{name}-native" if weights == "native" else name)
    )
    assert cards.reference_sets_section(config.reference_sets) in (folder / "README.md").read_text()

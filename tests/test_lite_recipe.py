"""The recipe of the embedded metrics: what people's choices teach, what is measured, and what the cards say."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aigciqa.errors import InputError
from aigciqa.heads.lite import NoReferenceHead
from aigciqa.stats.bootstrap import Interval
from aigciqa.training.lite import cards, choices, fitting, held_out, human_judgements, recipe, validation
from aigciqa.training.lite.photos import Photo, ladder_plan
from aigciqa.training.lite.training_data import PhotoFeatures, Settings, TrainingData

SCENES = [f"scene {i // 4}" for i in range(80)]


def chosen(features: Tensor, direction: int) -> choices.Choices:
    """Choices that go by one feature, as it differs within a scene; shares have a mean of 1/4 in each."""
    wanted = features[:, direction].double().view(-1, 4)
    shares = torch.softmax(wanted, dim=1).flatten()
    return choices.Choices([Path(f"{i}.png") for i in range(80)], SCENES, shares)


def features(count: int = 80, width: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


# What people chose


def test_choices_teach_what_they_go_by() -> None:
    pictures = features()
    taught = choices.fit_shares(pictures, chosen(pictures, 3))
    assert int(taught.weight.abs().argmax()) == 3
    assert float(taught.weight[3]) > 0
    assert choices.agreement(taught.said, chosen(pictures, 3)) > 0.7
    assert float(taught.said.std()) == pytest.approx(1)
    new = features(seed=1)
    assert float(torch.corrcoef(torch.stack([new @ taught.weight, new[:, 3]]))[0, 1]) > 0.85


def test_choices_at_random_teach_nothing() -> None:
    taught = choices.fit_shares(features(), chosen(features(seed=5), 0))
    assert taught.strength == choices.STRENGTHS[-1]
    assert abs(choices.agreement(taught.said, chosen(features(seed=5), 0))) < 0.35


def test_the_scale_of_a_feature_does_not_matter() -> None:
    pictures, picked = features(), chosen(features(), 3)
    factors = torch.logspace(-3, 3, 20)
    plain, scaled = (choices.fit_shares(each, picked) for each in (pictures, pictures * factors + 5))
    torch.testing.assert_close(scaled.weight * factors, plain.weight, rtol=1e-3, atol=1e-5)
    assert scaled.strength == plain.strength


def test_a_ridge_is_the_textbooks() -> None:
    pictures, shares = features().double(), chosen(features(), 3).shares
    centred = pictures - pictures.mean(dim=0)
    penalty = 0.5 * centred.square().sum(dim=1).mean() * torch.eye(20)
    expected = torch.linalg.solve(centred.T @ centred + penalty, centred.T @ (shares - shares.mean()))
    torch.testing.assert_close(choices._ridge(pictures, shares, 0.5), expected)


def test_agreement_is_within_scenes() -> None:
    picked = chosen(features(), 3)
    offsets = torch.tensor([10.0 * picked.scenes.index(scene) for scene in picked.scenes])
    assert choices.agreement(picked.shares + offsets, picked) == pytest.approx(1)
    assert picked.metadata(0.12345) == {"choices": 80, "scenes": 20, "agreement": 0.123}


def test_choices_are_read_from_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "choices.csv", [("image", "scene", "share"), ("a.png", "x", 0.75), ("b.png", "y", 0.25)])
    read = choices.read_choices(tmp_path)
    assert list(read.paths) == [tmp_path / "a.png", tmp_path / "b.png"]
    assert (list(read.scenes), read.shares.tolist()) == (["x", "y"], [0.75, 0.25])
    write(tmp_path / "choices.csv", [("image", "scene", "share"), ("a.png", "x", 0.75)])
    with pytest.raises(InputError, match=r"choices\.csv has 1 scenes; expected two or more"):
        choices.read_choices(tmp_path)


def write(path: Path, rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def small_data(groups: int = 6, count: int = 5) -> TrainingData:
    """Statistics that fall with each image's number in its group, and labels that do."""
    labels = torch.linspace(1, 0, count).expand(groups, count)
    noise = torch.randn(groups, count, 144, 16, generator=torch.Generator().manual_seed(0))
    none = torch.full((groups, count), -1)
    return TrainingData(
        maps=0.3 * noise + labels[:, :, None, None],
        thumbnails=torch.zeros(groups, count, 256),
        labels=fitting.make_labels(labels, none, 1 - labels),
        subjects=[f"subject {i}" for i in range(groups)],
        photos=[f"photo {i}" for i in range(groups)],
    )


def test_a_taught_head_adds_the_choices_and_stays_calibrated() -> None:
    data, head = small_data(), NoReferenceHead(144)
    pooled = torch.cat([data.maps.mean(dim=3)] * 3, dim=2)
    with torch.no_grad():
        said = torch.stack([0.01 * features(6, 5, seed) for seed in range(3)])
        taught = torch.zeros(head.pooled)
        taught[:144] = 1 / 144
        pictures = torch.cat([features(40, 144)] * 3, dim=1)
        recipe._teach(head, taught, pictures, pooled, said, data)
        synthetic = torch.einsum("p,pgn->gn", head.quality.mix[:3], said)
        logits = pooled @ head.taught + synthetic + head.quality.mix[3]
        scores = torch.sigmoid(logits)
    assert float(scores[:, 0].median()) == pytest.approx(recipe.BEST_MEDIAN, abs=1e-3)
    assert float(scores[:, -1].median()) == pytest.approx(recipe.WORST_MEDIAN, abs=1e-3)
    assert torch.equal(head.taught[144:], torch.zeros(288))
    ratios = head.quality.mix[:3] / head.quality.mix[0]
    assert ratios.tolist() == pytest.approx(recipe.TAUGHT_MIX)


# Held-out photographs


def ladders(score_of_strength: Callable[[float], float]) -> PhotoFeatures:
    """A photograph whose first statistic is a function of the strength."""
    photo = Photo(Path("a.png"), "a.png", "a")
    plan = ladder_plan(photo, 0)
    values = torch.tensor([score_of_strength(sample.steps[0].strength if sample.steps else 0) for sample in plan])
    maps = values[:, None, None].expand(-1, 144, 16).float()
    return PhotoFeatures(photo, plan, maps, torch.zeros(len(plan), 256), torch.zeros(len(plan), 4))


def test_monotonicity_counts_adjacent_strengths() -> None:
    score = held_out.plain_scorer(0)
    assert held_out.monotonicity([ladders(lambda strength: -strength)], score)["all"].value == 1
    assert held_out.monotonicity([ladders(lambda strength: strength)], score)["jpeg"].value == 0
    last_two_swapped = ladders(lambda strength: -{4.0: 5.0, 5.0: 4.0}.get(strength, strength))
    assert held_out.monotonicity([last_two_swapped], score)["all"].value == pytest.approx(4 / 5)


def test_identity_is_best_counts_images_above_the_reference() -> None:
    score = held_out.plain_scorer(0)
    assert held_out.identity_is_best([ladders(lambda strength: -strength)], score).value == 1
    one_of_five_above = ladders(lambda strength: 1.0 if strength == 2 else -strength)
    assert held_out.identity_is_best([one_of_five_above], score).value == pytest.approx(
        (1 + 32 * 4) / (1 + 32 * 5), abs=0.01
    )


def test_the_area_of_a_map_is_the_chance_that_inside_is_lower() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    values = torch.ones(16, 16)
    assert held_out._area(values, mask) == pytest.approx(0.5)
    values[:8] = 0
    assert held_out._area(values, mask) == pytest.approx(1, abs=0.02)
    assert held_out._area(-values, mask) == pytest.approx(0, abs=0.02)


def test_labels_agree_with_a_score_that_is_the_label() -> None:
    agreement = held_out.label_agreement(small_data(), lambda maps, _: maps.mean(dim=(1, 2)))
    assert agreement.value > 0.9


# People's judgements


def test_realness_is_of_generated_pictures_alone_and_of_all(tmp_path: Path) -> None:
    rows = [(f"{i}.png", value, int(i < 6)) for i, value in enumerate((1, 2, 3, 4, 5, 6, 20, 30))]
    write(tmp_path / "ratings.csv", [("image", "realness", "ai_generated"), *rows])
    figures = human_judgements.realness(
        tmp_path, lambda path: int(path.stem) if int(path.stem) < 6 else -int(path.stem)
    )
    assert figures["generated"].value == pytest.approx(1)
    expected = 1 - 6 * sum((a - b) ** 2 for a, b in zip((3, 4, 5, 6, 7, 8, 2, 1), range(1, 9), strict=True)) / (8 * 63)
    assert figures["all"].value == pytest.approx(expected)


def gan_folder(folder: Path) -> Path:
    """One photograph and its reconstructions; most people like the original best, then `hi`."""
    columns = ("Image_A", "Model_A", "Quality_A", "Image_B", "Model_B", "Quality_B", "0", "1", "2", "3")
    original, high, low = ("2", "original", ""), ("2", "Net", "hi"), ("2", "Net", "lo")
    votes = [(*original, *high, 0, 0, 0, 1), (*high, *low, 0, 0, 0, 0), (*low, *original, 1, 1, 1, 1)]
    write(folder / "jdg.csv", [columns, *votes])
    write(
        folder / "metrics.csv",
        [("ID", "Model", "Quality", "PSNR"), (2, "original", "", ""), (2, "Net", "hi", 30), (2, "Net", "lo", 20)],
    )
    (folder / "images").mkdir()
    for name in ("2_original", "2_Net_hi", "2_Net_lo"):
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{name}.png")
    return folder


def test_gan_compression_by_rank_pair_and_vote(tmp_path: Path) -> None:
    folder = gan_folder(tmp_path)
    order = {"2_original": 3.0, "2_Net_hi": 2.0, "2_Net_lo": 1.0}
    figures = human_judgements.gan_compression(folder, lambda path: order[path.stem])
    assert (figures["srcc"].value, figures["pairs"].value) == (pytest.approx(1), 1)
    assert figures["votes"].value == pytest.approx(11 / 12)
    worst = human_judgements.gan_compression(folder, lambda path: -order[path.stem])
    assert (worst["srcc"].value, worst["votes"].value) == (pytest.approx(-1), pytest.approx(1 / 12))
    assert human_judgements.published_agreement(folder, "PSNR")["pairs"].value >= 2 / 3


def test_resolution_compression_beside_the_height(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    heights, rest = generator.integers(1, 9, 60) * 100, generator.normal(size=60)
    rows = [
        (f"{i}.png", height + 100 * noise, height) for i, (height, noise) in enumerate(zip(heights, rest, strict=True))
    ]
    write(tmp_path / "mos.csv", [("image", "mos", "height"), *rows])
    by_noise = human_judgements.resolution_compression(tmp_path, lambda path: rest[int(path.stem)])
    assert by_noise["partial"].value > by_noise["srcc"].value
    assert "partial" not in human_judgements.resolution_compression(
        tmp_path, lambda path: float(heights[int(path.stem)])
    )


# Validation and cards


def table(value: float, wanted: float | None = None, **controls: float) -> cards.Table:
    figures = {name: Interval(each, each, each) for name, each in controls.items()}
    return cards.Table("a title", figures, wanted, {"nr-lite": [Interval(value, 0.1, 0.9), Interval(0.3, 0.1, 0.9)]})


METADATA = {"images": 5624, "photographs": 148, "held_out": 34}


def test_a_card_says_whether_the_aim_was_reached_and_what_is_better() -> None:
    text = cards.card("nr-lite", {"monotone": table(0.5, wanted=0.4, height=0.6, size=0.49)}, METADATA)
    assert "| nr-lite | 0.500 [0.100, 0.900] | 0.500, 0.300 |" in text
    assert "Aimed for: 0.4; reached, not with 1 of the 2 seeds. **Better here: height.** As good here: size." in text
    assert "Aimed for: 0.6; **not reached**." in cards.card("nr-lite", {"monotone": table(0.5, wanted=0.6)}, METADATA)
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("| "))


def test_a_card_says_who_taught() -> None:
    taught = {**METADATA, "choices": 120, "scenes": 30, "agreement": 0.69}
    assert "120 pictures of 30 scenes" in cards.card("nr-lite", {}, taught)
    assert "ten times" in cards.card("nr-efficientnet-lite2", {}, taught)
    assert "What people taught" not in cards.card("fr-lite", {}, METADATA)


def test_results_are_the_shipped_seeds() -> None:
    assert cards.results({"monotone": table(0.51234)}) == {"monotone": {"nr-lite": [0.5123, 0.1, 0.9]}}


@pytest.mark.slow
def test_a_validation_without_judgements_measures_what_is_drawn(tmp_path: Path) -> None:
    data = small_data()
    fitted = recipe.fit_all(data, Settings(steps=4))
    for variant in recipe.VARIANTS:
        recipe.write_variant(tmp_path, variant, fitted)
    drawn = held_out.HeldOut([ladders(lambda strength: -strength)] * 2, data, [])
    measured = validation.Validation(dataclasses.replace(drawn, patches=[patched()] * 6), None)
    measured.measure(fitted, tmp_path)
    assert set(measured.tables["nr-lite"]) == {"monotone", "labels", "calibration", "map"}
    assert set(measured.tables["fr-lite"]) >= {"monotone", "identity"}
    assert not math.isnan(measured.tables["nr-lite"]["map"].rows["all"][0].value)
    assert measured.tables["nr-efficientnet-lite2"] == {}


def patched() -> held_out.Patched:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:32] = True
    generator = torch.Generator().manual_seed(0)
    return held_out.Patched(
        mask, torch.rand(1, 144, 8, 8, generator=generator), torch.rand(1, 400, 4, 4, generator=generator)
    )

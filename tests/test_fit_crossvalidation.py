"""Honest figures of a fit: unseen images, controls, generators, the learning curve, warnings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from aigciqa.stats.bootstrap import Interval
from aigciqa.training.fit.crossvalidation import GENERATOR, Figures, cross_validate
from aigciqa.training.fit.regression import fit
from aigciqa.training.fit.tasks import folds_of, pair_task, score_task


def data(n=48, d=8, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d))
    return features, 3 + features[:, 0] + noise * rng.normal(size=n)


def figures(features, scores, groups=None, **options) -> Figures:
    return cross_validate(score_task([features], {"mos": scores}, groups=groups), **options)["mos"]


def test_the_figures_are_those_of_fits_that_have_not_seen_the_images():
    features, scores = data()
    groups = np.arange(48) // 2
    found = figures(features, scores, groups)
    folds = folds_of(groups, np.random.default_rng(0))
    unseen, level = np.empty(48), np.empty(48)
    for fold in range(10):
        seen = folds != fold
        head = fit(score_task([features[seen]], {"mos": scores[seen]}, groups=groups[seen]))
        unseen[~seen] = head.predict(features[~seen])[:, 0]
        level[~seen] = head.predict(features).mean()
    assert found.agreement["srcc"].value == pytest.approx(spearmanr(unseen - level, scores)[0])
    assert found.agreement["plcc"].value == pytest.approx(pearsonr(unseen - level, scores)[0])
    assert found.agreement["rmse"].value == pytest.approx(np.sqrt(np.mean((unseen - scores) ** 2)))
    assert found.agreement["srcc"].low < found.agreement["srcc"].value < found.agreement["srcc"].high
    assert (found.ratings, found.groups, found.warnings) == (48, 24, ())


def test_features_without_a_message_are_at_chance():
    rng = np.random.default_rng(0)
    values = [figures(rng.normal(size=(30, 5)), rng.normal(size=30)).agreement["srcc"].value for _ in range(10)]
    assert abs(np.mean(values)) < 0.15


def test_features_that_are_all_equal_have_no_correlation():
    scores = np.random.default_rng(0).normal(size=20)
    found = figures(np.ones((20, 6)), scores)
    assert np.isnan([found.agreement[name].value for name in ("srcc", "plcc")]).all()
    assert found.warnings == (
        "mos: there is no SRCC, since all images are predicted the same: nothing shows that scores agree with people. "
        "Rate more images.",
    )


def test_a_group_is_never_on_both_sides():
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(15, 30)), 4, axis=0) + 0.01 * rng.normal(size=(60, 30))
    scores = np.repeat(rng.normal(size=15), 4)  # of the group, and nothing else
    groups = np.repeat(np.arange(15), 4)
    assert figures(features, scores).agreement["srcc"].low > 0.8
    apart = figures(features, scores, groups)
    assert apart.agreement["srcc"].low < 0
    assert "mos: the interval of the SRCC, " in apart.warnings[0]
    assert "includes 0, which is chance" in apart.warnings[0]
    assert len(set(zip(groups, folds_of(groups, rng), strict=True))) == 15


def test_controls_stand_beside_the_fit():
    features, scores = data()
    size = np.where(np.arange(48) < 40, -scores, np.nan)
    found = figures(features, scores, controls={"image size": size, "empty": np.full(48, np.nan)})
    assert found.controls["image size"].value == pytest.approx(-1)
    assert np.isnan(found.controls["empty"].value)
    assert GENERATOR not in found.controls


def test_ratings_that_generators_alone_explain_are_told():
    rng = np.random.default_rng(0)
    generators = np.repeat(["a", "b", "c"], 20)
    marks = np.repeat(np.eye(3), 20, axis=0) * 3
    features = np.column_stack([marks, rng.normal(size=(60, 3))])
    alone = marks @ [0, 1, 2] + rng.normal(size=60)
    found = figures(features, alone, generators=generators.tolist())
    assert found.controls[GENERATOR].low > 0.5
    assert "the generators alone may explain" in found.warnings[0]
    found = figures(features, alone + 2 * features[:, 3], generators=generators.tolist())
    assert found.warnings == ()


def test_an_interval_within_generators_is_told_as_it_is():
    rng = np.random.default_rng(1)
    generators = np.repeat(np.arange(4), 10)
    features, noise = np.column_stack([generators, rng.normal(size=(40, 3))]), rng.normal(size=40)
    below = figures(features, generators * 2 + 0.3 * noise, generators=generators.tolist()).warnings[0]
    assert "the SRCC is -0.418 [-0.659, -0.086], which is below 0: the generators alone" in below
    alone = figures(features, generators * 2, generators=generators.tolist()).warnings[0]
    assert "among the images of one generator, there is no SRCC: the generators alone" in alone


def test_generators_that_are_not_known_are_left_out():
    features, scores = data()
    found = figures(features, scores, generators=[None, "a", "b"] * 16)
    assert np.isfinite(found.controls[GENERATOR].value)
    assert GENERATOR not in figures(features, scores, generators=[None, "a", "a"] * 16).controls


def test_the_curve_rises_and_tells_what_twice_the_ratings_bring():
    features, scores = data(80, 40, noise=0.5)
    half = figures(features[:40], scores[:40])
    found = figures(features, scores)
    assert list(found.curve) == [20, 40, 60, 80]
    assert found.curve[20] < found.curve[40] < found.curve[60]
    assert found.curve[80] == found.agreement["srcc"].value
    assert found.curve[80] < found.doubled.value <= 1
    assert half.doubled.low <= found.agreement["srcc"].value <= half.doubled.high


@pytest.mark.parametrize("groups", [np.arange(40) % 3, np.minimum(np.arange(40), 2)])
def test_few_and_uneven_groups(groups):
    features, scores = data(40)
    found = figures(features, scores, groups)
    assert found.groups == 3
    assert np.isfinite(found.agreement["srcc"].value)


def test_pairs_against_one_image_can_be_left_out():
    features = data(21)[0]
    pairs = {"q": (np.zeros(20, int), np.arange(1, 21), np.ones(20))}
    found = cross_validate(pair_task([features], pairs, score_ranges={"q": (1, 5)}))["q"]
    assert 0 <= found.agreement["accuracy"].value <= 1


def test_few_ratings_are_told():
    features, scores = data(9, 2)
    found = figures(features, scores)
    assert "mos has 9 ratings" in found.warnings[0]
    assert found.doubled is None
    assert list(json.loads(json.dumps(found.to_json(), allow_nan=False))["learning_curve"])[-1] == "9"


def test_each_dimension_has_figures_of_its_own_ratings():
    features, scores = data()
    task = score_task([features], {"mos": scores, "few": np.where(np.arange(48) < 20, -scores, np.nan)})
    found = cross_validate(task)
    assert (found["mos"].ratings, found["few"].ratings) == (48, 20)


def test_a_dimension_that_one_group_has_is_left_out_by_image():
    features, scores = data(40)
    part = np.where(np.arange(40) < 20, scores, np.nan)
    task = score_task([features], {"mos": scores, "part": part}, groups=np.arange(40) // 20 + np.arange(40) // 30)
    found = cross_validate(task)["part"]
    assert found.groups == 20
    assert found.agreement["srcc"].low > 0


def test_pairs_are_ordered_rightly_or_not():
    features, scores = data(30, 5, noise=0)
    rng = np.random.default_rng(1)
    first = np.tile(np.arange(30), 6)
    second = (first + rng.integers(1, 30, size=180)) % 30
    right = scores[first] > scores[second]
    better, worse = np.where(right, first, second), np.where(right, second, first)
    task = pair_task([features], {"q": (better, worse, np.ones(180))}, score_ranges={"q": (1, 5)})
    found = cross_validate(task, controls={"score": scores, "nothing": np.zeros(30)})["q"]
    assert found.ratings == 180
    assert found.agreement["accuracy"].low > 0.8
    assert found.controls["score"].value == 1
    assert found.controls["nothing"].value == 0.5
    assert list(found.curve)[-1] == 180
    shuffled = np.where(rng.random(180) < 0.5, better, worse)
    task = pair_task([features], {"q": (shuffled, better + worse - shuffled, np.ones(180))}, score_ranges={"q": (1, 5)})
    assert "includes 0.5, which is chance" in cross_validate(task)["q"].warnings[0]


def test_the_same_seed_gives_the_same_figures():
    features, scores = data(24, 4)
    assert figures(features, scores).to_json() == figures(features, scores).to_json()
    assert figures(features, scores, seed=1).to_json() != figures(features, scores).to_json()


def test_json_has_no_nan():
    interval = Interval(0.1234567, float("nan"), 1.0)
    found = Figures(5, 5, {"srcc": interval}, {"width": interval}, {3: float("nan")}, interval, ("a",))
    assert found.to_json() == {
        "ratings": 5,
        "groups": 5,
        "srcc": [0.123457, None, 1.0],
        "controls": {"width": {"srcc": [0.123457, None, 1.0]}},
        "learning_curve": {"3": None, "10": [0.123457, None, 1.0]},
        "warnings": ["a"],
    }


def test_a_dimension_that_is_rated_in_two_groups_is_warned_of():
    features, scores = data(40)
    groups = np.arange(40) % 4
    task = score_task([features], {"mos": scores, "few": np.where(groups < 2, scores, np.nan)}, groups=groups)
    found = cross_validate(task)
    assert (found["mos"].groups, found["few"].groups) == (4, 20)
    assert not any("of the groups" in warning for warning in found["mos"].warnings)
    assert "few is rated in 2 of the groups, too few to leave out in turn" in found["few"].warnings[-1]

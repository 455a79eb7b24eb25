"""Correlations, intervals, tests between metrics, the paper's rows, tables and plots."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import optimize, stats

from aigciqa.databases import Sample
from aigciqa.errors import MissingExtraError
from aigciqa.evaluation import (
    Evaluation,
    Interval,
    PrecomputedScores,
    Predictions,
    Published,
    Setting,
    agreement,
    evaluate,
    fit_logistic,
    krcc,
    plcc,
    plcc_fitted,
    plots,
    predict,
    published,
    rmse_fitted,
    srcc,
    srcc_within,
    steiger,
    williams,
)
from aigciqa.evaluation import text as tables
from aigciqa.evaluation.provenance import Training
from aigciqa.records import Record
from aigciqa.scoring.sinks import FileSink
from aigciqa.stats import bootstrap, correlations
from aigciqa.tables.columns import columns_of, to_row
from aigciqa.tables.text import TextTable, write_text
from tests.conftest import draw, untrained

Array = NDArray[np.float64]
FIGURES = ("srcc", "plcc", "plcc_fitted", "krcc", "rmse")


def rated(n: int, seed: int = 0, noise: float = 0.5) -> tuple[Array, Array]:
    """Scores that saturate with MOS, and MOS with ties."""
    rng = np.random.default_rng(seed)
    mos = rng.uniform(0, 5, n).round(1)
    return np.tanh(mos - 2.5) + rng.normal(0, noise, n), mos


def mean_ranks(values: Array) -> Array:
    return np.array([(values < each).sum() + ((values == each).sum() + 1) / 2 for each in values])


def product_moment(x: Array, y: Array) -> float:
    dx, dy = x - x.mean(), y - y.mean()
    return float((dx * dy).sum() / math.sqrt((dx * dx).sum() * (dy * dy).sum()))


def tau_b(x: Array, y: Array) -> float:
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    untied = [sum(pair[side] != 0 for pair in signs) for side in (0, 1)]
    return float(sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1]))


def least_squares(x: Array, y: Array) -> Array:
    """The logistic's parameters by another solver, parametrisation and start, on data that are not standardised."""

    def residuals(p: Array) -> Array:
        return p[0] + p[1] * np.tanh((x - p[2]) * p[3]) - y

    start = (np.median(y), (y.max() - y.min()) / 2 * np.sign(product_moment(x, y)), np.median(x), 0.5 / x.std())
    solved = optimize.least_squares(residuals, start, method="trf", xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=10000)
    return np.asarray(solved.x)


@pytest.mark.parametrize("seed", range(4))
def test_correlations_agree_with_their_formulas(seed: int) -> None:
    scores, mos = rated(60, seed)
    scores = scores.round(1)  # ties on both sides
    assert srcc(scores, mos) == pytest.approx(product_moment(mean_ranks(scores), mean_ranks(mos)), abs=1e-9)
    assert plcc(scores, mos) == pytest.approx(product_moment(scores, mos), abs=1e-9)
    assert krcc(scores, mos) == pytest.approx(tau_b(scores, mos), abs=1e-9)


@pytest.mark.parametrize(("seed", "sign", "scale"), [(0, 1, 1.0), (1, -1, 1.0), (2, 1, 1e4), (4, -1, 1e-4)])
def test_the_fit_agrees_with_another_solver(seed: int, sign: int, scale: float) -> None:
    scores, mos = rated(200, seed, noise=0.2)
    other = least_squares(sign * scores, mos)
    expected = other[0] + other[1] * np.tanh((sign * scores - other[2]) * other[3])
    x = sign * scale * scores + 7 * scale
    mapping = fit_logistic(x, mos)
    assert mapping is not None
    assert mapping.width > 0
    assert (mapping.high > mapping.low) == (sign > 0)
    assert plcc_fitted(x, mos) == pytest.approx(product_moment(expected, mos), abs=1e-9)
    assert rmse_fitted(x, mos) == pytest.approx(math.sqrt(np.mean((expected - mos) ** 2)), abs=1e-9)
    assert mapping(x) == pytest.approx(expected, abs=1e-5)


def test_the_fit_finds_the_curve_that_made_the_data() -> None:
    x = np.linspace(-3, 4, 50)
    mapping = fit_logistic(x, 1 + 3 / (1 + np.exp(-(x - 0.5) / 0.7)))
    assert mapping is not None
    assert dataclasses.astuple(mapping) == pytest.approx((4, 1, 0.5, 0.7), abs=1e-6)


def test_the_fit_copes_with_data_that_have_no_finite_optimum() -> None:
    line = np.arange(30.0)
    assert plcc_fitted(line, line) == pytest.approx(1, abs=1e-6)
    step = np.repeat([0.0, 1.0], 15) + np.linspace(0, 0.01, 30)
    assert plcc_fitted(step, np.repeat([1.0, 5.0], 15)) == pytest.approx(1, abs=1e-6)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=50)
        for y in (0.7 * x + rng.normal(size=50), np.exp(x) + rng.normal(size=50), -x):
            assert plcc_fitted(x, y) > abs(plcc(x, y)) - 1e-3  # a line is a limit of logistics


def test_figures_do_not_change_with_what_they_are_invariant_to() -> None:
    scores, mos = rated(80)
    for measure in (srcc, krcc):
        assert measure(np.exp(scores), mos) == pytest.approx(measure(scores, mos), abs=1e-12)
        assert measure(-scores, mos) == pytest.approx(-measure(scores, mos), abs=1e-12)
    for measure in (plcc, plcc_fitted):
        assert measure(3 * scores + 10, mos) == pytest.approx(measure(scores, mos), abs=1e-9)
    assert plcc_fitted(-scores, mos) == pytest.approx(plcc_fitted(scores, mos), abs=1e-9)
    assert rmse_fitted(scores, 2 * mos + 1) == pytest.approx(2 * rmse_fitted(scores, mos), abs=1e-9)


@pytest.mark.parametrize("measure", [srcc, plcc, krcc, plcc_fitted, rmse_fitted, agreement])
def test_what_can_not_be_correlated_is_refused(measure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="3 scores but 4 MOS"):
        measure([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(ValueError, match="at least 3 images; got 2"):
        measure([1, 2], [1, 2])
    with pytest.raises(ValueError, match="1 of 3 scores are NaN or infinite"):
        measure([1, math.nan, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="2 of 3 MOS are NaN or infinite"):
        measure([1, 2, 3], [1, math.inf, math.nan])
    with pytest.raises(ValueError, match=r"one number per image.*\(1, 3\)"):
        measure([[1, 2, 3]], [1, 2, 3])


def test_constant_scores_have_no_correlation() -> None:
    for measure in (srcc, plcc, krcc, plcc_fitted, rmse_fitted):
        assert math.isnan(measure([2, 2, 2, 2], [1, 2, 3, 4]))
        assert math.isnan(measure([1, 2, 3, 4], [2, 2, 2, 2]))
    found = agreement([0.1] * 5, [1, 2, 3, 4, 5])
    assert found.mapping is None
    assert all(math.isnan(each.value) and math.isnan(each.low) for each in found.intervals().values())


def test_three_images_have_correlations_but_no_fit() -> None:
    found = agreement([1, 2, 3], [1, 2, 2.5])
    assert found.srcc.value == 1
    assert found.mapping is None
    assert math.isnan(found.plcc_fitted.value)


def test_agreement_holds_the_single_figures() -> None:
    scores, mos = rated(100)
    found = agreement(scores, mos)
    assert (found.n, found.groups) == (100, 100)
    singles = (srcc, plcc, plcc_fitted, krcc, rmse_fitted)
    assert tuple(found.intervals()) == FIGURES
    for interval, single in zip(found.intervals().values(), singles, strict=True):
        assert interval.value == single(scores, mos)
        assert interval.low < interval.value < interval.high
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.n = 3  # type: ignore[misc]
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", str(found.srcc))


@pytest.mark.parametrize("groups", [range(40), [i // 4 for i in range(40)], ["a"] * 25 + ["b"] * 10 + ["c"] * 5])
def test_each_resample_equals_scipy_on_the_drawn_samples(groups) -> None:  # type: ignore[no-untyped-def]
    scores, mos = rated(40)
    scores = scores.round(1)
    (weights,) = bootstrap.weights(list(groups), 20, seed=3)
    assert weights.shape == (20, 40)
    found = [measure(weights, scores, mos) for measure in (bootstrap.spearman, bootstrap.pearson, bootstrap.kendall)]
    references = (stats.spearmanr, stats.pearsonr, stats.kendalltau)
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(40), weight.astype(int))
        for values, reference in zip(found, references, strict=True):
            assert values[row] == pytest.approx(reference(scores[drawn], mos[drawn])[0], abs=1e-12)
        assert bootstrap.spread(weights, mos)[row] == pytest.approx(mos[drawn].std(), abs=1e-12)


def test_resamples_are_seeded_and_draw_whole_groups() -> None:
    groups = ["a", "b", "a", "c", "b", "a"]
    (weights,) = bootstrap.weights(groups, 200, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert (weights == next(bootstrap.weights(groups, 200, seed=1))).all()
    assert (weights != next(bootstrap.weights(groups, 200, seed=2))).any()
    scores, mos = rated(50)
    assert agreement(scores, mos, seed=5) == agreement(scores, mos, seed=5)
    assert agreement(scores, mos, seed=5) != agreement(scores, mos, seed=6)


def test_many_samples_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, mos = rated(50)
    monkeypatch.setattr(bootstrap, "_PART", 500)
    parts = list(bootstrap.weights(range(50), 25, seed=0))
    assert [len(part) for part in parts] == [10, 10, 5]
    whole = bootstrap.kendall(parts[0], scores, mos)
    drawn = np.repeat(np.arange(50), parts[0][0].astype(int))
    assert whole[0] == pytest.approx(stats.kendalltau(scores[drawn], mos[drawn])[0], abs=1e-12)
    assert agreement(scores, mos, resamples=25).srcc.low < srcc(scores, mos)


def test_resamples_that_are_constant_are_left_out() -> None:
    weight = np.array([[4.0, 0.0, 0.0], [1.0, 1.0, 2.0]])
    x = np.array([0.1, 0.2, 0.3])
    for measure in (bootstrap.spearman, bootstrap.pearson, bootstrap.kendall):
        assert np.isnan(measure(weight, x, x)[0])
        assert measure(weight, x, x)[1] == pytest.approx(1)
    assert all(map(math.isnan, bootstrap.percentiles(np.array([math.nan]))))
    assert bootstrap.percentiles(np.array([*range(1001), math.nan])) == (25, 975)


def test_a_constant_is_told_from_rounding() -> None:
    tenths, ranked = np.array([0.1, 0.1, 0.3]), np.array([1.0, 2.0, 3.0])
    weight = np.array([[3.0, 4.0, 0.0]])  # of 0.1, the mean of seven is another number
    assert np.isnan(bootstrap.pearson(weight, tenths, ranked)[0])
    assert np.isnan(bootstrap.pearson(weight, ranked, tenths)[0])


def test_one_group_has_no_interval() -> None:
    scores, mos = rated(30)
    for found in (agreement(scores, mos, groups=["one"] * 30), agreement(scores, mos, resamples=0)):
        assert found.srcc.value == srcc(scores, mos)
        assert all(math.isnan(each.low) and math.isnan(each.high) for each in found.intervals().values())
    with pytest.raises(ValueError, match="29 groups for 30 scores"):
        agreement(scores, mos, groups=["one"] * 29)


def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correlations, "fit_logistic", lambda scores, mos: None)  # slow, and not asked about here
    rng = np.random.default_rng(0)
    truth, trials = 0.7, 300
    spearman_truth = 6 / math.pi * math.asin(truth / 2)
    covered = np.zeros(2)
    for _ in range(trials):
        x = rng.normal(size=80)
        y = truth * x + math.sqrt(1 - truth**2) * rng.normal(size=80)
        found = agreement(x, y, resamples=300)
        covered += (found.plcc.low < truth < found.plcc.high, found.srcc.low < spearman_truth < found.srcc.high)
    assert np.all((covered / trials > 0.89) & (covered / trials < 0.985)), covered / trials


def test_intervals_by_group_are_wider_where_images_of_a_prompt_are_alike() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(25), 8)
    of_prompt = rng.normal(size=(2, 25))[:, groups]
    scores, mos = of_prompt + 0.3 * rng.normal(size=(2, 200))
    alone, together = agreement(scores, mos), agreement(scores, mos, groups=groups.tolist())
    assert (together.n, together.groups) == (200, 25)
    assert together.srcc.high - together.srcc.low > 1.8 * (alone.srcc.high - alone.srcc.low)


def test_the_interval_after_the_logistic_is_near_that_of_refitting() -> None:
    scores, mos = rated(120, noise=0.4)
    found = agreement(scores, mos, resamples=300)
    refitted = []
    for weight in next(bootstrap.weights(range(120), 300, 0)):
        drawn = np.repeat(np.arange(120), weight.astype(int))
        refitted.append((plcc_fitted(scores[drawn], mos[drawn]), rmse_fitted(scores[drawn], mos[drawn])))
    bounds = np.percentile(refitted, bootstrap.PERCENTILES, axis=0)
    assert (found.plcc_fitted.low, found.plcc_fitted.high) == pytest.approx(bounds[:, 0], abs=0.01)
    assert (found.rmse.low, found.rmse.high) == pytest.approx(bounds[:, 1], rel=0.04)


def test_correlation_within_prompts() -> None:
    scores = [1, 2, 3, 5, 4, 7, 7, 1, 2, 9]
    mos = [1, 2, 3, 1, 2, 1, 2, 3, 3, 1]
    groups = ["up"] * 3 + ["down"] * 2 + ["scores tie"] * 2 + ["ratings tie"] * 2 + ["alone"]
    found = srcc_within(scores, mos, groups)
    assert found.value == pytest.approx((1 - 1 + 0) / 3)
    assert found.low <= found.value <= found.high
    assert math.isnan(srcc_within([1, 2, 3], [1, 2, 3], ["a", "b", "c"]).value)
    one = srcc_within([1, 2, 3], [1, 2, 3], ["a", "a", "b"])
    assert one.value == pytest.approx(1)
    assert math.isnan(one.low)
    with pytest.raises(ValueError, match="2 groups for 3 scores"):
        srcc_within([1, 2, 3], [1, 2, 3], ["a", "b"])


#: Correlations and the figures that the R package cocor 1.1 prints of them, as found in two published notebooks.
COCOR = [
    ((-0.1741, 0.2015, 0.3734, 646), (-9.0340, None), (-8.6124, None)),
    ((0.1724, 0.1795, 0.5387, 646), (-0.1909, 0.8487), (-0.1909, 0.8486)),
    ((0.8066, 0.2383, 0.2255, 177), (9.3823, None), (8.5460, None)),
]


@pytest.mark.parametrize(("case", "by_williams", "by_steiger"), COCOR)
def test_tests_agree_with_published_values(case, by_williams, by_steiger) -> None:  # type: ignore[no-untyped-def]
    for test, (statistic, p) in ((williams, by_williams), (steiger, by_steiger)):
        found = test(*case)
        assert found.statistic == pytest.approx(statistic, rel=2e-3, abs=2e-3)  # of correlations with four digits
        assert found.p == pytest.approx(0 if p is None else p, abs=1e-3)


def test_tests_agree_with_the_formulas_written_out() -> None:
    for a, b, c, n in itertools.product((0.2, 0.75), (0.3, 0.6), (0.4, 0.55), (12, 200)):
        matrix = np.array([[1, a, b], [a, 1, c], [b, c, 1]])
        pooled = ((a + b) / 2) ** 2 * (1 - c) ** 3
        t = (a - b) * np.sqrt((n - 1) * (1 + c) / (2 * (n - 1) / (n - 3) * np.linalg.det(matrix) + pooled))
        found = williams(a, b, c, n)
        assert found.statistic == pytest.approx(t, abs=1e-9)
        assert found.p == pytest.approx(2 * (1 - stats.t.cdf(abs(t), n - 3)), abs=1e-9)
        r = (a + b) / 2
        s = (c * (1 - 2 * r * r) - 0.5 * r * r * (1 - 2 * r * r - c * c)) / (1 - r * r) ** 2
        z = math.sqrt(n - 3) * 0.5 * (math.log((1 + a) / (1 - a)) - math.log((1 + b) / (1 - b))) / math.sqrt(2 - 2 * s)
        found = steiger(a, b, c, n)
        assert found.statistic == pytest.approx(z, abs=1e-9)
        assert found.p == pytest.approx(2 * (1 - stats.norm.cdf(abs(z))), abs=1e-9)


@pytest.mark.parametrize("test", [williams, steiger])
def test_properties_of_the_tests(test) -> None:  # type: ignore[no-untyped-def]
    one, other = test(0.8, 0.7, 0.6, 100), test(0.7, 0.8, 0.6, 100)
    assert one.statistic == pytest.approx(-other.statistic)
    assert one.p == pytest.approx(other.p)
    assert test(0.7, 0.7, 0.9, 50) == test(0.7, 0.7, 1.0, 50)
    assert test(0.7, 0.7, 0.9, 50).p == 1
    assert test(1.0, 1 - 2**-53, 1.0, 50).p == test(0.9, 0.9 + 2**-53, 1.0, 50).p == 1  # rounding
    assert test(0.8, 0.7, 0.6, 1000).p < one.p  # more images
    assert test(0.8, 0.7, 0.9, 100).p < one.p  # more alike, so that the difference is less noisy
    assert test(1.0, 0.5, 0.5, 50).p < 1e-6
    with pytest.raises(ValueError, match="at least 4 images; got 3"):
        test(0.5, 0.4, 0.3, 3)
    with pytest.raises(ValueError, match=r"within \[-1, 1\]"):
        test(0.5, 1.4, 0.3, 30)
    with pytest.raises(ValueError, match="no three variables"):
        test(0.9, -0.9, 0.9, 30)


@pytest.mark.parametrize("test", [williams, steiger])
def test_tests_reject_a_true_hypothesis_about_as_often_as_they_say(test) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    rejected = 0
    for _ in range(400):
        mos = rng.normal(size=100)
        first, second = mos + rng.normal(size=(2, 100))
        rejected += test(plcc(first, mos), plcc(second, mos), plcc(first, second), 100).p < 0.05
    assert 0.02 < rejected / 400 < 0.09


def test_the_papers_rows() -> None:
    assert published("paper", "nr", "vgg16", "quality") == Published(0.6734, 0.6854)
    assert published("all", "nr", "vgg16", "quality") == Published(0.6734, 0.6854)
    for protocol in ("paper", "sd", "mj", "sd-mj", "mj-sd"):
        for kind, backbone in itertools.product(
            ("nr", "fr"), ("vgg16", "vgg19", "resnet18", "resnet50", "inceptionv4")
        ):
            for dimension in ("quality", "authenticity", "correspondence", "overall"):
                row = published(protocol, kind, backbone, dimension)
                assert row is not None
                assert 0 < row.srcc < 1
                assert 0 < row.plcc < 1
    assert published("prompt-disjoint", "nr", "vgg16", "quality") is None
    assert published("paper", "nr", "lite", "quality") is None
    assert published("paper", "nr", "vgg16", "beauty") is None


def make_samples(n: int, per_prompt: int = 4, reference: str | None = None) -> list[Sample]:
    rng = np.random.default_rng(1)
    return [
        Sample(
            image=f"/db/{number}.png",
            reference=reference,
            prompt=None,
            generator=("MJ", "SD")[number % 2],
            group=f"prompt {number // per_prompt}",
            scores={"quality": float(rng.uniform(0, 5)), "authenticity": float(rng.uniform(0, 5))},
        )
        for number in range(n)
    ]


def made_up(label: str, samples: list[Sample], noise: float, seed: int = 0, **options) -> Predictions:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    scores = np.array([sample.scores["quality"] for sample in samples]) + rng.normal(0, noise, len(samples))
    return Predictions(label, {"quality": scores}, (None,) * len(samples), **options)


PAPER = Setting("pku-i2iqa", "paper", "test", None, "0123456789abcdef")


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    samples = make_samples(80)
    good = made_up("fr-resnet50", samples, 0.5, metric="fr-resnet50")
    poor = made_up("other & co_1%", samples, 3.0, seed=1)
    return evaluate([good, poor], samples, setting=PAPER, resamples=200)


def test_an_evaluation_holds_everything(evaluation: Evaluation) -> None:
    good, poor = evaluation.results
    mos = np.array([sample.scores["quality"] for sample in evaluation.samples])
    scores = evaluation.predictions[0].scores["quality"]
    assert good.agreement.srcc.value == srcc(scores, mos)
    assert (good.agreement.n, good.agreement.groups, good.failed) == (80, 20, 0)
    assert list(good.generators) == ["MJ", "SD"]
    assert good.generators["SD"].srcc.value == srcc(scores[1::2], mos[1::2])
    assert good.generators["SD"].n == 40
    assert good.within == srcc_within(scores, mos, [s.group for s in evaluation.samples], resamples=200)
    assert good.published == published("paper", "fr", "resnet50", "quality")
    assert poor.published is None
    assert evaluation.result("fr-resnet50", "quality") is good
    with pytest.raises(KeyError, match="no result of 'fr-resnet50' on 'overall'"):
        evaluation.result("fr-resnet50", "overall")
    (pair,) = evaluation.comparisons
    assert (pair.first, pair.second, pair.n) == ("fr-resnet50", "other & co_1%", 80)
    assert pair.difference.value == pytest.approx(good.agreement.srcc.value - poor.agreement.srcc.value)
    assert 0 < pair.difference.low < pair.difference.value < pair.difference.high
    between = srcc(scores, evaluation.predictions[1].scores["quality"])
    assert pair.williams == williams(good.agreement.srcc.value, poor.agreement.srcc.value, between, 80)
    assert pair.steiger.p < 0.001
    other = evaluation.predictions[1].scores["quality"]
    (weights,) = bootstrap.weights([sample.group for sample in evaluation.samples], 200, seed=0)
    draws = bootstrap.spearman(weights, scores, mos) - bootstrap.spearman(weights, other, mos)
    assert (pair.difference.low, pair.difference.high) == bootstrap.percentiles(draws)


@pytest.mark.parametrize(
    "change",
    [{"part": "validation"}, {"database": "agiqa-3k"}, {"protocol": "prompt-disjoint"}],
)
def test_the_papers_row_is_for_its_own_setting_only(change: dict[str, str]) -> None:
    samples = make_samples(20)
    found = evaluate(
        made_up("x", samples, 1, metric="fr-vgg16"), samples, setting=dataclasses.replace(PAPER, **change), resamples=9
    )
    assert found.results[0].published is None


def test_low_scores_may_be_good() -> None:
    samples = make_samples(40)
    plain = made_up("x", samples, 0.5)
    inverted = dataclasses.replace(plain, scores={"quality": -plain.scores["quality"]}, lower_better=True)
    first = evaluate(plain, samples, resamples=50).results[0]
    assert evaluate(inverted, samples, resamples=50).results[0] == first
    assert first.agreement.srcc.value > 0.9


def test_failures_are_left_out_and_reported() -> None:
    samples = make_samples(40)
    whole = made_up("x", samples, 0.5)
    scores = whole.scores["quality"].copy()
    scores[3] = math.nan
    torn = Predictions("y", {"quality": scores}, tuple("torn" if i == 3 else None for i in range(40)))
    found = evaluate([whole, torn], samples, resamples=20)
    assert found.failures == [("y", "/db/3.png", "torn")]
    assert [each.failed for each in found.results] == [0, 1]
    assert [each.agreement.n for each in found.results] == [40, 39]
    assert found.comparisons[0].n == 39
    assert "torn" in tables.predictions_csv(found)
    assert json.loads(tables.to_json(found))["failures"] == [{"metric": "y", "image": "/db/3.png", "error": "torn"}]


def test_what_can_not_be_evaluated_is_refused() -> None:
    samples = make_samples(20)
    one = made_up("x", samples, 1)
    with pytest.raises(ValueError, match="can't evaluate 'overall'"):
        evaluate(one, samples, dimensions=["overall"])
    with pytest.raises(ValueError, match="can't evaluate 'authenticity': no metric here predicts it"):
        evaluate(one, samples, dimensions=["authenticity"])
    with pytest.raises(ValueError, match="label of its own; got x, x"):
        evaluate([one, one], samples)
    with pytest.raises(ValueError, match="short: predictions of 1 samples, not of these 20"):
        evaluate(Predictions("short", {"quality": np.ones(1)}, (None,) * 20), samples)
    with pytest.raises(ValueError, match="predictions of 20 samples, not of these 10"):
        evaluate(one, samples[:10])
    beauty = dataclasses.replace(one, scores={"beauty": one.scores["quality"]})
    with pytest.raises(ValueError, match="nothing to compare: the metrics predict beauty"):
        evaluate(beauty, samples)
    failed = Predictions("x", {"quality": np.full(20, math.nan)}, ("x.png: torn",) * 20)
    with pytest.raises(ValueError, match=r"of 0 of 20 images.*first problem: x.png: torn"):
        evaluate(failed, samples)
    with pytest.raises(ValueError, match="same metric twice"):
        evaluate(["nr-lite", "nr-lite"], samples)
    with pytest.raises(ValueError, match="0 metrics and 20 samples"):
        predict({}, samples)


def test_metrics_that_can_not_be_compared_are_still_reported() -> None:
    samples = make_samples(20)
    flat = Predictions("flat", {"quality": np.ones(20)}, (None,) * 20)
    found = evaluate([made_up("x", samples, 1), flat], samples, resamples=20)
    assert found.comparisons == ()
    assert math.isnan(found.result("flat", "quality").agreement.srcc.value)
    assert found.result("flat", "quality").within.value == 0
    assert "n/a" in tables.to_terminal(found)
    assert json.loads(tables.to_json(found))["results"][1]["srcc"]["value"] is None


def test_metrics_run_in_one_pass_of_all_dimensions(tmp_path: Path) -> None:
    samples = []
    for number, sample in enumerate(make_samples(6)):
        for name in (f"{number}.png", f"prompt{number // 4}.png"):
            Image.fromarray(draw(70, 80, seed=sum(name.encode()))).save(tmp_path / name)
        samples.append(
            dataclasses.replace(
                sample, image=str(tmp_path / f"{number}.png"), reference=str(tmp_path / f"prompt{number // 4}.png")
            )
        )
    (tmp_path / "5.png").write_bytes(b"not an image")
    metrics = {"mine": untrained("fr-resnet18"), "nr-resnet18": untrained("nr-resnet18")}
    ticks: list[None] = []
    mine, nr = predict(metrics, samples, workers=0, batch_size=2, progress=lambda: ticks.append(None))
    assert len(ticks) == 12
    assert (mine.label, mine.metric, nr.metric) == ("mine", "fr-resnet18", "nr-resnet18")
    for number, sample in enumerate(samples[:5]):
        expected = untrained("fr-resnet18").predict(sample.image, sample.reference)
        for dimension, value in expected.items():
            assert mine.scores[dimension][number] == pytest.approx(value.item(), abs=1e-4)
    assert mine.errors[:5] == (None,) * 5
    assert "5.png" in str(mine.errors[5])
    assert math.isnan(nr.scores["overall"][5])
    found = evaluate([mine, untrained("nr-resnet18")], samples, workers=0, resamples=10)
    assert [(each.metric, each.dimension) for each in found.results] == [
        (label, dimension) for dimension in ("quality", "authenticity") for label in ("mine", "nr-resnet18")
    ]
    named = evaluate("nr-lite", samples[:4], workers=0, resamples=10)
    assert named.results[0].metric == "nr-lite"


def test_tables_to_be_read(evaluation: Evaluation) -> None:
    terminal = tables.to_terminal(evaluation)
    assert terminal.startswith("pku-i2iqa, protocol paper, test part, split 0123456789ab: 80 images of 20 prompts.")
    good = evaluation.results[0]
    line = next(line for line in terminal.splitlines() if re.match(r"fr-resnet50 +quality", line))
    assert good.published is not None
    assert f"{good.published.srcc:.4f}" in line
    assert f"{good.agreement.srcc.value - good.published.srcc:+.3f}" in line
    assert f"{good.agreement.srcc.value:.3f} [{good.agreement.srcc.low:.3f}" in line
    for heading in ("Agreement with people", "Per generator", "Differences between metrics"):
        assert heading in terminal
    widths = {len(line.rstrip()) for line in terminal.split("\n\n")[1].splitlines()[1:]}
    assert max(widths) < 140


def test_markdown(evaluation: Evaluation) -> None:
    text = tables.to_markdown(evaluation)
    assert text.count("## ") == 3
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = block.splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert re.fullmatch(r"\|( ---:? \|)+", lines[1])
    samples = make_samples(12)
    found = evaluate(Predictions("a_*b*", {"quality": np.ones(12)}, (None,) * 12), samples, resamples=0)
    assert r"Note: a\_\*b\* gives all 12 images the same quality score" in tables.to_markdown(found)
    piped = TextTable("t", ("a|b",), (("c|d",),), 1)
    assert piped.markdown() == "| a\\|b |\n| --- |\n| c\\|d |"


def test_latex_compiles_by_its_rules(evaluation: Evaluation) -> None:
    text = tables.to_latex(evaluation)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 3
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line != r"\hline"]
        assert all(row.endswith(r" \\") for row in rows)
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)}
        assert body.count(r"\hline") == 3
        bare = re.sub(r"\\[%&_#${}]", "", body)
        assert not re.search(r"[%_#]", bare)
        assert bare.count("$") % 2 == 0
        assert body.isascii()
    assert r"other \& co\_1\%" in text
    assert "toprule" not in text


def test_csv_holds_every_figure(evaluation: Evaluation) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.to_csv(evaluation))))
    assert [(row["metric"], row["generator"]) for row in rows[:3]] == [
        ("fr-resnet50", ""),
        ("fr-resnet50", "MJ"),
        ("fr-resnet50", "SD"),
    ]
    good = evaluation.results[0]
    for name, interval in good.agreement.intervals().items():
        for suffix, value in (("", interval.value), ("_low", interval.low), ("_high", interval.high)):
            assert float(rows[0][name + suffix]) == pytest.approx(value, abs=1e-6)
    assert good.published is not None
    assert float(rows[0]["paper_srcc"]) == good.published.srcc
    assert float(rows[0]["plcc_difference"]) == pytest.approx(good.agreement.plcc.value - good.published.plcc, abs=1e-6)
    assert rows[1]["paper_srcc"] == rows[3]["paper_srcc"] == ""
    assert rows[0]["protocol"] == "paper"


def test_json_holds_everything(evaluation: Evaluation) -> None:
    found = json.loads(tables.to_json(evaluation))
    assert found["split"] == "0123456789abcdef"
    assert found["samples"] == 80
    first = found["results"][0]
    assert first["srcc"] == dataclasses.asdict(evaluation.results[0].agreement.srcc)
    assert first["mapping"]["width"] > 0
    assert first["paper"]["srcc_difference"] == pytest.approx(first["srcc"]["value"] - first["paper"]["srcc"])
    assert set(first["generators"]) == {"MJ", "SD"}
    assert found["comparisons"][0]["williams"]["p"] < 0.001


def test_predictions_can_be_evaluated_again(evaluation: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    write_text(path, tables.predictions_csv(evaluation))
    table = PrecomputedScores.read(path)
    assert list(table.metrics) == ["fr-resnet50", "other & co_1%"]
    again = [table.predictions(name, evaluation.samples, root="/db", dimensions=()) for name in table.metrics]
    repeated = evaluate(again, evaluation.samples, setting=PAPER, resamples=200)
    for one, other in zip(repeated.results, evaluation.results, strict=True):
        assert one.agreement.srcc == other.agreement.srcc
        assert one.published == other.published


@pytest.mark.parametrize("name", ["report.csv", "report.json", "new/report.md", "report.TEX"])
def test_reports_are_written_by_their_ending(evaluation: Evaluation, tmp_path: Path, name: str) -> None:
    tables.write_report(evaluation, tmp_path / name)
    assert "fr-resnet50" in (tmp_path / name).read_text()


def test_a_report_of_another_ending_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in one of .csv, .json, .md, .tex"):
        tables.write_report(evaluation, tmp_path / "report.xlsx")


def write_table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_tables_of_any_metric(tmp_path: Path) -> None:
    samples = make_samples(4)
    path = write_table(
        tmp_path / "lpips.csv", "image,seed,lpips", "0.png,7,0.5", "/db/1.png,7,0.25", "other/2.png,7,", "x.png,7,1"
    )
    table = PrecomputedScores.read(path, columns=["lpips"])
    assert table.metrics == {}
    assert "lpips" in table
    assert "nothing" not in table
    found = table.predictions("lpips", samples, root="/db", dimensions=["quality", "overall"], lower_better=True)
    assert set(found.scores) == {"quality", "overall"}
    assert found.scores["quality"][:2].tolist() == [0.5, 0.25]
    assert found.lower_better
    assert found.metric is None
    assert [error is None for error in found.errors] == [True, True, False, False]
    assert "has no lpips of it" in str(found.errors[2])
    assert "/db/3.png: not in" in str(found.errors[3])


def test_a_table_without_metric_is_named_after_its_file(tmp_path: Path) -> None:
    path = write_table(tmp_path / "mine.csv", "image,quality,error", "0.png,1.5,", "1.png,,torn")
    table = PrecomputedScores.read(path)
    found = table.predictions("mine", make_samples(2), root="/db", dimensions=())
    assert found.scores["quality"][0] == 1.5
    assert found.errors == (None, "torn")


def test_names_of_several_images_are_not_guessed(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv", "image,quality", "a/0.png,1", "b/0.png,2")
    (found,) = [PrecomputedScores.read(path).predictions("t", make_samples(1), root="/db", dimensions=())]
    assert "not in" in str(found.errors[0])


def test_malformed_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        PrecomputedScores.read(tmp_path / "absent.csv")
    with pytest.raises(ValueError, match=r"ends in one of \.csv, \.json, \.jsonl, \.parquet"):
        PrecomputedScores.read(tmp_path / "scores.txt")
    with pytest.raises(ValueError, match="no column 'image'; it has: photo, quality"):
        PrecomputedScores.read(write_table(tmp_path / "a.csv", "photo,quality", "0.png,1"))
    with pytest.raises(ValueError, match="has no rows"):
        PrecomputedScores.read(write_table(tmp_path / "a.csv", "image,quality"))
    with pytest.raises(ValueError, match="no column of scores; it has: image, error"):
        PrecomputedScores.read(write_table(tmp_path / "a.csv", "image,error", "0.png,"))
    with pytest.raises(ValueError, match="row 1: 'quality' is 'good'; expected a finite number"):
        PrecomputedScores.read(write_table(tmp_path / "a.csv", "image,quality", "0.png,good"))
    twice = PrecomputedScores.read(write_table(tmp_path / "a.csv", "image,quality", "0.png,1", "/db/0.png,1"))
    with pytest.raises(ValueError, match=r"two rows of /db/0.png"):
        twice.predictions("a", make_samples(1), root="/db", dimensions=())
    with pytest.raises(ValueError, match=r"no scores of 'b'; it has a"):
        twice.predictions("b", make_samples(1), root="/db", dimensions=())


@pytest.mark.usefixtures("own_metric")
def test_a_dimension_of_ones_own_is_in_every_table(tmp_path: Path) -> None:
    samples = [
        dataclasses.replace(s, scores={**s.scores, "aesthetics": s.scores["quality"] + 5}) for s in make_samples(20)
    ]
    lines = [f"{number}.png,{number % 7},{number % 5}" for number in range(20)]
    table = PrecomputedScores.read(write_table(tmp_path / "nr-mine.csv", "image,aesthetics,quality", *lines))
    found = evaluate(table.predictions("nr-mine", samples, root="/db", dimensions=()), samples, resamples=10)
    assert [each.dimension for each in found.results] == ["quality", "aesthetics"]
    for text in (tables.to_terminal(found), tables.to_markdown(found), tables.to_latex(found), tables.to_csv(found)):
        assert "aesthetics" in text
    assert "mos_aesthetics" in tables.predictions_csv(found)
    assert json.loads(tables.to_json(found))["results"][1]["dimension"] == "aesthetics"
    assert len(plots.write_plots(found, tmp_path, formats=["svg"])) == 4


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_scores_are_read_in_every_format_that_is_written(suffix: str, tmp_path: Path) -> None:
    columns = columns_of(["quality"])
    sink = FileSink(str(tmp_path / f"scores{suffix}"), columns, {"format": 1})
    sink.start()
    records = [
        Record("0.png", None, None, "nr-lite", {"quality": 2.5}),
        Record("1.png", None, None, "nr-lite", error="torn"),
    ]
    sink.write([to_row(record, columns) for record in records])
    sink.close()
    table = PrecomputedScores.read(tmp_path / f"scores{suffix}")
    found = table.predictions("nr-lite", make_samples(2), root="/db", dimensions=())
    assert found.scores["quality"][0] == 2.5
    assert found.errors == (None, "torn")
    assert found.metric == "nr-lite"


def test_what_a_head_records() -> None:
    recorded = Training.recorded(
        {"database": "agiqa-3k", "protocol": "k-fold", "seed": 3, "split": "abc", "options": {"fold": 1, "subset": "x"}}
    )
    assert recorded == Training("agiqa-3k", "k-fold", 3, "abc", {"fold": 1})
    assert Training.recorded({"database": "agiqa-3k"}) is None
    assert Training.recorded({"database": 3, "protocol": "paper"}) is None
    assert Training.recorded({"database": "a", "protocol": "paper", "seed": None}) == Training("a", "paper")


def test_plots_are_drawn(evaluation: Evaluation, tmp_path: Path) -> None:
    paths = plots.write_plots(evaluation, tmp_path / "plots")
    assert {path.name for path in paths} == {
        f"{stem}.{suffix}"
        for stem in ("scatter-fr-resnet50-quality", "scatter-other_co_1-quality", "generators-quality")
        for suffix in ("png", "svg")
    }
    for path in paths:
        if path.suffix == ".png":
            image = np.asarray(Image.open(path).convert("L"))
            assert min(image.shape) > 500
            assert image.std() > 10
        else:
            text = path.read_text()
            assert "SRCC" in text
            assert "fr-resnet50" in text or "other" in text
    again = plots.write_plots(evaluation, tmp_path / "again")
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in paths]


def test_plots_of_few_values(tmp_path: Path) -> None:
    samples = [dataclasses.replace(sample, generator=None) for sample in make_samples(12)]
    flat = Predictions("flat", {"quality": np.ones(12)}, (None,) * 12, lower_better=True)
    paths = plots.write_plots(evaluate(flat, samples, resamples=10), tmp_path, formats=["svg"])
    assert [path.name for path in paths] == ["scatter-flat-quality.svg"]
    text = paths[0].read_text()
    assert "lower is better" in text
    assert ">n 12   SRCC n/a   PLCC n/a<" in text


def test_no_plot_takes_anothers_name(tmp_path: Path) -> None:
    samples = [dataclasses.replace(sample, generator=None) for sample in make_samples(12)]
    labels = ("a b", "A/b", "a_b")
    found = evaluate([Predictions(each, {"quality": np.arange(12.0)}, (None,) * 12) for each in labels], samples)
    assert [path.name for path in plots.write_plots(found, tmp_path, formats=["png"])] == [
        "scatter-a_b-quality.png", "scatter-A_b-quality-2.png", "scatter-a_b-quality-3.png"
    ]  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 3


def test_without_matplotlib_the_extra_is_named(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"aigciqa\[plot\]"):
        plots.write_plots(evaluation, tmp_path / "plots")
    assert not (tmp_path / "plots").exists()


def test_an_interval_prints_itself() -> None:
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"

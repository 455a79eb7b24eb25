"""Opinion scores as maths: against sureal, published figures, closed forms, and truths that simulated raters hide."""

from __future__ import annotations

import contextlib
import io
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aigciqa.errors import InputError
from aigciqa.stats.opinion import agreement, classical
from aigciqa.stats.opinion.bradley_terry import Choices, bradley_terry
from aigciqa.stats.opinion.p910 import p910
from aigciqa.stats.opinion.votes import Votes
from tests import opinion_data

NAN = math.nan


def simulated(seed: int, images: int, raters: int, seen: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """True scores (m,), and votes (m, r) on five grades by raters with biases and inconsistencies of their own."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(1.5, 4.5, images)
    bias = rng.normal(0, 0.5, raters)
    noise = rng.uniform(0.4, 1.2, raters) * rng.normal(size=(images, raters))
    votes = np.clip(np.round(truth[:, None] + bias - bias.mean() + noise), 1, 5)
    return truth, np.where(rng.random(votes.shape) < seen, votes, NAN)


def sureal(model: str, matrix: np.ndarray) -> dict[str, Any]:
    """What a model of sureal makes of votes (m, r)."""
    from sureal import subjective_model
    from sureal.dataset_reader import RawDatasetReader

    videos = [{"content_id": 0, "asset_id": row, "path": "", "os": list(votes)} for row, votes in enumerate(matrix)]
    references = [{"content_id": 0, "content_name": "", "path": ""}]
    reader = RawDatasetReader(SimpleNamespace(ref_videos=references, dis_videos=videos))
    with contextlib.redirect_stdout(io.StringIO()):
        result: dict[str, Any] = getattr(subjective_model, model)(reader).run_modeling()
    return result


def error(scores: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((scores - truth) ** 2)))


def test_p910_gives_what_its_demonstration_publishes() -> None:
    opinion = p910(Votes.of_matrix(opinion_data.demonstration()))
    for found, published in (
        (opinion.bias[:4], opinion_data.BIAS),
        (opinion.inconsistency[:4], opinion_data.INCONSISTENCY),
        (opinion.score[:3], opinion_data.FIRST_SCORES),
        (opinion.score[-3:], opinion_data.LAST_SCORES),
    ):
        assert found == pytest.approx(published, abs=1e-7)


@pytest.mark.parametrize("seen", [1.0, 0.6])
def test_p910_is_sureals_also_where_raters_saw_subsets(seen: float) -> None:
    _, matrix = simulated(3, 60, 40, seen)
    opinion = p910(Votes.of_matrix(matrix))
    theirs = sureal("MaximumLikelihoodEstimationModelContentObliviousAlternativeProjection2", matrix)
    assert opinion.score == pytest.approx(theirs["quality_scores"], abs=1e-6)
    assert opinion.bias == pytest.approx(theirs["observer_bias"], abs=1e-6)
    assert opinion.inconsistency == pytest.approx(theirs["observer_inconsistency"], abs=1e-6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # sureal's
@pytest.mark.parametrize(
    ("model", "method"), [("SubjrejMosModel", classical.bt500), ("BiasremvSubjrejMosModel", classical.p913)]
)
@pytest.mark.parametrize("seed", [2, 5, 6])
def test_screening_is_sureals_where_everybody_saw_everything(model: str, method: Any, seed: int) -> None:
    """sureal divides by n for the standard deviation, BT.500 by n - 1: of these votes, it makes no difference."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(1.5, 4.5, 40)[:, None] + rng.normal(0, 0.3, 20)
    matrix = np.clip(np.round(level + rng.uniform(0.4, 0.8, 20) * rng.normal(size=(40, 20))), 1, 5)
    matrix[:, 0] = rng.integers(1, 6, 40)
    matrix[:, 1] = 6 - matrix[:, 1]
    opinion, theirs = method(Votes.of_matrix(matrix)), sureal(model, matrix)
    assert [bool(why) for why in opinion.rejected] == theirs["observer_rejected"]
    assert any(opinion.rejected)
    assert opinion.score == pytest.approx(theirs["quality_scores"], abs=1e-9)


def test_the_mean_and_z_scores_are_sureals() -> None:
    matrix = opinion_data.demonstration()
    opinion, theirs = classical.mean(Votes.of_matrix(matrix)), sureal("MosModel", matrix)
    assert opinion.score == pytest.approx(theirs["quality_scores"])
    assert opinion.std == pytest.approx(theirs["quality_ambiguity"])
    opinion, theirs = classical.zscore(Votes.of_matrix(matrix)), sureal("ZscoringMosModel", matrix)
    assert np.corrcoef(opinion.score, theirs["quality_scores"])[0, 1] == pytest.approx(1)
    assert opinion.score.mean() == pytest.approx(np.nanmean(matrix), abs=0.01)


def test_p910_by_hand() -> None:
    """Raters who agree but for their biases: every vote is the score plus the bias."""
    scores, biases = np.array([1.5, 3.0, 4.0]), np.array([0.5, 0.0, -0.5])
    opinion = p910(Votes.of_matrix(scores[:, None] + biases))
    assert opinion.score == pytest.approx(scores)
    assert opinion.bias == pytest.approx(biases)
    assert opinion.std == pytest.approx([0, 0, 0], abs=1e-9)


def test_the_mean_by_hand() -> None:
    opinion = classical.mean(Votes.of_matrix([[4, 5, 3], [2, NAN, NAN], [5, 5, 5]]))
    assert opinion.score == pytest.approx([4, 2, 5])
    assert opinion.votes.tolist() == [3, 1, 3]
    half = stats.t.ppf(0.975, 2) / math.sqrt(3)
    assert (opinion.low[0], opinion.high[0]) == pytest.approx((4 - half, 4 + half))
    assert math.isnan(opinion.low[1])
    assert math.isnan(opinion.std[1])
    assert opinion.high[2] - 5 == pytest.approx(1 - 0.05 ** (1 / 3)), "three equal votes are no certainty"


def test_the_share_of_bt500_is_of_the_votes_that_were_cast() -> None:
    """One rater saw ten of 200 images and was far from the others in two, which would be 1% of all images."""
    rng = np.random.default_rng(0)
    matrix = 3 + rng.uniform(-1, 1, (200, 40))  # never far, as its kurtosis is below 2
    matrix[10:, 0] = NAN
    matrix[0, 0], matrix[1, 0] = 20, -20
    opinion = classical.bt500(Votes.of_matrix(matrix))
    assert opinion.rejected[0] == "20% of the votes far from the others', on both sides"
    assert not any(opinion.rejected[1:])


def test_bt500_does_not_reject_for_a_bias_nor_all_raters() -> None:
    rng = np.random.default_rng(0)
    matrix = 3 + rng.normal(0, 0.3, (40, 20))
    matrix[:, 0] += 4
    assert not any(classical.bt500(Votes.of_matrix(matrix)).rejected)
    equal = classical.bt500(Votes.of_matrix(np.full((10, 4), 3.0)))
    assert not any(equal.rejected), "votes that are all equal are far from nothing"


def test_p910_is_nearer_the_truth_than_the_mean() -> None:
    for seed in range(5):
        truth, matrix = simulated(seed, 80, 25, seen=0.4)
        votes = Votes.of_matrix(matrix)
        assert error(p910(votes).score, truth) < error(classical.mean(votes).score, truth)


def test_z_scores_mislead_where_raters_saw_different_images() -> None:
    """Half of the raters saw the better images only: their mean is higher with reason."""
    truth, matrix = simulated(0, 60, 30)
    better = truth > np.median(truth)
    matrix[np.ix_(~better, np.arange(30) < 13)] = NAN
    matrix[np.ix_(better, np.arange(30) >= 17)] = NAN
    votes = Votes.of_matrix(matrix)
    errors = {method.__name__: error(method(votes).score, truth) for method in (p910, classical.mean, classical.zscore)}
    assert errors["p910"] < errors["mean"] < errors["zscore"] / 2


@pytest.mark.parametrize("raters", [3, 5, 12])
def test_the_intervals_of_few_raters_are_honest(raters: int) -> None:
    """Unbounded, the likelihood of few raters follows one of them, and the intervals shrink to nothing."""
    within, widths = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        truth, bias = rng.uniform(1, 5, 40), rng.normal(0, 0.5, raters)
        noise = rng.uniform(0.5, 1, raters) * rng.normal(size=(40, raters))
        opinion = p910(Votes.of_matrix(truth[:, None] + bias - bias.mean() + noise))
        within.append((opinion.low <= truth) & (truth <= opinion.high))
        widths.append(np.mean(opinion.high - opinion.low))
    assert 0.90 < np.mean(within) < 0.98
    assert np.mean(widths) < 4 * 0.78 * 1.3 / math.sqrt(raters)


def test_the_intervals_of_the_mean_hold_the_mean_of_all_people() -> None:
    rng = np.random.default_rng(0)
    opinion = classical.mean(Votes.of_matrix(np.round(rng.normal(3.2, 0.9, (3000, 6)))))
    assert 0.93 < np.mean((opinion.low <= 3.2) & (opinion.high >= 3.2)) < 0.97


@pytest.mark.parametrize("method", [p910, classical.p913, classical.zscore])
def test_raters_without_information_are_rejected(method: Any) -> None:
    _, matrix = simulated(0, 20, 8)
    matrix[:, 0] = 4
    matrix[1:, 1] = NAN
    opinion = method(Votes.of_matrix(matrix))
    assert opinion.rejected[:2] == ("one value in all 20 votes", "a single vote")
    assert not any(opinion.rejected[2:])
    assert opinion.votes.tolist() == [6] * 20
    for nothing in (np.where(np.eye(4) > 0, 3.0, NAN), np.full((10, 2), 3.0)):
        with pytest.raises(InputError, match=r"raters who .* and there are none: take the method mean"):
            method(Votes.of_matrix(nothing))


def test_a_rater_of_one_value_would_spoil_p910() -> None:
    """In the model, whoever clicks one value is consistent where images differ little."""
    rng = np.random.default_rng(0)
    truth = rng.normal(3, 0.3, 60)
    honest = truth[:, None] + rng.normal(0, 0.8, (60, 10))
    with_clickers = np.hstack([honest, np.full((60, 5), 4.0)])
    clean, screened = (p910(Votes.of_matrix(matrix)).score for matrix in (honest, with_clickers))
    assert screened == pytest.approx(clean)


def test_without_a_vote_left_over_there_is_no_interval() -> None:
    """Four votes for three scores, and for two biases of which one is given by the other."""
    opinion = p910(Votes.of_matrix([[4, 3], [2, NAN], [NAN, 3]]))
    assert opinion.score == pytest.approx([3.5, 1.5, 3.5])
    assert np.isnan([opinion.low, opinion.high]).all()


def test_votes_that_the_model_explains_wholly_leave_a_doubt() -> None:
    """Two raters a grade apart: without a residual, as for equal votes, 1 - 0.05 ** (1 / 2) of a grade is left."""
    opinion = p910(Votes.of_matrix([[1, 2], [2, 3], [4, 5]]))
    assert opinion.high - opinion.score == pytest.approx(np.full(3, 1 - 0.05**0.5))


@pytest.mark.parametrize("method", [classical.mean, classical.bt500, classical.p913, classical.zscore])
def test_equal_votes_leave_the_doubt_of_a_grade_whatever_is_taken_off_them(method: Any) -> None:
    """Two raters who agree of an image, with biases and deviations of their own."""
    _, matrix = simulated(1, 30, 6)
    matrix[:2, 2:] = NAN
    matrix[0, :2] = 4
    opinion = method(Votes.of_matrix(matrix))
    assert opinion.high[0] - opinion.score[0] >= 1 - 0.05**0.5 - 1e-12
    matrix[:, 1] = matrix[:, 0]
    opinion = method(Votes.of_matrix(matrix))
    assert opinion.high[:2] - opinion.score[:2] == pytest.approx(np.full(2, 1 - 0.05**0.5))


def test_biases_that_explain_all_leave_a_doubt_too() -> None:
    opinion = classical.p913(Votes.of_matrix([[1, 2], [2, 3], [4, 5]]))
    assert opinion.high - opinion.score == pytest.approx(np.full(3, 1 - 0.05**0.5))


def test_parts_without_a_rater_in_common_are_told() -> None:
    matrix = np.full((6, 4), NAN)
    matrix[:3, :2] = [[1, 2], [3, 4], [4, 5]]
    matrix[3:, 2:] = [[5, 3], [4, 2], [3, 1]]
    votes = Votes.of_matrix(matrix)
    assert votes.parts()[0] == 2
    assert p910(votes).bias == pytest.approx([-0.5, 0.5, 1, -1])
    assert p910(votes).score == pytest.approx([1.5, 3.5, 4.5, 4, 3, 2])


def test_krippendorffs_published_example() -> None:
    """Krippendorff 2011, "Computing Krippendorff's alpha-reliability", part D: four observers, twelve units."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
    votes = Votes.of_matrix(np.array(observers).T)
    assert agreement.krippendorff_alpha(votes) == pytest.approx(0.849, abs=5e-4)
    assert agreement.krippendorff_alpha(votes, ordinal=True) == pytest.approx(0.815, abs=5e-4)


def test_the_intraclass_correlations_of_shrout_and_fleiss() -> None:
    """Shrout and Fleiss 1979, tables 2 and 4: ICC(2,1) and ICC(2,4)."""
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert agreement.icc(Votes.of_matrix(ratings)) == pytest.approx((0.29, 0.62), abs=5e-3)


def test_the_intraclass_correlation_is_right_where_raters_saw_subsets() -> None:
    """Variances of images, raters and noise 1, 0.25 and 0.5."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(0, 1, (400, 1)) + rng.normal(0, 0.5, (1, 300)) + rng.normal(0, 0.5**0.5, (400, 300))
    matrix[rng.random(matrix.shape) > 0.05] = NAN
    assert agreement.icc(Votes.of_matrix(matrix)).single == pytest.approx(1 / 1.75, abs=0.04)


def test_agreement_of_nobody_is_nan_and_of_all_is_one() -> None:
    single = Votes.of_matrix([[1, NAN], [NAN, 2]])
    assert np.isnan([*agreement.icc(single), agreement.krippendorff_alpha(single), agreement.split_half(single)]).all()
    same = Votes.of_matrix([[1, 1, 1, 1], [3, 3, 3, 3], [2, 2, 2, 2], [5, 5, 5, 5]])
    assert [*agreement.icc(same), agreement.krippendorff_alpha(same), agreement.split_half(same)] == pytest.approx(
        [1, 1, 1, 1]
    )


def test_the_split_half_correlation_is_that_of_half_the_raters() -> None:
    """Variance 1 between images, and 4 / 10 of noise in the mean of ten raters."""
    rng = np.random.default_rng(0)
    votes = Votes.of_matrix(rng.normal(0, 1, (2000, 1)) + rng.normal(0, 2, (2000, 20)))
    assert agreement.split_half(votes) == pytest.approx(1 / 1.4, abs=0.02)
    assert agreement.split_half(votes) == agreement.split_half(votes)


def test_the_correlation_with_the_others() -> None:
    _, matrix = simulated(0, 30, 6, seen=0.8)
    matrix[:, 0] = 6 - matrix[:, 1]
    found = agreement.with_others(Votes.of_matrix(matrix))
    for rater in range(6):
        others = np.nanmean(np.delete(matrix, rater, axis=1), axis=1)
        both = np.isfinite(matrix[:, rater]) & np.isfinite(others)
        assert found[rater] == pytest.approx(np.corrcoef(matrix[both, rater], others[both])[0, 1])
    assert found[0] < 0


def pairs(*rows: tuple[int, int, float, float], things: int) -> Choices:
    first, second, result, count = zip(*rows, strict=True)
    return Choices(np.array(first), np.array(second), np.array(result), np.array(count, dtype=float), things)


def test_bradley_terry_of_two_by_hand() -> None:
    """30 to 10: the log of 3 apart, with the error of a log odds ratio, sqrt(1 / 30 + 1 / 10)."""
    found = bradley_terry(pairs((0, 1, 1, 30), (0, 1, 0, 10), things=2))
    apart = found.strength[0] - found.strength[1]
    assert apart == pytest.approx(math.log(3))
    assert found.error[0] * 2 == pytest.approx(math.sqrt(1 / 30 + 1 / 10))
    assert found.high[0] - found.low[0] == pytest.approx(2 * 1.959964 * found.error[0])
    assert found.votes.tolist() == [40, 40]
    assert found.ties == -math.inf
    assert found.bounded


def test_davidsons_ties_by_hand() -> None:
    """30 to 10 and 20 ties: ties do not part them, and the parameter is 20 / sqrt(30 x 10)."""
    found = bradley_terry(pairs((0, 1, 1, 30), (1, 0, 1, 10), (0, 1, 0.5, 20), things=2))
    assert found.strength[0] - found.strength[1] == pytest.approx(math.log(3))
    assert math.exp(found.ties) == pytest.approx(20 / math.sqrt(300))


def test_bradley_terry_is_the_maximum_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 5, 300)
    second = (first + rng.integers(1, 5, 300)) % 5
    result = rng.choice([0, 0.5, 1], 300)
    found = bradley_terry(Choices(first, second, result, np.ones(300), 5))

    def likelihood(strength: np.ndarray, ties: float) -> float:
        one, other = np.exp(strength[first]), np.exp(strength[second])
        tie = math.exp(ties) * np.sqrt(one * other)
        return float(np.log(np.choose((result * 2).astype(int), [other, tie, one]) / (one + other + tie)).sum())

    best = likelihood(found.strength, found.ties)
    for _ in range(200):
        assert likelihood(found.strength + rng.normal(0, 0.05, 5), found.ties + rng.normal(0, 0.05)) < best


def test_who_was_always_chosen_gets_a_finite_strength() -> None:
    found = bradley_terry(pairs((0, 1, 1, 8), (1, 2, 1, 5), (2, 1, 1, 3), things=3))
    assert not found.bounded
    assert found.strength[0] > found.strength[1] > found.strength[2]
    assert np.isfinite([found.low, found.high]).all()
    ties = bradley_terry(pairs((0, 1, 0.5, 8), things=2))
    assert ties.strength == pytest.approx([0, 0])
    assert not ties.bounded


def test_ties_do_not_bound_what_was_chosen_one_way_only() -> None:
    """A win and a tie: ever more likely, the farther apart. In a circle, more wins than ties have a maximum."""
    found = bradley_terry(pairs((0, 1, 1, 1), (0, 1, 0.5, 1), things=2))
    assert not found.bounded
    assert found.high[0] < 3
    last = pairs((2, 0, 0, 1), (3, 2, 0.5, 2), (1, 0, 0.5, 1), (1, 3, 0.5, 1), things=4)
    assert np.isfinite(bradley_terry(last).error).all()
    circle = bradley_terry(pairs((0, 1, 1, 1), (1, 2, 1, 1), (0, 2, 0.5, 1), things=3))
    assert circle.bounded
    assert circle.strength[1] == pytest.approx(0, abs=1e-9)


def test_unconnected_comparisons_are_centred_apart() -> None:
    found = bradley_terry(pairs((0, 1, 1, 30), (1, 0, 1, 10), (2, 3, 1, 9), (3, 2, 1, 3), things=5))
    assert found.part[0] == found.part[1] != found.part[2] == found.part[3]
    assert found.strength[:2] == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert found.strength[2:4] == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    assert math.isnan(found.strength[4])
    assert found.votes[4] == 0


def test_errors_by_clusters_are_larger_where_scenes_differ() -> None:
    rng = np.random.default_rng(0)
    wins = rng.binomial(40, np.repeat([0.3, 0.9], 10)).astype(float)
    scenes = np.repeat(np.arange(20), 2)
    first, second = np.tile([0, 1], 20), np.tile([1, 0], 20)
    count = np.stack([wins, 40 - wins], axis=1).ravel()
    choices = Choices(first, second, np.ones(40), count, 2)
    plain, clustered = bradley_terry(choices), bradley_terry(choices, scenes)
    assert clustered.strength == pytest.approx(plain.strength)
    assert clustered.error[0] > 3 * plain.error[0]
    share = wins.sum() / 800
    by_hand = np.sqrt(20 / 19 * np.sum((wins - 40 * share) ** 2)) / (800 * share * (1 - share))
    assert clustered.error[0] * 2 == pytest.approx(by_hand)


def test_scenes_that_are_all_alike_leave_the_doubt_of_the_votes() -> None:
    """Three scenes of 15 choices to 5: no clusters could differ less, and 60 choices are no proof."""
    first, second = np.tile([0, 1], 3), np.tile([1, 0], 3)
    choices = Choices(first, second, np.ones(6), np.tile([15.0, 5.0], 3), 2)
    found = bradley_terry(choices, np.repeat(np.arange(3), 2))
    error = 1 / math.sqrt(60 * 0.75 * 0.25) / 2
    assert found.error == pytest.approx([error, error])
    assert found.high - found.strength == pytest.approx(np.full(2, 4.302653 * error))

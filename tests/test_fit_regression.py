"""Ridge and Bradley-Terry fits of frozen features, against normal equations, refits and SciPy's optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from aigciqa.errors import InputError
from aigciqa.training.fit.bradley_terry import PairProblem
from aigciqa.training.fit.regression import fit
from aigciqa.training.fit.ridge import ScoreProblem
from aigciqa.training.fit.tasks import pair_task, score_task


def data(n=40, d=6, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) * np.geomspace(5, 0.5, d) + 7
    scores = (features - 7) @ rng.normal(size=d) / 3 + noise * rng.normal(size=n)
    return features, scores


def refit(features, scores, weights, strength):
    """A function of features: weighted least squares plus `strength * |w|^2`, by the normal equations."""
    wide = np.column_stack([features, np.ones(len(features))])
    penalty = strength * np.diag([1.0] * features.shape[1] + [0.0])
    found = np.linalg.solve(wide.T @ (weights[:, None] * wide) + penalty, wide.T @ (weights * scores))
    return lambda new: new @ found[:-1] + found[-1]


@pytest.mark.parametrize("size", [1, 4])
def test_the_loss_is_that_of_refits_without_each_group(size):
    features, scores = data()
    weights = np.random.default_rng(1).uniform(0.5, 2, len(scores))
    groups = np.arange(len(scores)) // size
    problem = ScoreProblem(np.arange(len(scores)), scores, weights, groups)

    def brute(strength):
        errors = np.concatenate(
            [
                scores[groups == left]
                - refit(features[groups != left], scores[groups != left], weights[groups != left], strength)(
                    features[groups == left]
                )
                for left in range(groups.max() + 1)
            ]
        )
        return len(scores) / 2 * np.log(np.mean(weights * errors**2))

    loss, strength = problem.loss(features @ features.T)
    assert loss == pytest.approx(brute(strength))
    assert loss < min(brute(1.5 * strength), brute(strength / 1.5))


def test_the_head_solves_the_normal_equations_in_raw_features():
    features, scores = data()
    weights = np.random.default_rng(1).uniform(0.5, 2, len(scores))
    found = fit(score_task([features[:, :4], features[:, 4:]], {"mos": scores}, weights={"mos": weights}))
    new = data(seed=5)[0]
    z = (features - found.centre) * found.scale
    expected = refit(z, scores, weights / weights.mean(), found.strengths[0])((new - found.centre) * found.scale)
    np.testing.assert_allclose(found.predict(new)[:, 0], expected)


def test_the_deviation_is_the_gaussian_process():
    features, scores = data()
    found = fit(score_task([features], {"mos": scores}))
    new = data(seed=5)[0]
    z, other = ((each - found.centre) * found.scale for each in (features, new))
    kernel = z @ z.T + found.strengths[0] * np.eye(len(z))
    explained = np.einsum("ij,ij->i", other @ z.T, np.linalg.solve(kernel, z @ other.T).T)
    noise = found.prior * found.strengths * (1 + 1 / len(z))  # of a rating, and of the constant
    expected = np.sqrt(noise + found.prior * (np.sum(other**2, axis=1) - explained))
    np.testing.assert_allclose(found.std(new)[:, 0], expected)


@pytest.mark.parametrize("n", [40, 150])
def test_z_scores_of_unseen_images_have_variance_one(n):
    squares = []
    for seed in range(5):
        features, scores = data(n + 200, 100, seed, noise=1)
        found = fit(score_task([features[:n]], {"mos": scores[:n]}))
        assert len(found.basis) <= 64
        squares.append(((found.predict(features)[n:, 0] - scores[n:]) / found.std(features)[n:, 0]) ** 2)
    assert np.mean(squares) == pytest.approx(1, abs=0.15)


def test_images_unlike_the_rated_ones_are_uncertain():
    rng = np.random.default_rng(0)
    features, scores = data(60)
    features = np.column_stack([features, 0.01 * rng.normal(size=60)])  # hardly varies among the rated images
    found = fit(score_task([features], {"mos": scores}))
    unlike = features + np.array([0] * 6 + [5.0])
    assert found.std(unlike).min() > 2 * found.std(features).max()


def test_a_weight_of_two_counts_as_two_ratings():
    features, scores = data(10)
    kernel = features @ features.T
    twice = np.append(np.arange(10), 0)
    weighed = ScoreProblem(np.arange(10), scores, np.array([2.0] + [1.0] * 9), np.arange(10)).solve(kernel, 3.0)
    repeated = refit(features[twice], scores[twice], np.ones(11), 3.0)
    np.testing.assert_allclose(weighed.bias + kernel @ weighed.dual, repeated(features))


def test_each_dimension_has_the_ratings_that_it_has():
    features, scores = data()
    partly = np.where(np.arange(40) < 25, scores, np.nan)
    alone = fit(score_task([features], {"sharpness": partly}))
    both = fit(score_task([features], {"mos": scores, "sharpness": partly}))
    assert both.dimensions == ("mos", "sharpness")
    np.testing.assert_allclose(both.predict(features)[:, 1], alone.predict(features)[:, 0])
    np.testing.assert_allclose(both.std(features)[:, 1], alone.std(features)[:, 0])
    assert both.std(features)[30:, 1].mean() > both.std(features)[:25, 1].mean()


def test_a_block_without_a_message_loses_its_share():
    features, scores = data(60)
    noise = np.random.default_rng(3).normal(size=(60, 200))
    found = fit(score_task([noise, features], {"mos": scores}, shares=[0.8, 0.2]))
    assert found.shares[0] < 0.5
    assert found.shares.sum() == pytest.approx(1)


def test_a_constant_feature_has_no_weight_and_large_ones_are_no_trouble():
    features, scores = data()
    found = fit(score_task([np.column_stack([features * 1e6, np.full(40, 0.1)])], {"mos": scores}))
    assert found.weight[0, -1] == 0
    np.testing.assert_allclose(
        found.predict(np.column_stack([features * 1e6, np.full(40, 9)])),
        fit(score_task([features], {"mos": scores})).predict(features),
        atol=1e-6,
    )


def test_the_same_ratings_give_the_same_bytes():
    features, scores = data(100, 80)
    first, second = (fit(score_task([features], {"mos": scores})) for _ in range(2))
    for name in ("weight", "bias", "basis", "shrink", "prior", "noise"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@pytest.mark.slow
def test_hundreds_of_ratings_are_all_used():
    features, scores = data(510, 4, noise=0.1)
    found = fit(score_task([features], {"mos": scores}, groups=np.arange(510) % 3))
    z = (features - found.centre) * found.scale
    np.testing.assert_allclose(
        found.predict(features)[:, 0], refit(z, scores, np.ones(510), found.strengths[0])(z), rtol=1e-6
    )


def test_two_groups_are_not_left_out_but_their_images():
    features, scores = data()
    task = score_task([features], {"mos": scores}, groups=["cat"] * 20 + ["dog"] * 20)
    assert task.groups.tolist() == list(range(40))


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        ([3.0] * 5, {}, "sharpness: all 5 ratings are 3"),
        ([3.0, 4.0, np.nan, np.nan, np.nan], {}, "sharpness: 2 ratings"),
        ([1.0, 2.0], {}, "one number for each of 5"),
        (range(5), {"groups": ["a"]}, "1 groups for 5 images"),
        (range(5), {"weights": {"sharpness": [1, 1, 1, 1, 0]}}, "weights are above 0; got 0"),
        (range(5), {"shares": [0.5, 0.5]}, "one for each of 1 blocks"),
    ],
)
def test_ratings_that_cannot_be_fitted(scores, options, words):
    with pytest.raises(InputError, match=words):
        score_task([np.eye(5)], {"sharpness": scores}, **options)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        ([], "no block"),
        ([np.eye(5), np.eye(4)], r"same n; got the shapes \[\(5, 5\), \(4, 4\)\]"),
        ([np.diag([1, 1, np.nan, 1, 1])], "1 of 5 images have features that are not finite, the first: 2"),
    ],
)
def test_features_that_cannot_be_fitted(blocks, words):
    with pytest.raises(InputError, match=words):
        score_task(blocks, {"mos": range(5)})


def choices(features, count=150, seed=2):
    """Pairs (better, worse) that people with the score of the first feature choose."""
    rng = np.random.default_rng(seed)
    first, second = (rng.permutation(np.tile(np.arange(len(features)), 5))[:count] for _ in range(2))
    first, second = first[first != second], second[first != second]
    wins = rng.random(len(first)) < 1 / (1 + np.exp(features[second, 0] - features[first, 0]))
    return np.where(wins, first, second), np.where(wins, second, first)


def penalised(differences, weights, strength):
    """The logistic ridge (d,) by SciPy's optimiser."""

    def loss(w):
        margins = differences @ w
        value = np.sum(weights * np.logaddexp(0, -margins)) + strength / 2 * w @ w
        return value, -differences.T @ (weights / (1 + np.exp(margins))) + strength * w

    return minimize(loss, np.zeros(differences.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9}).x


def test_pairs_are_a_logistic_ridge_on_differences_in_the_stated_range():
    features = data(40)[0]
    better, worse = choices(features)
    weights = np.random.default_rng(4).uniform(0.5, 2, len(better))
    found = fit(pair_task([features], {"q": (better, worse, weights)}, score_ranges={"q": (0, 100)}))
    z = (features - found.centre) * found.scale
    expected = z @ penalised(z[better] - z[worse], weights, found.strengths[0])
    compared = np.union1d(better, worse)
    expected = 50 + 25 * (expected - expected[compared].mean()) / expected[compared].std()
    np.testing.assert_allclose(found.predict(features)[:, 0], expected, rtol=1e-5)


def test_the_deviation_of_pairs_is_laplaces():
    features = data(40)[0]
    better, worse = choices(features)
    found = fit(pair_task([features], {"q": (better, worse, np.ones(len(better)))}, score_ranges={"q": (1, 5)}))
    z = (features - found.centre) * found.scale
    differences = z[better] - z[worse]
    w = penalised(differences, np.ones(len(better)), found.strengths[0])
    chance = 1 / (1 + np.exp(-differences @ w))
    covariance = np.linalg.inv(
        (differences.T * chance * (1 - chance)) @ differences + found.strengths[0] * np.eye(len(w))
    )
    unit = 1 / (z @ w)[np.union1d(better, worse)].std()
    known = np.diag(found.basis @ covariance @ found.basis.T)  # of the directions that are kept, one by one
    expected = unit * np.sqrt((z @ found.basis.T) ** 2 @ known)
    np.testing.assert_allclose(found.std(features)[:, 0], expected, rtol=1e-4)


def test_the_loss_of_pairs_is_nearly_that_of_refits():
    features = data(40)[0] / 3
    better, worse = choices(features)
    groups = np.arange(40) // 8
    problem = PairProblem(better, worse, np.ones(len(better)), groups[np.stack([better, worse])], (0.0, 1.0))
    loss, strength = problem.loss(features @ features.T)
    differences = features[better] - features[worse]
    expected = 0.0
    for left in range(problem.groups.max() + 1):
        out = problem.groups == left
        w = penalised(differences[~out], np.ones((~out).sum()), strength)
        expected += np.logaddexp(0, -differences[out] @ w).sum()
    assert loss == pytest.approx(expected, rel=0.02)
    assert loss < len(better) * np.log(2)


def test_choices_that_contradict_each_other_give_the_middle():
    features = data(9)[0]
    pairs = {"q": ([0, 1, 2], [1, 2, 0], np.ones(3))}
    found = fit(pair_task([features[[0] * 9]], pairs, score_ranges={"q": (1, 5)}))
    np.testing.assert_allclose(found.predict(features), 3)


def test_three_ratings_of_one_dimension_among_many_of_another():
    features, scores = data()
    few = np.where(np.arange(40) < 3, scores, np.nan)
    found = fit(score_task([features], {"few": few, "mos": scores}))
    assert np.isfinite(found.std(features)).all()


@pytest.mark.parametrize(
    ("better", "worse", "words"),
    [
        ([0, 1, 2], [1, 1, 3], "an image with itself"),
        ([0, 1], [1, 2], "2 better and 2 worse"),
        ([0, 1, 2], [1, 2], "3 better and 2 worse"),
    ],
)
def test_pairs_that_cannot_be_fitted(better, worse, words):
    with pytest.raises(InputError, match=words):
        pair_task([np.eye(5)], {"q": (better, worse, np.ones(len(better)))}, score_ranges={"q": (0, 1)})

"""What to rate next: images whose ratings tell most about the others."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from aigciqa.training.fit.regression import fit
from aigciqa.training.fit.suggest import suggest
from aigciqa.training.fit.tasks import score_task


def test_each_suggestion_lowers_the_variance_of_the_pool_most():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 5)) * [3, 2, 1, 1, 0.5]
    pool = rng.normal(size=(30, 5)) * [1, 1, 3, 3, 1]
    found = fit(score_task([features], {"mos": features[:, 0] + rng.normal(size=12)}))
    z = (pool - found.centre) * found.scale
    known = found.basis.T * found.shrink[0] @ found.basis
    covariance = found.prior[0] * (z @ (np.eye(5) - known) @ z.T)
    expected = []
    for _ in range(5):
        after = [
            np.trace(covariance - np.outer(covariance[:, i], covariance[i]) / (covariance[i, i] + found.noise[0]))
            for i in range(30)
        ]
        after = [np.inf if i in expected else value for i, value in enumerate(after)]
        best = int(np.argmin(after))
        expected.append(best)
        covariance -= np.outer(covariance[:, best], covariance[best]) / (covariance[best, best] + found.noise[0])
    assert suggest(found, pool, 5) == expected


def test_suggestions_are_unlike_each_other():
    rng = np.random.default_rng(0)
    kinds = np.eye(6) * 5
    pool = np.repeat(kinds, 10, axis=0) + 0.1 * rng.normal(size=(60, 6))
    rated = rng.normal(size=(12, 6))
    found = fit(score_task([rated], {"mos": rated.sum(axis=1)}))
    assert sorted(index // 10 for index in suggest(found, pool, 6)) == list(range(6))
    assert sorted(suggest(found, pool, 100)) == list(range(60))


def test_the_srcc_rises_faster_than_with_random_images():
    """Simulated: 8 kinds of images, of which one makes up four fifths of the outputs."""

    def simulated(seed, picks):
        rng = np.random.default_rng(seed)
        kind = np.where(rng.random(300) < 0.8, 0, rng.integers(8, size=300))
        features = rng.normal(size=(8, 40))[kind] * 2 + rng.normal(size=(300, 40)) * np.geomspace(2, 0.2, 40)
        scores = features @ rng.normal(size=40) + rng.normal(size=300)
        rated, pool, test = list(range(12)), np.arange(12, 200), np.arange(200, 300)
        found = fit(score_task([features[rated]], {"mos": scores[rated]}))
        rated = rated + pool[picks(found, features[pool])].tolist()
        found = fit(score_task([features[rated]], {"mos": scores[rated]}))
        return spearmanr(found.predict(features[test])[:, 0], scores[test])[0]

    suggested = np.mean([simulated(seed, lambda found, pool: suggest(found, pool, 20)) for seed in range(8)])
    drawn = np.mean([simulated(seed, lambda found, pool: np.arange(20)) for seed in range(8)])
    assert suggested > drawn + 0.03

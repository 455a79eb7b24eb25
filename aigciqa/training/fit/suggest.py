"""Which images to rate next: those whose ratings would tell most about all the others."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from aigciqa.training.fit.kernels import Array
from aigciqa.training.fit.regression import LinearFit

#: Directions of the pool in which uncertainty is weighed; the rest of an image counts as its own noise.
_DIRECTIONS = 128


def suggest(found: LinearFit, features: ArrayLike, count: int) -> list[int]:
    """Images of a pool to be rated, the most instructive first.

    Each is the one whose rating lowers the variance of all the pool's scores most, summed over the dimensions, given
    that those before it are rated (greedy V-optimal design: Yu, Bi and Tresp, Active learning via transductive
    experimental design, 2006). An image that is unlike the rest is not taken for that alone, nor two that are alike.

    Args:
        found: the fit so far.
        features: (n, D) of the pool.
        count: how many, at most n.

    Returns:
        Indices into the pool.
    """
    z = (np.asarray(features, dtype=np.float64) - found.centre) * found.scale
    directions = _directions(z)
    pool = z @ directions.T  # (n, r)
    own = np.maximum(np.sum(z**2, axis=1) - np.sum(pool**2, axis=1), 0) + np.divide(
        found.noise[:, None], found.prior[:, None], out=np.zeros((len(found.prior), 1)), where=found.prior[:, None] > 0
    )
    basis = found.basis @ directions.T
    unknown = np.stack([pool - (pool @ basis.T * shrink) @ basis for shrink in found.shrink])  # (m, n, r): pool @ S
    total = pool.T @ pool
    picked: list[int] = []
    for _ in range(min(count, len(z))):
        variance = np.maximum(np.einsum("mnr,nr->mn", unknown, pool) + own, np.finfo(np.float64).tiny)
        gain = np.sum(np.einsum("mnr,mnr->mn", unknown @ total, unknown) / variance, axis=0)
        gain[picked] = -np.inf
        best = int(np.argmax(gain))
        picked.append(best)
        shared = np.einsum("mnr,r->mn", unknown, pool[best]) / variance[:, best, None]
        unknown -= shared[..., None] * unknown[:, best, None, :]
    return picked


def _directions(z: Array) -> Array:
    """Orthonormal directions (r, D) in which images z (n, D) differ most, by one step of subspace iteration."""
    count = min(_DIRECTIONS, *z.shape)
    directions: Array = np.random.default_rng(0).normal(size=(z.shape[1], count))
    for _ in range(2):
        directions = np.linalg.qr(z.T @ (z @ directions))[0]
    across: Array = directions.T
    return across

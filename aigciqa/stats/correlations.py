"""Agreement of scores with mean opinion scores (MOS): SRCC, PLCC, KRCC, RMSE, each with a 95% interval.

The figures are SciPy's: `scipy.stats.spearmanr`, `pearsonr`, `kendalltau` (tau-b) and `scipy.optimize.least_squares`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aigciqa.errors import InputError
from aigciqa.stats import bootstrap
from aigciqa.stats.bootstrap import Interval

Array = NDArray[np.float64]

MIN_SAMPLES = 3
#: Correlations of fewer samples say next to nothing: the 95% interval of 0.6 among nine is -0.1 to 0.9.
MIN_TELLING = 10
#: Samples of one prompt that can be ranked.
MIN_GROUP = 2
#: Widths to start from, in standard deviations of the scores: a quarter, as is customary, steeper and gentler.
_WIDTHS = (0.25, 0.05, 1.0, 4.0)
#: A logistic that is narrower, in standard deviations of the scores, is a step between two of them.
_NARROWEST = 1e-2
_TOLERANCE = 1e-12
_EVALUATIONS = 200


@dataclass(frozen=True)
class Logistic:
    """The monotonic mapping of the VQEG from scores to MOS, four parameters.

    `low + (high - low) / (1 + exp(-(score - centre) / width))`, width > 0 (VQEG, final report on the validation of
    objective models of video quality assessment, phase II, 2003; ITU-T Tutorial "Objective perceptual assessment of
    video quality", 2004). It falls where `high < low`.

    Example:
        >>> from aigciqa.evaluation import Logistic
        >>> Logistic(high=5.0, low=1.0, centre=0.5, width=0.1)([0.5]).tolist()
        [3.0]
    """

    high: float
    low: float
    centre: float
    width: float

    def __call__(self, scores: ArrayLike) -> Array:
        """MOS (n,) expected of scores (n,)."""
        from scipy.special import expit

        step = expit((np.asarray(scores, dtype=np.float64) - self.centre) / self.width)
        value: Array = self.low + (self.high - self.low) * step
        return value


@dataclass(frozen=True)
class Agreement:
    """How well scores agree with MOS.

    Attributes:
        n: how many images.
        groups: how many units were resampled: prompt groups, or images where no groups were given.
        srcc: Spearman's rank correlation.
        plcc: Pearson's correlation of the scores as they are.
        plcc_fitted: Pearson's correlation after the logistic of the VQEG.
        krcc: Kendall's rank correlation, tau-b.
        rmse: root mean square error after the logistic, in MOS; the division is by n.
        mapping: the logistic; None where scores or MOS are constant, there are fewer than four images, or the search
            for it did not converge.

    Example:
        >>> from aigciqa.stats.correlations import agreement
        >>> found = agreement([1.2, 2.0, 2.4, 3.1, 3.9, 4.4], [1.0, 2.5, 2.2, 3.0, 4.1, 4.0])
        >>> found.n, round(found.srcc.value, 3)
        (6, 0.886)
    """

    n: int
    groups: int
    srcc: Interval
    plcc: Interval
    plcc_fitted: Interval
    krcc: Interval
    rmse: Interval
    mapping: Logistic | None

    def intervals(self) -> dict[str, Interval]:
        """The five figures by name."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Interval)}


def srcc(scores: ArrayLike, mos: ArrayLike) -> float:
    """Spearman's rank correlation of scores (n,) and MOS (n,), n >= 3; NaN where either is constant.

    Raises:
        InputError: unequal lengths, fewer than three, or a NaN.

    Example:
        >>> from aigciqa.evaluation import krcc, plcc, srcc
        >>> scores, mos = [1.2, 2.0, 2.4, 3.1, 3.9, 4.4], [1.0, 2.5, 2.2, 3.0, 4.1, 4.0]
        >>> f"{srcc(scores, mos):.3f} {plcc(scores, mos):.3f} {krcc(scores, mos):.3f}"
        '0.886 0.962 0.733'
    """
    from scipy.stats import spearmanr

    return _correlation(spearmanr, scores, mos)


def plcc(scores: ArrayLike, mos: ArrayLike) -> float:
    """Pearson's correlation, without any mapping; arguments, NaN and errors as for `srcc`."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, scores, mos)


def krcc(scores: ArrayLike, mos: ArrayLike) -> float:
    """Kendall's rank correlation, tau-b; arguments, NaN and errors as for `srcc`."""
    from scipy.stats import kendalltau

    return _correlation(kendalltau, scores, mos)


def fit_logistic(scores: ArrayLike, mos: ArrayLike) -> Logistic | None:
    """The least-squares logistic from scores (n,) to MOS (n,), by `scipy.optimize.least_squares` (Levenberg-Marquardt).

    It starts with the MOS's largest and smallest value (swapped where scores fall with MOS), the mean score, and a
    width of 0.25, 0.05, 1 and 4 standard deviations of the scores in turn, and takes the best of the four fits. Data
    without a bend, or with one only, are fitted best by a parameter at infinity: the search then stops after 200
    steps, where the figures have settled to about 1e-5. Where people and scores do not agree, the width goes to zero:
    the best curve is a step between two scores, which is no mapping, and the search does not converge.

    Returns:
        The mapping; None where either is constant, there are fewer than four samples, or it does not converge.

    Raises:
        InputError: as `srcc`.
    """
    x, y = _checked(scores, mos)
    if len(x) < len(fields(Logistic)) or _constant(x) or _constant(y):
        return None
    mean, scale = float(x.mean()), float(x.std())
    offset, height = float(y.mean()), float(y.std())
    high, low, centre, width = _fit((x - mean) / scale, (y - offset) / height).tolist()
    if abs(width) < _NARROWEST:
        return None
    return Logistic(offset + height * high, offset + height * low, mean + scale * centre, scale * abs(width))


def plcc_fitted(scores: ArrayLike, mos: ArrayLike) -> float:
    """Pearson's correlation after `fit_logistic`; NaN where there is no mapping."""
    mapping = fit_logistic(scores, mos)
    return math.nan if mapping is None else plcc(mapping(scores), mos)


def rmse_fitted(scores: ArrayLike, mos: ArrayLike) -> float:
    """Root mean square error after `fit_logistic` (divided by n), in MOS; NaN where there is no mapping."""
    mapping = fit_logistic(scores, mos)
    return math.nan if mapping is None else _rmse(mapping(scores), np.asarray(mos, dtype=np.float64))


def srcc_interval(scores: ArrayLike, mos: ArrayLike, groups: Sequence[Hashable] | None = None) -> Interval:
    """`srcc` with its interval, by resampling images, or whole groups; NaN and errors as for `agreement`."""
    x, y = _checked(scores, mos, groups)
    return bootstrap.interval(
        lambda weight: bootstrap.spearman(weight, x, y), range(len(x)) if groups is None else groups
    )


def srcc_within(
    scores: ArrayLike,
    mos: ArrayLike,
    groups: Sequence[Hashable],
    *,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean SRCC among the images of one prompt: does the metric find the better of several tries?

    Groups of one image, and those whose MOS are all equal, have no ranking and are left out; a group whose scores
    are all equal counts 0. The interval resamples groups. NaN where no group is left.

    Arguments and errors are those of `agreement`.

    Example:
        >>> from aigciqa.evaluation import srcc_within
        >>> found = srcc_within([1.0, 2.0, 3.0, 3.0, 3.0], [1.5, 2.0, 4.0, 1.0, 2.0], ["cat"] * 3 + ["dog"] * 2)
        >>> found.value
        0.5
    """
    from scipy.stats import spearmanr

    x, y = _checked(scores, mos, groups)
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    ranked = [rows for rows in members.values() if len(rows) >= MIN_GROUP and not _constant(y[rows])]
    if not ranked:
        return Interval(math.nan, math.nan, math.nan)
    values = np.array([0.0 if _constant(x[rows]) else spearmanr(x[rows], y[rows])[0] for rows in ranked])
    return bootstrap.interval(lambda weight: weight @ values / len(values), range(len(values)), resamples, seed)


def agreement(
    scores: ArrayLike,
    mos: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> Agreement:
    """All figures, with 95% intervals by the percentile bootstrap.

    Images of one prompt are not independent: where groups are given, whole groups are resampled. The logistic is
    not fitted anew in each resample: centre and width stay those of all samples, height and offset follow, which is
    Pearson's correlation with the mapped scores. Intervals are NaN where there is but one group.

    Args:
        scores: (n,), n >= 3.
        mos: (n,).
        groups: of each image, such as its prompt; None resamples images.
        resamples: how many; 0 leaves the intervals NaN.
        seed: of the resampling.

    Raises:
        InputError: unequal lengths, fewer than three, or a NaN.

    Example:
        >>> from aigciqa.evaluation import agreement
        >>> found = agreement([1.2, 2.0, 2.4, 3.1, 3.9, 4.4], [1.0, 2.5, 2.2, 3.0, 4.1, 4.0])
        >>> f"{found.srcc.value:.3f} of {found.n} images"
        '0.886 of 6 images'
    """
    x, y = _checked(scores, mos, groups)
    units = range(len(x)) if groups is None else groups
    mapping = fit_logistic(x, y)
    fitted = np.full(len(x), math.nan) if mapping is None else mapping(x)
    values = {
        "srcc": srcc(x, y),
        "plcc": plcc(x, y),
        "plcc_fitted": math.nan if mapping is None else plcc(fitted, y),
        "krcc": krcc(x, y),
        "rmse": _rmse(fitted, y),
    }
    count = len(set(units))
    draws = [np.full((len(values), 1), math.nan)]
    if count > 1 and resamples:
        draws = [_figures(weight, x, y, fitted) for weight in bootstrap.weights(units, resamples, seed)]
    bounds = map(bootstrap.percentiles, np.concatenate(draws, axis=1))
    intervals = {name: Interval(value, *ends) for (name, value), ends in zip(values.items(), bounds, strict=True)}
    return Agreement(n=len(x), groups=count, mapping=mapping, **intervals)


def _figures(weight: Array, x: Array, y: Array, fitted: Array) -> Array:
    """SRCC, PLCC, fitted PLCC, KRCC and RMSE (5, r) under weights (r, n)."""
    mapped = bootstrap.pearson(weight, fitted, y)
    return np.stack(
        [
            bootstrap.spearman(weight, x, y),
            bootstrap.pearson(weight, x, y),
            mapped,
            bootstrap.kendall(weight, x, y),
            bootstrap.spread(weight, y) * np.sqrt(np.clip(1 - mapped**2, 0, None)),
        ]
    )


def _fit(x: Array, y: Array) -> Array:
    """Parameters (4,) of the logistic between standardised scores and MOS."""
    from scipy.optimize import least_squares
    from scipy.special import expit

    def residuals(parameters: Array) -> Array:
        high, low, centre, width = parameters
        return Logistic(high, low, centre, abs(width))(x) - y

    def slopes(parameters: Array) -> Array:
        high, low, centre, width = parameters
        step = expit((x - centre) / abs(width))
        steepness = (high - low) * step * (1 - step) / abs(width)
        return np.stack([step, 1 - step, -steepness, -steepness * (x - centre) / width], axis=1)

    top, bottom = (y.max(), y.min()) if np.mean(x * y) >= 0 else (y.min(), y.max())
    fits = [
        least_squares(
            residuals, (top, bottom, 0.0, width), jac=slopes, method="lm",
            ftol=_TOLERANCE, xtol=_TOLERANCE, gtol=_TOLERANCE, max_nfev=_EVALUATIONS,
        )
        for width in _WIDTHS
    ]  # fmt: skip
    return np.asarray(min(fits, key=lambda fit: float(fit.cost)).x, dtype=np.float64)


def _correlation(measure: Callable[[Array, Array], Any], scores: ArrayLike, mos: ArrayLike) -> float:
    x, y = _checked(scores, mos)
    return math.nan if _constant(x) or _constant(y) else float(measure(x, y)[0])


def _rmse(fitted: Array, y: Array) -> float:
    return float(np.sqrt(np.mean((fitted - y) ** 2)))


def _checked(scores: ArrayLike, mos: ArrayLike, groups: Sequence[Hashable] | None = None) -> tuple[Array, Array]:
    """Scores and MOS as (n,) float64; raises InputError that says what is wrong."""
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    for name, values in (("scores", x), ("MOS", y)):
        if values.ndim != 1:
            raise InputError(f"{name} are one number per image, (n,); got the shape {values.shape}")
    if len(x) != len(y):
        raise InputError(f"{len(x)} scores but {len(y)} MOS: pass one of each per image")
    if len(x) < MIN_SAMPLES:
        raise InputError(f"a correlation takes at least {MIN_SAMPLES} images; got {len(x)}")
    for name, values in (("scores", x), ("MOS", y)):
        if bad := int(np.sum(~np.isfinite(values))):
            raise InputError(f"{bad} of {len(values)} {name} are NaN or infinite: leave those images out")
    if groups is not None and len(groups) != len(x):
        raise InputError(f"{len(groups)} groups for {len(x)} scores: pass one per image")
    return x, y


def _constant(values: Array) -> bool:
    return bool((values == values[0]).all())

"""How well a fit agrees with people on images that it has not seen, beside what needs no fit, and with more ratings.

Groups of images are left out, and everything is chosen anew without them: the figures are those of the whole recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aigciqa.stats import bootstrap
from aigciqa.stats.bootstrap import Interval
from aigciqa.training.fit.kernels import Array, Indices, Mask
from aigciqa.training.fit.regression import fit_linear
from aigciqa.training.fit.ridge import ScoreProblem
from aigciqa.training.fit.tasks import Task, folds_of, group_numbers

Statistic = Callable[[Array], Array]

#: Fewer ratings say little.
FEW = 12
#: Shares of the ratings that the learning curve is drawn at, and how often each is drawn; large sets vary less.
_SHARES, _DRAWS, _FIT_IMAGES = (0.25, 0.5, 0.75), 6, 3000
#: Images to fit to and to test on, at least, for a point of the curve.
_MIN_PART = 5
#: Differences of a smaller share of the values are rounding.
_ROUNDING = 1e-12
#: What a figure is without any agreement.
_CHANCE = {"srcc": 0.0, "accuracy": 0.5}
GENERATOR = "generator's mean"


@dataclass(frozen=True)
class Figures:
    """Agreement on one dimension.

    Attributes:
        ratings: how many scores, or pairs.
        groups: of images, which were left out and resampled together.
        agreement: `srcc`, `plcc` and `rmse` of scores; `accuracy` of pairs, the share that is ordered rightly.
        controls: the first of those figures, for values that need no fit.
        curve: the number of ratings -> the first figure after fitting to so many, the mean of random draws.
        doubled: the figure to be expected of twice the ratings; None where there are too few for a curve.
        warnings: sentences.
    """

    ratings: int
    groups: int
    agreement: Mapping[str, Interval]
    controls: Mapping[str, Interval]
    curve: Mapping[int, float]
    doubled: Interval | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as `config.results` has it: an interval is `[value, low, high]`, and null what is not known.

        The learning curve ends with what is expected of twice the ratings.
        """
        first = next(iter(self.agreement))
        curve = {str(count): _number(value) for count, value in self.curve.items()}
        expected = {} if self.doubled is None else {str(2 * self.ratings): _listed(self.doubled)}
        return {
            "ratings": self.ratings,
            "groups": self.groups,
            **{name: _listed(each) for name, each in self.agreement.items()},
            "controls": {name: {first: _listed(each)} for name, each in self.controls.items()},
            "learning_curve": curve | expected,
            "warnings": list(self.warnings),
        }


def cross_validate(
    task: Task,
    *,
    controls: Mapping[str, ArrayLike] | None = None,
    generators: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> dict[str, Figures]:
    """The figures of each dimension.

    Args:
        task: what is fitted. Here each dimension is fitted by itself.
        controls: by name, (n,) values of all images: their size, say, or another metric's score. NaN leaves out.
        generators: of each image, None where it isn't known. Two or more add a control, the mean of the generator's
            images in the other folds.
        seed: of folds, draws and resamples.

    Returns:
        By dimension.
    """
    return {
        name: _figures(name, task, controls or {}, generators, np.random.default_rng(seed)) for name in task.problems
    }


def _figures(
    name: str,
    task: Task,
    controls: Mapping[str, ArrayLike],
    generators: Sequence[Hashable] | None,
    rng: np.random.Generator,
) -> Figures:
    images = task.problems[name].rows
    part = task.among(images, name)
    among = len(set(part.groups.tolist()))
    part = replace(part, groups=group_numbers(part.groups.tolist(), len(images)))
    groups = len(set(part.groups.tolist()))
    problem = part.problem
    folds = folds_of(part.groups, rng)
    unseen, level = _out_of_fold(part, folds)
    agreement = {
        figure: bootstrap.interval(statistic, part.groups.tolist())
        for figure, statistic in _statistics(part, unseen, level).items()
    }
    first = next(iter(agreement))
    values = {label: np.asarray(column, dtype=np.float64)[images] for label, column in controls.items()}
    known = _known(generators, images)
    warnings = _warnings(name, part, first, agreement[first])
    if among < groups:
        warnings.append(
            f"{name} is rated in {among} of the groups, too few to leave out in turn: each image is left out alone. How"
            " well scores carry over to other groups is not known."
        )
    if isinstance(problem, ScoreProblem) and len(set(known[known >= 0].tolist())) > 1:
        values = {**values, GENERATOR: _means(problem.scores, known, folds)}
        if agreement[first].low > _CHANCE[first]:
            warnings += _generator_warning(name, problem, unseen - level, known)
    compared = {label: _control(part, column, first) for label, column in values.items()}
    curves = _curves(part, rng)
    curve = {count: float(np.mean(draws)) for count, draws in curves.items()} | {_count(part): agreement[first].value}
    return Figures(
        ratings=_count(part),
        groups=groups,
        agreement=agreement,
        controls=compared,
        curve=curve,
        doubled=_doubled(curves, _count(part), agreement[first], _CHANCE[first], rng),
        warnings=(*warnings, *_better(name, first, agreement[first], compared)),
    )


def _out_of_fold(task: Task, folds: Indices) -> tuple[Array, Array]:
    """Each outcome as fits predict it that have not seen it, and the level of those fits; means between two folds.

    A fold of high scores leaves low ones to fit to. Without any message in the features, predictions would thus fall
    where scores rise: correlations take predictions from each fit's level, its mean prediction for all images.
    """
    totals = np.zeros((3, _count(task)))  # predictions, levels, how many
    for fold in range(folds.max() + 1):
        left = folds == fold
        scores = _predicted(task, np.flatnonzero(~left))
        touched = task.problem.touches(left)
        totals[:, touched] += np.stack(
            [task.problem.outcomes(scores)[touched], np.full(touched.sum(), scores.mean()), np.ones(touched.sum())]
        )
    return totals[0] / totals[2], totals[1] / totals[2]


def _predicted(task: Task, images: Indices) -> Array:
    """The scores of all images (n,) by a fit to some only."""
    return fit_linear(task.among(images)).predict(task.features)[:, 0]


def _count(task: Task) -> int:
    return len(task.problem.weights)


def _statistics(task: Task, outcomes: Array, level: Array | float = 0.0) -> dict[str, Statistic]:
    """The figures of outcomes (k,), each a function of the weights (r, n) of the images in resamples."""
    problem = task.problem
    if not isinstance(problem, ScoreProblem):
        right = np.where(outcomes == 0, 0.5, outcomes > 0)
        return {"accuracy": lambda weight: _mean(problem.spread(weight), right)}
    scores = problem.scores
    squares, above = (outcomes - scores) ** 2, _apart(outcomes, level)
    return {
        "srcc": lambda weight: bootstrap.spearman(problem.spread(weight), above, scores),
        "plcc": lambda weight: bootstrap.pearson(problem.spread(weight), above, scores),
        "rmse": lambda weight: np.sqrt(_mean(problem.spread(weight), squares)),
    }


def _apart(values: Array, level: Array | float) -> Array:
    """How far values (k,) are from their level; 0 where that is rounding, which would be ranked."""
    apart = values - level
    return np.where(np.abs(apart) > _ROUNDING * np.abs(values).max(), apart, 0.0)


def _mean(weight: Array, values: Array) -> Array:
    """The mean (r,) of values (k,) under weights (r, k); NaN where nothing was drawn."""
    with np.errstate(invalid="ignore"):
        mean: Array = weight @ values / weight.sum(axis=1)
    return mean


def _control(task: Task, values: Array, figure: str) -> Interval:
    """A figure of values (n,) of the images; of those that have one."""
    known = np.flatnonzero(np.isfinite(values))
    part = task.among(known)
    if not _count(part):
        return Interval(math.nan, math.nan, math.nan)
    outcomes = part.problem.outcomes(values[known])
    return bootstrap.interval(_statistics(part, outcomes)[figure], part.groups.tolist())


def _known(generators: Sequence[Hashable] | None, images: Indices) -> Indices:
    """The generator of each image as a number from 0; -1 where it isn't known."""
    if generators is None:
        return np.full(len(images), -1)
    numbers: dict[Hashable, int] = {}
    named = [generators[image] for image in images]
    return np.array([-1 if each is None else numbers.setdefault(each, len(numbers)) for each in named])


def _means(scores: Array, generators: Indices, folds: Indices) -> Array:
    """For each image, the mean score of its generator's images in the other folds; NaN where there are none."""
    same = (generators[:, None] == generators) & (folds[:, None] != folds) & (generators >= 0)[:, None]
    with np.errstate(invalid="ignore"):
        means: Array = same @ scores / same.sum(axis=1)
    return means


def _curves(task: Task, rng: np.random.Generator) -> dict[int, Array]:
    """The number of ratings -> the first figure of each draw, fitted to that many and tested on the others."""
    count = len(task.features)
    draws = max(2, min(_DRAWS, _FIT_IMAGES // count))
    orders = [rng.permutation(int(task.groups.max()) + 1)[task.groups] for _ in range(draws)]
    found: dict[int, Array] = {}
    for share in _SHARES:
        inside = [order <= np.sort(order)[math.ceil(share * count) - 1] for order in orders]
        sizes = [_count(task.among(np.flatnonzero(each))) for each in inside]
        if min(sizes) >= _MIN_PART and min((~each).sum() for each in inside) >= _MIN_PART:
            found[round(float(np.mean(sizes)))] = np.array([_drawn(task, each) for each in inside])
    return found


def _drawn(task: Task, inside: Mask) -> float:
    """The first figure, fitted to the images of a mask and tested on the others; chance where it isn't defined."""
    outcomes = task.problem.outcomes(_predicted(task, np.flatnonzero(inside)))
    name, statistic = next(iter(_statistics(task, outcomes).items()))
    value = float(statistic((~inside)[None].astype(np.float64))[0])
    return value if math.isfinite(value) else _CHANCE[name]


def _doubled(
    curves: Mapping[int, Array], count: int, now: Interval, chance: float, rng: np.random.Generator
) -> Interval | None:
    """What twice the ratings would bring: the figure now, and the gain along `a - b / sqrt(ratings)`, b >= 0.

    The interval takes that of the figure now and that of the gain, among resamples of the draws, as independent.
    """
    if len(curves) < len(_SHARES) or not math.isfinite(now.low):
        return None
    sizes = np.array(list(curves), dtype=np.float64)
    draws = np.stack(list(curves.values()))  # (sizes, draws)
    picked = rng.integers(draws.shape[1], size=(bootstrap.RESAMPLES, draws.shape[1]))
    inverse = sizes**-0.5 - np.mean(sizes**-0.5)
    means = np.concatenate([draws.mean(axis=1)[None], draws[:, picked].mean(axis=2).T])
    gains = np.maximum(-(means @ inverse) / (inverse @ inverse), 0) * (count**-0.5 - (2 * count) ** -0.5)
    low, high = bootstrap.percentiles(gains[1:])
    value = now.value + gains[0]
    least, most = 2 * chance - 1, 1.0
    down = math.hypot(now.value - now.low, max(gains[0] - low, 0))
    up = math.hypot(now.high - now.value, max(high - gains[0], 0))
    bounded = [float(np.clip(each, least, most)) for each in (value, value - down, value + up)]
    return Interval(*bounded)


def _warnings(name: str, task: Task, figure: str, now: Interval) -> list[str]:
    found = []
    if _count(task) < FEW:
        found.append(f"{name} has {_count(task)} ratings; below {FEW}, figures and scores are little more than chance.")
    chance = _CHANCE[figure]
    if not now.low > chance:
        why = f"the interval of the {_label(figure)}, {now}, {_beside(now, chance)}, which is chance"
        if math.isnan(now.value):
            why = f"there is no {_label(figure)}, since all images are predicted the same"
        found.append(f"{name}: {why}: nothing shows that scores agree with people. Rate more images.")
    return found


def _better(name: str, figure: str, now: Interval, controls: Mapping[str, Interval]) -> list[str]:
    """Whether a control, which takes no fit, agrees better, and not by chance."""
    ahead = [
        f"{label} ({control.value:.3f})"
        for label, control in controls.items()
        if control.value > now.value and control.low > _CHANCE[figure]
    ]
    if not ahead:
        return []
    return [
        f"{name}: nearer to people than the fitted head ({now.value:.3f}), without any fit: {', '.join(ahead)}."
        " Rate more images, or go by those."
    ]


def _generator_warning(name: str, problem: ScoreProblem, unseen: Array, generators: Indices) -> list[str]:
    """Whether the ratings are explained by generators alone: within them, the fit then ranks no better than chance."""
    sizes = np.bincount(generators[generators >= 0])
    kept = np.flatnonzero((generators >= 0) & (sizes[generators] > 1))
    if not len(kept):
        return []
    same = (generators[kept][:, None] == generators[kept]).astype(np.float64)
    same /= same.sum(axis=1, keepdims=True)
    x, y = (_apart(values[kept], same @ values[kept]) for values in (unseen, problem.scores))
    within = bootstrap.interval(lambda weight: bootstrap.spearman(weight, x, y), problem.groups[kept].tolist())
    if within.low > 0:
        return []
    is_known = math.isfinite(within.value)
    why = f"the SRCC is {within}, which {_beside(within, 0)}" if is_known else "there is no SRCC"
    return [
        f"{name}: among the images of one generator, {why}: the generators alone may explain these ratings. Scores "
        "then tell which generator made an image, not how good it is."
    ]


def _beside(interval: Interval, chance: float) -> str:
    """How an interval that is not above chance lies to it."""
    return f"{'is below' if interval.high < chance else 'includes'} {chance:g}"


def _label(figure: str) -> str:
    return figure if figure == "accuracy" else figure.upper()


def _listed(interval: Interval) -> list[float | None]:
    return [_number(interval.value), _number(interval.low), _number(interval.high)]


def _number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None

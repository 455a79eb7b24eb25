"""Fitting the heads of the embedded metrics to features and labels. Used by `examples/train_lite.py`.

Targets are shares of the range of scores: a pristine photograph's is 0.9 (4.5 of 5), the worst image's near 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from aigciqa.heads.lite import Ensemble, GaussianDistance, SoftTrees

BEST, WORST = 0.9, 0.1
#: Targets that differ by more than this order two images, or two blocks of one.
MARGIN = 0.05
#: AdamW's learning rate and weight decay, and the groups of a step.
RATE, DECAY, GROUPS = 2e-3, 0.02, 16
#: Share of an ensemble's inputs dropped at each step, the same for all images.
DROPOUT = 0.3
#: Standard deviation of the noise added to the inputs of an ensemble, and to single blocks: people's images differ.
NOISE, BLOCK_NOISE = 1.0, 0.3
#: Images composed at every step of fitting single blocks.
BLOCK_IMAGES = 48
#: Of growing trees: the values that a split may lie at, and the share of the rows that each tree is grown on.
BINS, ROW_SHARE = 24, 0.6


@dataclass(frozen=True)
class Labels:
    """Images in groups of one size: each group is a view, its pristine image first.

    Attributes:
        targets: (G, n) in [0, 1], the share of the range each image deserves.
        order: (G, n, n) booleans: the first image is better than the second for sure or by its label.
    """

    targets: Tensor
    order: Tensor


def make_labels(labels: Tensor, ladders: Tensor, strengths: Tensor) -> Labels:
    """Group the labels of views.

    Args:
        labels: (G, n) in [0, 1].
        ladders: (G, n), number of the ladder or -1; in a ladder, strength decides the order, not the label.
        strengths: (G, n), 0 for pristine.
    """
    same = (ladders[:, :, None] == ladders[:, None, :]) & (ladders[:, :, None] >= 0)
    weaker = strengths[:, :, None] < strengths[:, None, :]
    better = labels[:, :, None] - labels[:, None, :] > MARGIN
    return Labels(WORST + (BEST - WORST) * labels, torch.where(same, weaker, better))


def fit(
    parameters: list[nn.Parameter],
    predict: Callable[[Tensor], Tensor],
    data: Labels,
    *,
    steps: int,
    seed: int,
    seen: Tensor | None = None,
) -> None:
    """Fit parameters by AdamW to targets (squared error) and to orders within a view (logistic loss).

    Args:
        predict: numbers of groups (b,) -> logits (members, b, n).
        seen: (members, G) booleans, which member learns from which group; every one from all if absent.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        chosen = torch.randint(len(data.targets), (GROUPS,), generator=generator)
        kept = None if seen is None else seen[:, chosen]
        return _loss(predict(chosen), data.targets[chosen], data.order[chosen], kept)

    _descend(parameters, loss, steps)


def _descend(parameters: list[nn.Parameter], loss: Callable[[], Tensor], steps: int) -> None:
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()


def _loss(logits: Tensor, targets: Tensor, order: Tensor, kept: Tensor | None = None) -> Tensor:
    """Loss of logits (members, b, n), of those members and groups (members, b) alone that are kept."""
    weights = torch.ones(logits.shape[:2]) if kept is None else kept.float()
    errors = (torch.sigmoid(logits) - targets).square().mean(dim=2)
    gaps = logits[:, :, :, None] - logits[:, :, None, :]
    wrong = (functional.softplus(-2 * gaps) * order).sum(dim=(2, 3))
    orders = (order.sum(dim=(1, 2)) * weights).sum().clamp(min=1)
    return 10 * (errors * weights).sum() / weights.sum().clamp(min=1) + 0.5 * (wrong * weights).sum() / orders


def subject_folds(subjects: Sequence[str], count: int, seed: int) -> Tensor:
    """Numbers (G,) from 0 to `count` - 1, the same for groups of one subject, drawn at random."""
    names = sorted(set(subjects))
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    fold = {name: index % count for name, index in zip(names, order, strict=True)}
    return torch.tensor([fold[subject] for subject in subjects])


def fit_normalisation(values: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and scale (C,) of values (N, C)."""
    return values.mean(0), values.std(0).clamp_min(1e-3)


def fit_ensemble(
    ensemble: Ensemble,
    inputs: Tensor,
    data: Labels,
    folds: Tensor,
    *,
    steps: int,
    seed: int,
) -> Tensor:
    """Fit perceptrons to inputs (G, n, D), each to the groups outside one fold, taken in turn.

    Args:
        folds: (G,), numbers from 0 to one less than the folds, of which there are no more than members.

    Returns:
        (G, n), what the members that did not see a group say of it.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    members = ensemble.weights[0].shape[0]

    def predict(chosen: Tensor) -> Tensor:
        batch = inputs[chosen]
        kept = (torch.rand(batch.shape[-1], generator=generator) >= DROPOUT) / (1 - DROPOUT)
        noisy = batch * kept + NOISE * torch.randn(batch.shape, generator=generator)
        return ensemble.members(noisy.flatten(0, 1)).view(-1, *batch.shape[:2])

    seen = folds[None, :] != (torch.arange(members) % (int(folds.max()) + 1))[:, None]
    fit(list(ensemble.parameters()), predict, data, steps=steps, seed=seed, seen=seen)
    with torch.no_grad():
        said = ensemble.members(inputs.flatten(0, 1)).view(-1, *inputs.shape[:2])
        unseen = (~seen).float()[:, :, None]
        return (said * unseen).sum(dim=0) / unseen.sum(dim=0)


def fit_blocks(regressor: Ensemble, blocks: Tensor, targets: Tensor, *, steps: int, seed: int) -> None:
    """Fit perceptrons to single blocks of images, each composed of a pristine and a degraded one, block by block.

    Args:
        blocks: (G, n, k, C), normalised statistics of the k blocks of n images of a view, the pristine one first.
        targets: (G, n).
    """
    generator = torch.Generator().manual_seed(seed)
    count, size = blocks.shape[1:3]

    def loss() -> Tensor:
        view = torch.randint(len(blocks), (BLOCK_IMAGES,), generator=generator)
        other = torch.randint(count, (BLOCK_IMAGES,), generator=generator)
        share = torch.rand(BLOCK_IMAGES, 1, generator=generator)
        degraded = torch.rand(BLOCK_IMAGES, size, generator=generator) < share
        mixed = torch.where(degraded[:, :, None], blocks[view, other], blocks[view, 0])
        mixed = mixed + BLOCK_NOISE * torch.randn(mixed.shape, generator=generator)
        goals = torch.where(degraded, targets[view, other][:, None], targets[view, 0][:, None])
        logits = regressor.members(mixed.flatten(0, 1)).view(-1, *goals.shape)
        return _loss(logits, goals, goals[:, :, None] - goals[:, None, :] > MARGIN)

    _descend(list(regressor.parameters()), loss, steps)


def fit_gaussian(distance: GaussianDistance, pristine: Tensor) -> None:
    """Set a Gaussian to pristine features (N, C), of which it reads those it has the index of."""
    values = pristine[:, distance.index].double()
    center = values.mean(0)
    covariance = torch.cov((values - center).T) + 0.1 * torch.eye(values.shape[1], dtype=torch.float64)
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    distance.center.copy_(center)
    distance.whitening.copy_(vectors / eigenvalues.sqrt())


def grow_bag(trees: SoftTrees, inputs: Tensor, targets: Tensor, folds: Tensor, *, seed: int, rate: float) -> Tensor:
    """Boost one forest per fold, each on the rows outside it, and store their mean.

    Args:
        inputs: (N, D).
        targets: (N,) logits.
        folds: (N,), numbers from 0 to one less than how many forests the trees are shared out to.

    Returns:
        (N,), what the forest that did not see a row says of it.
    """
    count = int(folds.max()) + 1
    number, depth = trees.index.shape
    said = torch.zeros(len(inputs))
    for fold in range(count):
        part, away = SoftTrees(inputs.shape[1], number // count, depth), folds == fold
        grow_trees(part, inputs[~away], targets[~away], seed=seed * count + fold, rate=rate)
        chosen = slice(fold * (number // count), (fold + 1) * (number // count))
        with torch.no_grad():
            said[away] = part(inputs[away])
            part.leaves.div_(count)
            for name, values in part.state_dict().items():
                trees.state_dict()[name][chosen] = values
    return said


def grow_trees(
    trees: SoftTrees,
    inputs: Tensor,
    targets: Tensor,
    *,
    seed: int,
    rate: float = 0.1,
    feature_share: float = 0.05,
    sharpness: float = 6.0,
    penalty: float = 30.0,
) -> None:
    """Boost oblivious trees greedily on squared error, with hard splits, and store them with sigmoid ones.

    Args:
        inputs: (N, D).
        targets: (N,) logits.
        sharpness: of the sigmoids, in units of a feature's own standard deviation.
    """
    generator = torch.Generator().manual_seed(seed)
    count, width = inputs.shape
    seen = inputs[torch.randperm(count, generator=generator)[:4000]]
    edges = torch.quantile(seen, torch.linspace(0, 1, BINS + 1)[1:-1], dim=0)
    codes = torch.stack([torch.bucketize(inputs[:, i].contiguous(), edges[:, i].contiguous()) for i in range(width)], 1)
    scales = inputs.std(0).clamp_min(1e-3)
    residual = targets.clone() - targets.mean()
    number, depth = trees.index.shape
    for tree in range(number):
        rows = torch.randperm(count, generator=generator)[: int(ROW_SHARE * count)]
        features = torch.randperm(width, generator=generator)[: max(1, int(feature_share * width))]
        part, gradient = codes[rows][:, features], residual[rows]
        leaf, leaf_all = torch.zeros(len(rows), dtype=torch.long), torch.zeros(count, dtype=torch.long)
        for level in range(depth):
            feature, cut = _best_split(part, leaf, gradient, 2**level, penalty)
            column = features[feature]
            leaf = 2 * leaf + (part[:, feature] > cut)
            leaf_all = 2 * leaf_all + (codes[:, column] > cut)
            trees.index[tree, level] = column
            trees.thresholds.data[tree, level] = edges[cut, column]
            trees.sharpness.data[tree, level] = sharpness / scales[column]
        sums = torch.zeros(2**depth).index_add_(0, leaf, gradient)
        counts = torch.zeros(2**depth).index_add_(0, leaf, torch.ones(len(rows)))
        values = rate * sums / (counts + penalty)
        trees.leaves.data[tree] = _as_levels(values, depth) + targets.mean() / number
        residual -= values[leaf_all]


def _best_split(codes: Tensor, leaf: Tensor, gradient: Tensor, leaves: int, penalty: float) -> tuple[int, int]:
    """Feature and bin whose split of every leaf explains most of the gradient."""
    width = codes.shape[1]
    flat = ((leaf[:, None] * width + torch.arange(width)) * BINS + codes).flatten()
    weights = gradient[:, None].expand(-1, width).flatten().double()
    sums = torch.bincount(flat, weights, leaves * width * BINS).view(leaves, width, BINS).cumsum(2)
    counts = torch.bincount(flat, minlength=leaves * width * BINS).view(leaves, width, BINS).double().cumsum(2)
    right_sums, right_counts = sums[:, :, -1:] - sums, counts[:, :, -1:] - counts
    gain = (sums.square() / (counts + penalty) + right_sums.square() / (right_counts + penalty)).sum(0)[:, : BINS - 1]
    best = int(gain.argmax())
    return best // (BINS - 1), best % (BINS - 1)


def _as_levels(values: Tensor, depth: int) -> Tensor:
    """Leaves numbered first level first (as grown) -> numbered as `SoftTrees` does, first level last."""
    return values.reshape([2] * depth).permute(*reversed(range(depth))).reshape(-1)


def affine_calibration(best: Tensor, worst: Tensor, high: float = BEST, low: float = WORST) -> tuple[float, float]:
    """Slope and offset of a logit, so that the sigmoid of the medians of `best` and `worst` is `high` and `low`."""
    top, bottom = math.log(high / (1 - high)), math.log(low / (1 - low))
    middle = float(best.median())
    slope = (top - bottom) / max(middle - float(worst.median()), 1e-3)
    return slope, top - slope * middle

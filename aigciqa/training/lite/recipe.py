"""The recipe of the embedded metrics: photographs in, weights and cards out. Run by `examples/train_lite.py`.

Everything follows from the photographs and the seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigciqa.backbones.lite import LiteBackbone, squash
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.format import write_checkpoint
from aigciqa.heads.lite import NEAR, FullReferenceHead, LiteHead, NoReferenceHead, Quality
from aigciqa.registry import metric_info
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.training.lite import fitting
from aigciqa.training.lite.choices import Choices, agreement, encode_choices, fit_shares
from aigciqa.training.lite.training_data import Settings, TrainingData, pool_blocks

VARIANTS = ("nr-lite", "nr-lite-native", "fr-lite")


@dataclass
class Fitted:
    """What was fitted with one seed: the backbone, which has the normalisation, and each variant's head.

    `agreement` is that of the linear score in `nr-lite` with people's choices.
    """

    backbone: LiteBackbone
    heads: dict[str, LiteHead] = field(default_factory=dict)
    agreement: float = math.nan


def fit_all(data: TrainingData, settings: Settings, choices: Choices | None = None) -> Fitted:
    """Fit the backbone's normalisation and the heads of all variants; people's choices teach `nr-lite` alone."""
    torch.manual_seed(settings.seed)
    backbone = LiteBackbone()
    pooled = pool_blocks(data.maps)
    center, scale = fitting.fit_normalisation(pooled.flatten(0, 1))
    backbone.center.copy_(center)
    backbone.scale.copy_(scale)
    features = squash(pooled, center, scale)
    fitted = Fitted(backbone)
    quality, said = _fit_quality(backbone, features, data, settings)
    for variant, weights in MIXES.items():
        lone = NoReferenceHead(backbone.statistics)
        lone.quality.load_state_dict(quality.state_dict())
        _calibrate_quality(lone.quality, weights, said, data)
        fitted.heads[variant] = lone
    _fit_blocks(fitted.heads["nr-lite"], data, settings)
    fitted.heads["fr-lite"] = _fit_full_reference(fitted, features, data, settings)
    if choices is not None:
        head = fitted.heads["nr-lite"]
        assert isinstance(head, NoReferenceHead)
        pictures = encode_choices(choices, backbone, metric_info("nr-lite").preprocess)[:, : head.pooled]
        linear = fit_shares(pictures, choices)
        _teach(head, linear.weight, pictures, features, said, data)
        fitted.agreement = agreement(linear.said, choices)
    fitted.heads["nr-lite-native"].blocks.load_state_dict(fitted.heads["nr-lite"].blocks.state_dict())
    for each in fitted.heads.values():
        each.eval()
    return fitted


#: Weights of perceptrons, trees and log distance, by variant, before the calibration.
MIXES = {"nr-lite": (1.0, 1.5, -2.0), "nr-lite-native": (1.0, 0.0, -0.5)}


def _fit_quality(
    backbone: LiteBackbone, features: Tensor, data: TrainingData, settings: Settings
) -> tuple[Quality, Tensor]:
    """The parts of the no-reference logit, and what they say (3, G, n) of subjects they were not fitted to."""
    quality, folds = Quality(backbone.statistics), data.folds(settings.seed)
    numbers = {"steps": settings.steps, "seed": settings.seed}
    perceptrons = fitting.fit_ensemble(quality.regressor, features, data.labels, folds, **numbers)
    goals, rows = torch.logit(data.labels.targets).flatten(), folds.repeat_interleave(features.shape[1])
    trees = fitting.grow_bag(quality.trees, features.flatten(0, 1), goals, rows, seed=settings.seed, rate=0.1)
    distance = _fit_distance(quality, backbone, features, data, folds)
    return quality, torch.stack([perceptrons, trees.view_as(perceptrons), distance])


def _fit_distance(
    quality: Quality, backbone: LiteBackbone, features: Tensor, data: TrainingData, folds: Tensor
) -> Tensor:
    """The Gaussian of all pristine blocks; (G, n), distances to that of the other subjects' blocks."""
    distance, count = quality.distance, backbone.statistics
    distance.index.copy_(torch.linspace(0, count - 1, len(distance.index)).round().long())
    blocks = squash(data.maps[:, 0].transpose(1, 2), backbone.center[:count], backbone.scale[:count])
    away = torch.zeros(features.shape[:2])
    for fold in range(int(folds.max()) + 1):
        fitting.fit_gaussian(distance, blocks[folds != fold].flatten(0, 1))
        chosen = features[folds == fold]
        away[folds == fold] = distance(chosen.flatten(0, 1)[:, :count]).view(chosen.shape[:2])
    fitting.fit_gaussian(distance, blocks.flatten(0, 1))
    return away


def _calibrate_quality(quality: Quality, weights: tuple[float, float, float], said: Tensor, data: TrainingData) -> None:
    """Mix the parts so that scores come where they should, by what they say of subjects they were not fitted to."""
    mixed = weights[0] * said[0] + weights[1] * said[1] + weights[2] * said[2]
    slope, offset = _calibration(mixed, data, BEST_MEDIAN)
    quality.mix.copy_(torch.tensor([*(slope * weight for weight in weights), offset]))


#: Weight of what degraded photographs taught, where people's choices have 1: each in units of its deviation over the
#: pictures that people chose among. In it the distance weighs more than where no people taught.
SYNTHETIC_WEIGHT, TAUGHT_MIX = 2.0, (1.0, 1.5, -6.0)


def _teach(
    head: NoReferenceHead, taught: Tensor, pictures: Tensor, features: Tensor, said: Tensor, data: TrainingData
) -> None:
    """Add a linear score (3 C,) of people's choices among pictures (n, 3 C) to a head, and calibrate it again."""
    mix = head.quality.mix
    with torch.no_grad():
        mix.copy_(torch.tensor([*TAUGHT_MIX, 0.0]))
        share = SYNTHETIC_WEIGHT / head.quality(pictures).std()
        synthetic = torch.einsum("p,pgn->gn", mix[:3], said)
        slope, offset = _calibration(features @ taught + share * synthetic, data, BEST_MEDIAN)
        head.taught.copy_(slope * taught)
        mix.copy_(torch.tensor([*(slope * share * mix[:3]), offset]))


#: The worst images are those with the lowest labels: this share of all.
WORST_SHARE = 0.05
#: Where the medians of scores go, as shares of the range, so that the means come near 0.9 and 0.1: they lie inside.
BEST_MEDIAN, WORST_MEDIAN = 0.94, 0.06


def _calibration(logits: Tensor, data: TrainingData, best_median: float) -> tuple[float, float]:
    """Slope and offset by which pristine images and those with the lowest targets come where they should."""
    targets = data.labels.targets
    worst = targets <= torch.quantile(targets, WORST_SHARE)
    return fitting.affine_calibration(logits[targets == targets.max()], logits[worst], best_median, WORST_MEDIAN)


def _fit_blocks(head: LiteHead, data: TrainingData, settings: Settings) -> None:
    """The head on single blocks, from images that are degraded in some of their blocks and pristine in the others."""
    center, scale = fitting.fit_normalisation(data.maps.movedim(2, -1).flatten(0, -2))
    head.blocks.center.copy_(center)
    head.blocks.scale.copy_(scale)
    blocks = squash(data.maps.movedim(-1, 2), center, scale)
    fitting.fit_blocks(head.blocks.regressor, blocks, data.labels.targets, steps=settings.steps, seed=settings.seed)


def _fit_full_reference(fitted: Fitted, features: Tensor, data: TrainingData, settings: Settings) -> FullReferenceHead:
    head = FullReferenceHead(fitted.backbone.statistics)
    base = fitted.heads["nr-lite"]
    assert isinstance(base, NoReferenceHead)
    head.quality.load_state_dict(base.quality.state_dict())
    head.blocks.load_state_dict(base.blocks.state_dict())
    _fit_aligned(head, features, data, settings)
    _fit_correction(head, features, data, settings)
    return head


#: Weights of the trees' logits and of the log distance, each in units of its own deviation, before the calibration.
ALIGNED_MIX = (1.0, -0.6)


def _fit_aligned(head: FullReferenceHead, features: Tensor, data: TrainingData, settings: Settings) -> None:
    moved = head.moved(features.flatten(0, 1), features[:, :1].expand_as(features).flatten(0, 1))
    inputs, goals = torch.cat([moved, moved.abs()], dim=1), torch.logit(data.labels.targets).flatten()
    rows = data.folds(settings.seed).repeat_interleave(features.shape[1])
    learned = fitting.grow_bag(head.trees, inputs, goals, rows, seed=settings.seed, rate=0.1)
    distance = (moved[:, head.statistics :].abs().mean(dim=1) + NEAR).log()
    degraded = data.labels.targets.flatten() < data.labels.targets.max()
    parts = (learned, distance)
    weights = [share / float(part[degraded].std()) for share, part in zip(ALIGNED_MIX, parts, strict=True)]
    mixed = weights[0] * learned + weights[1] * distance
    slope, offset = _calibration(mixed.view_as(data.labels.targets), data, fitting.BEST)
    head.mix.copy_(torch.tensor([slope * weights[0], slope * weights[1], offset, 0.0]))


CORRECTION_WEIGHT = 0.5


def _fit_correction(head: FullReferenceHead, features: Tensor, data: TrainingData, settings: Settings) -> None:
    """What another photograph of the subject adds to the no-reference logit."""
    partners = _partners(data)
    groups = torch.tensor(sorted(partners))
    if not len(groups):
        return
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        head.mix[3] = CORRECTION_WEIGHT
        base = torch.stack([head.quality(group) for group in features])

    def pick(values: Tensor) -> Tensor:
        return values[torch.randint(len(values), (), generator=generator)]

    def predict(chosen: Tensor) -> Tensor:
        rows = groups[chosen]
        others = torch.stack([pick(partners[int(row)]) for row in rows])
        generated = features[rows]
        moved = generated - features[others][:, :1]
        inputs = torch.cat([generated, moved], dim=-1)
        noisy = inputs + torch.randn(inputs.shape, generator=generator)
        corrections: Tensor = head.correction(noisy.flatten(0, 1))
        return (base[rows] + CORRECTION_WEIGHT * corrections.view(noisy.shape[:2]))[None]

    chosen = fitting.Labels(data.labels.targets[groups], data.labels.order[groups])
    fitting.fit(list(head.correction.parameters()), predict, chosen, steps=settings.steps // 2, seed=settings.seed)


def _partners(data: TrainingData) -> dict[int, Tensor]:
    """Group -> groups of other photographs of its subject."""
    groups = list(zip(data.subjects, data.photos, strict=True))
    partners = {}
    for group, (subject, photo) in enumerate(groups):
        others = [i for i, (theirs, other) in enumerate(groups) if theirs == subject and other != photo]
        if others:
            partners[group] = torch.tensor(others)
    return partners


def write_variant(
    folder: Path,
    variant: str,
    fitted: Fitted,
    training: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    card: str | None = None,
    reference_sets: tuple[ReferenceSet, ...] = (),
) -> str:
    """Write a variant's folder: `config.json`, `model.safetensors` and the card. Returns the sha256 of the weights."""
    spec = metric_info(variant.removesuffix("-native"))
    native = variant != spec.name
    config = replace(
        MetricConfig.from_spec(spec),
        options={"presentation": "native" if native else "common"},
        preprocess=replace(spec.preprocess, resize=None) if native else spec.preprocess,
        license="Apache-2.0",
        training=training or {},
        results=results or {},
        reference_sets=reference_sets,
    )
    tensors = {f"backbone.{name}": value for name, value in fitted.backbone.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in fitted.heads[variant].state_dict().items()}
    write_checkpoint(folder / variant, config, tensors, card)
    return hashlib.sha256((folder / variant / "model.safetensors").read_bytes()).hexdigest()

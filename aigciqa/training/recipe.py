"""The recipe of the embedded metrics: photographs in, weights and cards out. Run by `examples/train_lite.py`.

Everything follows from the photographs and the seed. Features of every photograph are kept on disk as they are made, so
that a broken run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigciqa.backbones.lite import LiteBackbone, pool_statistics, squash
from aigciqa.checkpoint import MetricConfig, write_checkpoint
from aigciqa.heads.lite import NEAR, FullReferenceHead, LiteHead, NoReferenceHead, Quality
from aigciqa.registry import SCORE_RANGES, Preprocess
from aigciqa.training import lite as fitting
from aigciqa.training.pictures import (
    Photo,
    PhotoViews,
    Sample,
    full_reference_scores,
    mixed_labels,
    training_plan,
)

VERSION = 1
COMMON_SIZE = Preprocess(resize=512, crop=None, max_side=4096, eight_bit=True)
NATIVE_SIZE = Preprocess(resize=None, crop=None, max_side=4096, eight_bit=True)


@dataclass(frozen=True)
class Settings:
    """What the recipe is run with.

    Attributes:
        views, ladders, chains: of each photograph to train on; see `training_plan`.
        steps: of the perceptrons.
        seed: of the fits; the pictures are the same for every seed.
    """

    views: int = 2
    ladders: int = 2
    chains: int = 10
    steps: int = 1500
    seed: int = 0


@dataclass(frozen=True)
class PhotoFeatures:
    """What is kept of a photograph's pictures.

    Attributes:
        photo: the photograph.
        plan: its n samples.
        maps: (n, C, 16), statistics of the sampled blocks.
        thumbnails: (n, T).
        scores: (n, 4) of the full-reference metrics; zero for pristine samples.
    """

    photo: Photo
    plan: Sequence[Sample]
    maps: Tensor
    thumbnails: Tensor
    scores: Tensor


@dataclass(frozen=True)
class TrainingData:
    """Features of all views of all photographs to train on, in groups of one view (G) of n pictures.

    Attributes:
        maps: (G, n, C, 16).
        thumbnails: (G, n, T).
        orders: targets and orders.
        subjects, photos: names, of each group.
    """

    maps: Tensor
    thumbnails: Tensor
    orders: fitting.Set
    subjects: Sequence[str]
    photos: Sequence[str]


@dataclass
class Fitted:
    """What was fitted with one seed.

    Attributes:
        backbone: with its normalisation.
        heads: variant -> head.
    """

    backbone: LiteBackbone
    heads: dict[str, LiteHead] = field(default_factory=dict)


def photo_features(photo: Photo, plan: Sequence[Sample], cache: Path, *, scored: bool) -> PhotoFeatures:
    """Draw the samples of a photograph and keep their features, or take them from the cache.

    Args:
        cache: folder to keep features in.
        scored: whether full-reference scores are needed.
    """
    key = json.dumps([VERSION, scored, photo.name, [asdict(sample) for sample in plan]])
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.pt"
    if not file.exists():
        temporary = file.with_suffix(".tmp")
        torch.save(_draw_features(photo, plan, scored), temporary)
        temporary.replace(file)
    maps, thumbnails, scores = torch.load(file, weights_only=True)
    return PhotoFeatures(photo, plan, maps, thumbnails, scores)


def _draw_features(photo: Photo, plan: Sequence[Sample], scored: bool) -> tuple[Tensor, Tensor, Tensor]:
    views, backbone = PhotoViews(photo, 0), LiteBackbone()
    pristine: dict[int, Tensor] = {}
    maps, scores = [], []
    for sample in plan:
        picture = views.draw(sample)
        if not sample.steps:
            pristine[sample.view] = picture
        with torch.no_grad():
            maps.append(backbone(picture[None]))
        measured = full_reference_scores(picture, pristine[sample.view]) if scored and sample.steps else np.zeros(4)
        scores.append(torch.from_numpy(measured).float())
    whole = torch.cat(maps)
    count = backbone.statistics
    return whole[:, :count].flatten(2).clone(), whole[:, count:, 0, 0].clone(), torch.stack(scores)


def photo_plan(photo: Photo, settings: Settings) -> list[Sample]:
    """The samples of a photograph to train on."""
    return training_plan(photo, 0, views=settings.views, ladders=settings.ladders, chains=settings.chains)


def assemble(features: Sequence[PhotoFeatures]) -> TrainingData:
    """Group the samples by view and give them labels."""
    groups = [(item, view) for item in features for view in sorted({sample.view for sample in item.plan})]
    rows = [[i for i, sample in enumerate(item.plan) if sample.view == view] for item, view in groups]
    pairs = list(zip(groups, rows, strict=True))
    scores = torch.stack([item.scores[chosen] for (item, _), chosen in pairs])
    samples = [[item.plan[i] for i in chosen] for (item, _), chosen in pairs]
    severity = torch.tensor([[sample.severity for sample in row] for row in samples])
    labels = mixed_labels(scores.flatten(0, 1).numpy(), severity.flatten().numpy())
    orders = fitting.make_set(
        torch.from_numpy(labels).view_as(severity),
        torch.tensor([[sample.ladder for sample in row] for row in samples]),
        torch.tensor([[sample.steps[0].strength if sample.steps else 0.0 for sample in row] for row in samples]),
    )
    return TrainingData(
        maps=torch.stack([item.maps[chosen] for (item, _), chosen in pairs]),
        thumbnails=torch.stack([item.thumbnails[chosen] for (item, _), chosen in pairs]),
        orders=orders,
        subjects=[item.photo.subject for item, _ in groups],
        photos=[item.photo.name for item, _ in groups],
    )


def pool_blocks(maps: Tensor) -> Tensor:
    """(..., C, blocks) -> unnormalised features (..., 3 C)."""
    flat = maps.reshape(-1, *maps.shape[-2:])
    return pool_statistics(flat[:, :, None]).reshape(*maps.shape[:-2], -1)


def fit_all(data: TrainingData, settings: Settings) -> Fitted:
    """Fit the backbone's normalisation and the heads of all variants."""
    torch.manual_seed(settings.seed)
    backbone = LiteBackbone()
    pooled = pool_blocks(data.maps)
    center, scale = fitting.fit_normalisation(pooled.flatten(0, 1))
    backbone.center.copy_(center)
    backbone.scale.copy_(scale)
    features = squash(pooled, center, scale)
    fitted = Fitted(backbone)
    quality = _fit_quality(backbone, features, data, settings)
    for variant, weights in MIXES.items():
        lone = NoReferenceHead(backbone.statistics)
        lone.quality.load_state_dict(quality.state_dict())
        _calibrate_quality(lone.quality, weights, features, data)
        fitted.heads[variant] = lone
    _fit_blocks(fitted.heads["nr-lite"], data, settings)
    fitted.heads["nr-lite-native"].blocks.load_state_dict(fitted.heads["nr-lite"].blocks.state_dict())
    fitted.heads["fr-lite"] = _fit_full_reference(fitted, features, data, settings)
    for head in fitted.heads.values():
        head.eval()
    return fitted


#: Weights of perceptrons, trees and log distance, by variant, before the calibration.
MIXES = {"nr-lite": (1.0, 1.0, -2.0), "nr-lite-native": (1.0, 0.5, -0.5)}


def _fit_quality(backbone: LiteBackbone, features: Tensor, data: TrainingData, settings: Settings) -> Quality:
    quality = Quality(backbone.statistics)
    fitting.fit_ensemble(
        quality.regressor, features, data.orders, steps=settings.steps, seed=settings.seed, dropout=0.3, noise=1.0
    )
    goals = fitting.logit(data.orders.targets)
    fitting.grow_trees(quality.trees, features.flatten(0, 1), goals.flatten(), seed=settings.seed)
    index = torch.linspace(0, backbone.statistics - 1, len(quality.distance.index)).round().long()
    quality.distance.index.copy_(index)
    blocks = data.maps[:, 0].transpose(1, 2).flatten(0, 1)
    chosen = slice(backbone.statistics)
    fitting.fit_gaussian(quality.distance, squash(blocks, backbone.center[chosen], backbone.scale[chosen]), ridge=0.1)
    return quality


@torch.no_grad()
def _calibrate_quality(
    quality: Quality, weights: tuple[float, float, float], features: Tensor, data: TrainingData
) -> None:
    quality.mix.copy_(torch.tensor([*weights, 0.0]))
    slope, offset = _calibration(quality(features.flatten(0, 1)), data)
    quality.mix.copy_(torch.tensor([*(slope * weight for weight in weights), offset]))


def _calibration(logits: Tensor, data: TrainingData) -> tuple[float, float]:
    """Slope and offset by which pristine pictures and the twentieth with the lowest targets come where they should."""
    targets = data.orders.targets.flatten()
    worst = targets <= torch.quantile(targets, 0.05)
    return fitting.affine_calibration(logits[targets == targets.max()], logits[worst])


def _fit_blocks(head: LiteHead, data: TrainingData, settings: Settings) -> None:
    """The head on single blocks, from pictures that are degraded in some of their blocks and pristine in the others."""
    center, scale = fitting.fit_normalisation(data.maps.movedim(2, -1).flatten(0, -2))
    head.blocks.center.copy_(center)
    head.blocks.scale.copy_(scale)
    blocks = squash(data.maps.movedim(-1, 2), center, scale)
    fitting.fit_blocks(head.blocks.regressor, blocks, data.orders.targets, steps=settings.steps, seed=settings.seed)


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
ALIGNED_MIX = (1.0, -1.0)


def _fit_aligned(head: FullReferenceHead, features: Tensor, data: TrainingData, settings: Settings) -> None:
    moved = head.moved(features.flatten(0, 1), features[:, :1].expand_as(features).flatten(0, 1))
    inputs = torch.cat([moved, moved.abs()], dim=1)
    fitting.grow_trees(head.trees, inputs, fitting.logit(data.orders.targets).flatten(), seed=settings.seed, rate=0.07)
    with torch.no_grad():
        learned = head.trees(inputs)
        distance = (moved[:, head.statistics :].abs().mean(dim=1) + NEAR).log()
        degraded = data.orders.targets.flatten() < data.orders.targets.max()
        parts = (learned, distance)
        weights = [share / float(part[degraded].std()) for share, part in zip(ALIGNED_MIX, parts, strict=True)]
        slope, offset = _calibration(weights[0] * learned + weights[1] * distance, data)
        head.mix.copy_(torch.tensor([slope * weights[0], slope * weights[1], offset, 0.0]))


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

    def predict(chosen: Tensor) -> Tensor:
        rows = groups[chosen]
        others = torch.stack([_pick(partners[int(row)], generator) for row in rows])
        generated = features[rows]
        moved = generated - features[others][:, :1]
        inputs = torch.cat([generated, moved], dim=-1)
        noisy = inputs + torch.randn(inputs.shape, generator=generator)
        corrections: Tensor = head.correction(noisy.flatten(0, 1))
        return (base[rows] + CORRECTION_WEIGHT * corrections.view(noisy.shape[:2]))[None]

    chosen = fitting.Set(data.orders.targets[groups], data.orders.order[groups])
    fitting.fit(list(head.correction.parameters()), predict, chosen, steps=settings.steps // 2, seed=settings.seed)


CORRECTION_WEIGHT = 0.5


def _partners(data: TrainingData) -> dict[int, list[int]]:
    """Group -> groups of other photographs of its subject."""
    members: dict[str, list[int]] = {}
    for group, subject in enumerate(data.subjects):
        members.setdefault(subject, []).append(group)
    partners = {}
    for group, (subject, photo) in enumerate(zip(data.subjects, data.photos, strict=True)):
        others = [other for other in members[subject] if data.photos[other] != photo]
        if others:
            partners[group] = others
    return partners


def _pick(values: list[int], generator: torch.Generator) -> Tensor:
    return torch.tensor(values)[torch.randint(len(values), (), generator=generator)]


def write_variant(
    folder: Path, variant: str, fitted: Fitted, training: Mapping[str, Any], results: Mapping[str, Any], card: str
) -> None:
    """Write a variant's folder: `config.json`, `model.safetensors` and the card."""
    native = variant.endswith("-native")
    metric = variant.removesuffix("-native")
    head = fitted.heads[variant]
    config = MetricConfig(
        metric=metric,
        kind="fr" if metric.startswith("fr") else "nr",
        backbone="lite",
        options={"presentation": "native" if native else "common"},
        dimensions=("quality",),
        score_range={"quality": SCORE_RANGES["quality"]},
        preprocess=NATIVE_SIZE if native else COMMON_SIZE,
        license="Apache-2.0",
        training=training,
        results=results,
    )
    tensors = {f"backbone.{name}": value for name, value in fitted.backbone.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in head.state_dict().items()}
    write_checkpoint(folder / variant, config, tensors, card)

"""The embedded metrics on photographs that were held out: order, calibration, references, quality maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from aigciqa.backbones.lite import LiteBackbone, squash
from aigciqa.backbones.scene_statistics import SHARPNESS, TEXTURE
from aigciqa.heads.lite import FullReferenceHead
from aigciqa.stats.bootstrap import Array, Interval
from aigciqa.stats.correlations import srcc_interval
from aigciqa.stats.means import mean_interval
from aigciqa.training.lite.degradations import degrade, names
from aigciqa.training.lite.image_filters import from_pil
from aigciqa.training.lite.photos import SHORT_SIDE, STRENGTHS, Photo, ladder_plan, seed_of
from aigciqa.training.lite.recipe import WORST_SHARE, Fitted
from aigciqa.training.lite.training_data import (
    PhotoFeatures,
    Settings,
    TrainingData,
    in_processes,
    kept,
    photo_features,
    pool_blocks,
    training_data,
)

MODERATE = 3.0
#: Degradations by which quality maps are judged, and their strength.
MAP_DEGRADATIONS = ("lens_blur", "jpeg", "down_up", "gaussian_noise", "bilateral", "block_loss")
MAP_STRENGTH = 4.0
#: Trivial controls: statistics of the blocks that need no training.
PLAIN = {"local contrast": TEXTURE, "sharpness ratio": SHARPNESS}
#: Statistics (n, C, 16) and thumbnails (n, T) of a view's images, the pristine one first -> scores (n,).
Scorer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class HeldOut:
    """What is drawn of photographs that were not trained on.

    Attributes:
        ladders: of every photograph, each degradation at five strengths.
        chains: images as those that were trained on, with labels.
        patches: of every photograph, a degraded square in it, by each of `MAP_DEGRADATIONS`.
    """

    ladders: Sequence[PhotoFeatures]
    chains: TrainingData
    patches: Sequence[Patched]


def draw_held_out(photos: Sequence[Photo], settings: Settings, cache: Path, workers: int) -> HeldOut:
    """Draw what held-out photographs are used for, or take it from the cache."""
    tasks = [(photo, ladder_plan(photo, 0), cache, False) for photo in photos]
    patches = in_processes(patch_photo, [(photo, cache) for photo in photos], "held-out photos, patched", workers)
    return HeldOut(
        ladders=in_processes(photo_features, tasks, "held-out photos, every degradation", workers),
        chains=training_data(photos, settings, cache, workers, "held-out photos, mixed"),
        patches=[patched for several in patches for patched in several],
    )


def scorer(fitted: Fitted, variant: str) -> Scorer:
    """That of a variant, whose reference, if it takes one, is the pristine image."""
    return lambda maps, thumbnails: _scores(_features(maps, thumbnails, fitted), fitted, variant)


def plain_scorer(index: int) -> Scorer:
    """That of a trivial control, a statistic's mean over the blocks."""
    return lambda maps, thumbnails: maps[:, index].mean(dim=1)


def _features(maps: Tensor, thumbnails: Tensor, fitted: Fitted) -> Tensor:
    pooled = squash(pool_blocks(maps), fitted.backbone.center, fitted.backbone.scale)
    return torch.cat([pooled, thumbnails], dim=1)


def _scores(features: Tensor, fitted: Fitted, variant: str, reference: Tensor | None = None) -> Tensor:
    """Scores (n,) of features (n, D); the reference is the first image unless given, (D,)."""
    head = fitted.heads[variant]
    if isinstance(head, FullReferenceHead):
        beside = features[0] if reference is None else reference
        features = torch.cat([features, beside.expand_as(features)], dim=1)
    scores: Tensor = head(features)[:, 0]
    return scores


@torch.no_grad()
def monotonicity(ladders: Sequence[PhotoFeatures], score: Scorer) -> dict[str, Interval]:
    """Share of adjacent strengths ordered right, pristine included: per degradation, and of all (key `all`)."""
    shares = np.stack([_ladder_shares(score(item.maps, item.thumbnails)) for item in ladders])
    figures = {name: mean_interval(shares[:, i]) for i, name in enumerate(names())}
    return {"all": mean_interval(shares.mean(axis=1)), **figures}


def _ladder_shares(scores: Tensor) -> Array:
    """Scores of a `ladder_plan` -> share of adjacent strengths ordered right, per degradation."""
    rungs = scores[1:].view(-1, len(STRENGTHS))
    ladders = torch.cat([scores[:1].expand(len(rungs), 1), rungs], dim=1)
    return (ladders[:, :-1] > ladders[:, 1:]).double().mean(dim=1).numpy()


@torch.no_grad()
def label_agreement(chains: TrainingData, score: Scorer) -> Interval:
    """SRCC with the labels of images like those that were trained on."""
    return srcc_interval(_chain_scores(chains, score).flatten(), chains.labels.targets.flatten())


@torch.no_grad()
def calibration(held_out: HeldOut, score: Scorer) -> dict[str, Interval]:
    """Mean scores of pristine photographs, of the worst images by label, and at the greatest strengths."""
    scores = [score(item.maps, item.thumbnails) for item in held_out.ladders]
    targets = held_out.chains.labels.targets
    worst = _chain_scores(held_out.chains, score)[targets <= torch.quantile(targets, WORST_SHARE)]
    return {
        "pristine": mean_interval([float(values[0]) for values in scores]),
        "lowest twentieth of the labels": mean_interval(worst),
        "greatest strength of every degradation": mean_interval([float(values[5::5].mean()) for values in scores]),
    }


def _chain_scores(chains: TrainingData, score: Scorer) -> Tensor:
    """Scores (G, n)."""
    return torch.stack([score(*group) for group in zip(chains.maps, chains.thumbnails, strict=True)])


@torch.no_grad()
def identity_is_best(ladders: Sequence[PhotoFeatures], score: Scorer) -> Interval:
    """Share of degraded images that score no higher than the reference itself."""
    scores = [score(item.maps, item.thumbnails) for item in ladders]
    return mean_interval([float((values[1:] <= values[0]).double().mean()) for values in scores])


@torch.no_grad()
def other_reference(ladders: Sequence[PhotoFeatures], fitted: Fitted) -> dict[str, Interval]:
    """Pristine over moderately degraded, with another photograph of the subject as reference, and without one.

    Returns:
        `fr-lite`, `nr-lite`, the controls, and `taken for the same image` (how often the gate errs); empty if no
        subject has two photographs.
    """
    features = [_features(item.maps, item.thumbnails, fitted) for item in ladders]
    moderate = [i for i, sample in enumerate(ladders[0].plan) if sample.steps and sample.steps[0].strength == MODERATE]
    shares: dict[str, list[float]] = {}
    for i, item in enumerate(ladders):
        values = {name: plain_scorer(index)(item.maps, item.thumbnails) for name, index in PLAIN.items()}
        values["nr-lite"] = _scores(features[i], fitted, "nr-lite")
        for j, other in enumerate(ladders):
            if i == j or item.photo.subject != other.photo.subject:
                continue
            values["fr-lite"] = _scores(features[i], fitted, "fr-lite", features[j][0])
            for name, found in values.items():
                shares.setdefault(name, []).append(float((found[0] > found[moderate]).double().mean()))
            taken = _share_taken_for_same(features[i], features[j][0], fitted)
            shares.setdefault("taken for the same image", []).append(taken)
    return {name: mean_interval(shares[name]) for name in sorted(shares)}


def _share_taken_for_same(features: Tensor, reference: Tensor, fitted: Fitted) -> float:
    head = fitted.heads["fr-lite"]
    assert isinstance(head, FullReferenceHead)
    likeness = head.split(torch.cat([features, reference.expand_as(features)], dim=1))[2]
    return float((likeness > head.gate[0]).double().mean())


@dataclass(frozen=True)
class Patched:
    """A pristine photograph with a degraded square, as the backbone sees it.

    Attributes:
        mask: (H, W), true inside the square.
        dense: (1, C, h, w), statistics of the blocks around the cells of the map.
        sampled: (1, C + thumbnail, rows, columns), the maps that the score comes from.
    """

    mask: Tensor
    dense: Tensor
    sampled: Tensor


def patch_photo(photo: Photo, cache: Path) -> list[Patched]:
    """A photograph at the common size with a square degraded in each of `MAP_DEGRADATIONS`; kept in a cache."""
    key = ["patches", photo.name, photo.digest(), MAP_DEGRADATIONS, MAP_STRENGTH]
    made = kept(cache, key, lambda: _draw_patches(photo))
    return [Patched(*tensors) for tensors in made]


@torch.no_grad()
def _draw_patches(photo: Photo) -> list[tuple[Tensor, Tensor, Tensor]]:
    backbone, image = LiteBackbone(), photo.image()
    scale = SHORT_SIDE / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    pristine = from_pil(image.resize(size, Image.Resampling.LANCZOS))
    rng = np.random.default_rng(seed_of("map", photo.name))
    side = int(rng.integers(160, 224))
    top, left = (int(rng.integers(0, length - side + 1)) // 8 * 8 for length in pristine.shape[1:])
    mask = torch.zeros(pristine.shape[1:], dtype=torch.bool)
    mask[top : top + side, left : left + side] = True
    made = []
    for name in MAP_DEGRADATIONS:
        pixels = torch.where(mask, degrade(pristine, name, MAP_STRENGTH, seed=1), pristine)[None]
        made.append((mask, backbone.dense(pixels), backbone(pixels).contiguous()))
    return made


@torch.no_grad()
def map_areas(patches: Sequence[Patched], fitted: Fitted) -> dict[str, Interval]:
    """Area under the ROC curve by which nr-lite's map finds the degraded square: of all (by photograph) and of each."""
    areas = [_area(_score_map(patched, fitted), patched.mask) for patched in patches]
    by_photo = np.reshape(areas, (-1, len(MAP_DEGRADATIONS)))
    figures = {name: mean_interval(by_photo[:, i]) for i, name in enumerate(MAP_DEGRADATIONS)}
    return {"all": mean_interval(by_photo.mean(axis=1)), **figures}


def _score_map(patched: Patched, fitted: Fitted) -> Tensor:
    features = fitted.backbone.pool(patched.sampled)
    return fitted.heads["nr-lite"].score_map(patched.dense, features, 0)[0]


def plain_map_areas(patches: Sequence[Patched]) -> dict[str, Interval]:
    """The same of trivial controls, of all degradations."""
    return {
        control: mean_interval([_area(patched.dense[0, index], patched.mask) for patched in patches])
        for control, index in PLAIN.items()
    }


def _area(values: Tensor, mask: Tensor) -> float:
    """How well low values mark the mask: chance that a position inside is lower than one outside."""
    from scipy.stats import rankdata

    full = functional.interpolate(values[None, None], mask.shape, mode="bilinear", align_corners=False)[0, 0]
    ranks = rankdata(-full[::4, ::4].flatten().numpy())
    inside = mask[::4, ::4].flatten().numpy()
    count = inside.sum()
    return float((ranks[inside].sum() - count * (count + 1) / 2) / (count * (len(ranks) - count)))

"""The recipe of the head in `nr-efficientnet-lite2`: taught by people's choices, on the features of a frozen trunk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aigciqa.backbones import build_backbone
from aigciqa.backbones.crops import CropsBackbone
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.format import write_checkpoint
from aigciqa.checkpoints.imagenet import imagenet_weights
from aigciqa.heads.lite import NoReferenceHead
from aigciqa.heads.taught import TaughtHead
from aigciqa.registry import metric_info
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.training.lite import fitting
from aigciqa.training.lite.choices import Choices, agreement, encode_choices, fit_shares
from aigciqa.training.lite.degradations import degrade, names
from aigciqa.training.lite.image_filters import from_pil
from aigciqa.training.lite.photos import SHORT_SIDE, STRENGTHS, Photo, seed_of
from aigciqa.training.lite.recipe import Fitted

VARIANT = "nr-efficientnet-lite2"
#: Weights of the linear scores of lite's statistics and of the crops, and of the log distance, each in units of its
#: deviation over the pictures that people chose among.
STATISTICS_WEIGHT, CROPS_WEIGHT, DISTANCE_WEIGHT = 1.0, 2.0, -2.0
#: One in so many photographs calibrates the scores: their median is 4.5, and 0.5 is where this share of them ends when
#: they are degraded as strongly as can be.
CALIBRATING, WORST_SHARE = 3, 0.1
#: As `nr-lite` sees images.
PREPROCESS = metric_info("nr-lite").preprocess


@dataclass(frozen=True)
class Taught:
    """A fitted head and the backbone that it reads; `agreement` is that of its linear part with people's choices."""

    backbone: CropsBackbone
    head: TaughtHead
    agreement: float


def fit_taught(fitted: Fitted, choices: Choices, photos: Sequence[Photo]) -> Taught:
    """Fit the head to choices, beside the normalisation and the Gaussian of `nr-lite`; photographs calibrate it."""
    backbone = build_backbone("efficientnet-lite2", crops=True).eval()
    assert isinstance(backbone, CropsBackbone)
    backbone.trunk.load_state_dict(_trunk(backbone))
    backbone.lite.load_state_dict(fitted.backbone.state_dict())
    head, lone = TaughtHead("nr", backbone.feature_dim, 1).eval(), fitted.heads["nr-lite"]
    assert isinstance(lone, NoReferenceHead)
    head.distance.load_state_dict(lone.quality.distance.state_dict())
    features = encode_choices(choices, backbone, PREPROCESS)
    statistics, crops = (fit_shares(part, choices) for part in features.tensor_split([lone.pooled], dim=1))
    with torch.no_grad():
        head.weight.copy_(torch.cat([STATISTICS_WEIGHT * statistics.weight, CROPS_WEIGHT * crops.weight]))
        unit = head.distance(features[:, : lone.statistics]).std()
        head.mix.copy_(torch.tensor([DISTANCE_WEIGHT / unit, 0.0]))
        logits = torch.stack([head.logits(backbone.pool(maps)) for maps in photo_maps(photos[::CALIBRATING], backbone)])
        worst = torch.quantile(logits[:, 1], WORST_SHARE)[None]
        slope, offset = fitting.affine_calibration(logits[:, 0], worst)
        head.weight.mul_(slope)
        head.mix.copy_(torch.tensor([slope * float(head.mix[0]), offset]))
    said = STATISTICS_WEIGHT * statistics.said + CROPS_WEIGHT * crops.said
    return Taught(backbone, head, agreement(said, choices))


def _trunk(backbone: CropsBackbone) -> dict[str, Tensor]:
    return imagenet_weights("efficientnet-lite2", backbone.trunk.state_dict(), None, None, cache_only=True)


@torch.no_grad()
def photo_maps(photos: Sequence[Photo], backbone: CropsBackbone) -> list[Tensor]:
    """The backbone's maps (2, D, 1, 1) of each photograph, pristine and at the greatest strength of a degradation."""
    made = []
    for photo in tqdm(photos, desc="whole photos", unit="photo"):
        image = photo.image()
        scale = SHORT_SIDE / min(image.size)
        size = round(image.width * scale), round(image.height * scale)
        pristine = from_pil(image.resize(size, Image.Resampling.LANCZOS))
        seed = seed_of("whole", photo.name)
        worst = degrade(pristine, names()[seed % len(names())], STRENGTHS[-1], seed=seed)
        made.append(backbone(torch.stack([pristine, worst])))
    return made


def write_taught(
    folder: Path,
    taught: Taught,
    training: Mapping[str, Any] | None = None,
    results: Mapping[str, Any] | None = None,
    card: str | None = None,
    reference_sets: tuple[ReferenceSet, ...] = (),
) -> str:
    """Write the metric's folder, without the weights of the trunk. Returns the sha256 of the weights."""
    config = replace(
        MetricConfig.from_spec(metric_info(VARIANT)),
        options={"crops": True},
        imagenet="trunk",
        head="taught",
        score_ranges=metric_info("nr-lite").score_ranges,
        preprocess=PREPROCESS,
        license="Apache-2.0",
        training=training or {},
        results=results or {},
        reference_sets=reference_sets,
    )
    tensors = {f"backbone.lite.{name}": value for name, value in taught.backbone.lite.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in taught.head.state_dict().items()}
    write_checkpoint(folder / VARIANT, config, tensors, card)
    return hashlib.sha256((folder / VARIANT / "model.safetensors").read_bytes()).hexdigest()

"""What the embedded metrics are fitted to: images made from photographs, their features and labels.

Features of every photograph are kept on disk as they are made, so that a broken run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aigciqa.backbones.lite import LiteBackbone, pool_statistics
from aigciqa.training.lite import fitting
from aigciqa.training.lite.photos import Photo, PhotoViews, Sample, full_reference_scores, mixed_labels, training_plan
from aigciqa.utils.files import write_file

VERSION = 2
#: Parts of the subjects; every member of an ensemble is fitted to all but one of them.
FOLDS = 4
Made = TypeVar("Made")


@dataclass(frozen=True)
class Settings:
    """What the recipe is run with.

    Attributes:
        views, ladders, chains: of each photograph to train on; see `training_plan`.
        steps: of fitting the perceptrons.
        seed: of the fits; the images are the same for every seed.
    """

    views: int = 2
    ladders: int = 2
    chains: int = 10
    steps: int = 1500
    seed: int = 0


@dataclass(frozen=True)
class PhotoFeatures:
    """What is kept of a photograph's images.

    Attributes:
        plan: the photograph's n samples.
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
    """Features of all views of all photographs to train on, in groups of one view (G) of n images.

    Attributes:
        maps: (G, n, C, 16).
        thumbnails: (G, n, T).
        labels: what to learn of each image.
        subjects, photos: names, of each group.
    """

    maps: Tensor
    thumbnails: Tensor
    labels: fitting.Labels
    subjects: Sequence[str]
    photos: Sequence[str]

    def folds(self, seed: int) -> Tensor:
        """Numbers (G,) of the folds; a subject's groups are in one of them."""
        return fitting.subject_folds(self.subjects, FOLDS, seed)


def training_data(photos: Sequence[Photo], settings: Settings, cache: Path, workers: int, label: str) -> TrainingData:
    """Draw the images to train on (or to check with) and label them.

    Args:
        cache: folder to keep features in; what it holds already is not drawn again.
        workers: processes that draw.
        label: of the progress bar.
    """
    numbers = {"views": settings.views, "ladders": settings.ladders, "chains": settings.chains}
    tasks = [(photo, training_plan(photo, 0, **numbers), cache, True) for photo in photos]
    return _assembled(in_processes(photo_features, tasks, label, workers))


def in_processes(
    function: Callable[..., Made], tasks: Sequence[tuple[Any, ...]], label: str, workers: int, unit: str = "photo"
) -> list[Made]:
    """What a function makes of each task's arguments, made by several processes of one thread each."""
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        made = pool.map(function, *zip(*tasks, strict=True))
        return list(tqdm(made, total=len(tasks), desc=label, unit=unit))


def kept(cache: Path, key: Sequence[Any], make: Callable[[], Any]) -> Any:
    """What was made under a key before, or is made now: tensors in tuples, lists and dictionaries."""
    text = json.dumps([VERSION, *key])
    file = cache / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.pt"
    stored = file.read_bytes() if file.exists() else b""
    content = stored[4:]
    if stored[:4] != _checksum(content):  # absent, or damaged
        buffer = io.BytesIO()
        torch.save(make(), buffer)
        content = buffer.getvalue()
        write_file(file, _checksum(content) + content)
    return torch.load(io.BytesIO(content), weights_only=True)


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(4, "little")


def photo_features(photo: Photo, plan: Sequence[Sample], cache: Path, scored: bool) -> PhotoFeatures:
    """Draw the samples of a photograph and keep their features, or take them from the cache.

    Full-reference scores cost most of the time; they stay zero unless `scored`.
    """
    key = [scored, photo.name, photo.digest(), [asdict(sample) for sample in plan]]
    return PhotoFeatures(photo, plan, *kept(cache, key, lambda: _draw_features(photo, plan, scored)))


def _draw_features(photo: Photo, plan: Sequence[Sample], scored: bool) -> tuple[Tensor, Tensor, Tensor]:
    views, backbone = PhotoViews(photo, 0), LiteBackbone()
    pristine: dict[int, Tensor] = {}
    maps, scores = [], []
    for sample in plan:
        image = views.draw(sample)
        if not sample.steps:
            pristine[sample.view] = image
        with torch.no_grad():
            maps.append(backbone(image[None]))
        measured = full_reference_scores(image, pristine[sample.view]) if scored and sample.steps else np.zeros(4)
        scores.append(torch.from_numpy(measured).float())
    whole = torch.cat(maps)
    count = backbone.statistics
    return whole[:, :count].flatten(2).clone(), whole[:, count:, 0, 0].clone(), torch.stack(scores)


def _assembled(features: Sequence[PhotoFeatures]) -> TrainingData:
    """Group the samples by view and give them labels."""
    groups = [
        (item, [i for i, sample in enumerate(item.plan) if sample.view == view])
        for item in features
        for view in sorted({sample.view for sample in item.plan})
    ]
    scores = torch.stack([item.scores[rows] for item, rows in groups])
    samples = [[item.plan[i] for i in rows] for item, rows in groups]
    severity = torch.tensor([[sample.severity for sample in row] for row in samples])
    quality = mixed_labels(scores.flatten(0, 1).numpy(), severity.flatten().numpy())
    labels = fitting.make_labels(
        torch.from_numpy(quality).view_as(severity),
        torch.tensor([[sample.ladder for sample in row] for row in samples]),
        torch.tensor([[sample.steps[0].strength if sample.steps else 0.0 for sample in row] for row in samples]),
    )
    return TrainingData(
        maps=torch.stack([item.maps[rows] for item, rows in groups]),
        thumbnails=torch.stack([item.thumbnails[rows] for item, rows in groups]),
        labels=labels,
        subjects=[item.photo.subject for item, _ in groups],
        photos=[item.photo.name for item, _ in groups],
    )


def metadata(data: TrainingData, photographs: int, held_out: int) -> dict[str, object]:
    """What the weights were made from, for `config.json` and the card."""
    return {
        "recipe": "examples/train_lite.py",
        "recipe_version": VERSION,
        "photographs": photographs,
        "held_out": held_out,
        "images": data.labels.targets.numel(),
        "seed": 0,
        "torch": torch.__version__,
    }


def pool_blocks(maps: Tensor) -> Tensor:
    """(..., C, blocks) -> unnormalised features (..., 3 C)."""
    flat = maps.reshape(-1, *maps.shape[-2:])
    return pool_statistics(flat[:, :, None]).reshape(*maps.shape[:-2], -1)

"""What the embedded metrics learn from: photographs, degraded images of them, and labels nobody had to give.

A *view* is a square crop of a photograph reduced to a working size. A *sample* is a view with a chain of degradations,
done at the view's own scale or at another (a smaller image shown larger, a larger one shown smaller). Its label mixes
what full-reference metrics say of it (VIF, GMSD, MDSI, HaarPSI of `piq`, each turned into ranks) with how strongly it
was degraded.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from aigciqa.errors import InputError
from aigciqa.training.lite.degradations import Step, degrade_chain, names
from aigciqa.training.lite.image_filters import from_pil

SIDE = 384
SHORT_SIDE = 512
LONGEST_SHORT_SIDE = 1100
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
PHOTOS_OF_ONE_SUBJECT = 8
#: Full-reference metrics of `piq`, and the sign by which higher is better.
METRICS = {"vif_p": 1, "gmsd": -1, "mdsi": -1, "haarpsi": 1}
STRENGTHS = (1.0, 2.0, 3.0, 4.0, 5.0)


@dataclass(frozen=True)
class Photo:
    """A photograph on disk.

    Attributes:
        name: its path below the folder of photographs, with forward slashes.
        subject: what it shows; photographs of one subject share it.
    """

    path: Path
    name: str
    subject: str

    def digest(self) -> str:
        """The sha256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def image(self) -> Image.Image:
        """RGB, upright."""
        with Image.open(self.path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")


@dataclass(frozen=True)
class Sample:
    """An image to be made.

    Attributes:
        view: which view of the photograph.
        zoom: linear size at which the chain is applied, as a multiple of the view's.
        steps: the chain; none of them is a pristine image.
        ladder: number of the ladder it is a rung of, or -1.
    """

    view: int
    zoom: float = 1.0
    steps: tuple[Step, ...] = ()
    ladder: int = -1

    @property
    def severity(self) -> float:
        """How strongly it is degraded, from 0 (pristine) to nearly 1."""
        kept = 1.0
        for step in self.steps:
            kept *= 1 - 0.19 * step.strength / max(1.0, self.zoom)
        if self.zoom < 0.8:
            kept *= 1 - 0.19 * (1 + 4 * math.log(0.8 / self.zoom) / math.log(8 / 1.25))
        return 1 - kept


def find_photos(folder: Path) -> list[Photo]:
    """The photographs below a folder, sorted by name.

    A folder of up to eight photographs shows one subject; in a larger one each photograph is a subject of its own.
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = sorted(path for path in found if not path.name.startswith("._"))  # what macOS leaves beside files
    if not paths:
        raise InputError(f"{folder}: no photographs there, or no such folder")
    siblings = Counter(path.parent for path in paths)
    photos = []
    for path in paths:
        subject = path if siblings[path.parent] > PHOTOS_OF_ONE_SUBJECT else path.parent
        photos.append(Photo(path, path.relative_to(folder).as_posix(), subject.relative_to(folder).as_posix()))
    return photos


def split_photos(photos: Sequence[Photo]) -> tuple[list[Photo], list[Photo]]:
    """Photographs to train on and to hold out: every fifth subject, in the order of their names, is held out."""
    subjects = sorted({photo.subject for photo in photos})
    held_out = set(subjects[4::5])
    return [p for p in photos if p.subject not in held_out], [p for p in photos if p.subject in held_out]


def seed_of(*parts: object) -> int:
    """A seed that depends on its parts alone."""
    return zlib.crc32("/".join(map(str, parts)).encode())


def training_plan(photo: Photo, seed: int, *, views: int, ladders: int, chains: int) -> list[Sample]:
    """The samples to train on: per view a pristine one, ladders of four strengths, and random chains."""
    rng = np.random.default_rng(seed_of("plan", photo.name, seed))
    samples = []
    for view in range(views):
        samples.append(Sample(view))
        for ladder, name in enumerate(rng.choice(names(), ladders, replace=False)):
            step_seed = int(rng.integers(2**31))
            for strength in sorted(rng.choice(STRENGTHS, 4, replace=False)):
                step = Step(str(name), float(strength), step_seed)
                samples.append(Sample(view, 1.0, (step,), view * ladders + ladder))
        samples += [_random_chain(view, rng) for _ in range(chains)]
    return samples


def ladder_plan(photo: Photo, seed: int) -> list[Sample]:
    """A pristine sample and every degradation at its five strengths, of one view."""
    rng = np.random.default_rng(seed_of("ladders", photo.name, seed))
    samples = [Sample(0)]
    for ladder, name in enumerate(names()):
        step_seed = int(rng.integers(2**31))
        samples += [Sample(0, 1.0, (Step(name, strength, step_seed),), ladder) for strength in STRENGTHS]
    return samples


def _random_chain(view: int, rng: np.random.Generator) -> Sample:
    length = int(rng.choice((1, 2, 3), p=(0.45, 0.35, 0.2)))
    strongest = 5.0 if length == 1 else 4.0
    steps = tuple(
        Step(str(rng.choice(names())), float(rng.uniform(1, strongest)), int(rng.integers(2**31)))
        for _ in range(length)
    )
    draw, zoom = rng.random(), 1.0
    if draw < 0.35:
        zoom = float(np.exp(rng.uniform(math.log(0.25), math.log(0.9))))
    elif draw < 0.55:
        zoom = float(np.exp(rng.uniform(math.log(1.15), math.log(2.0))))
    return Sample(view, zoom, steps[:1] if zoom < 0.5 else steps)


class PhotoViews:
    """The views of one photograph, drawn from its own seed."""

    def __init__(self, photo: Photo, seed: int) -> None:
        self._image = photo.image()
        self._key = ("view", photo.name, seed)

    def render(self, view: int, zoom: float = 1.0) -> Tensor:
        """A view (3, SIDE * zoom, SIDE * zoom) in [0, 1]: the first at the common short side, others larger."""
        rng = np.random.default_rng(seed_of(*self._key, view))
        shortest = min(self._image.size)
        largest = max(SHORT_SIDE, min(LONGEST_SHORT_SIDE, shortest / 1.2))
        short_side = SHORT_SIDE if view == 0 else rng.uniform(SHORT_SIDE, largest)
        scale = short_side / shortest
        side = SIDE / scale
        left, top = (rng.uniform(0, length - side) for length in self._image.size)
        pixels = round(SIDE * zoom)
        crop = self._image.resize((pixels, pixels), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
        return from_pil(crop)

    def draw(self, sample: Sample) -> Tensor:
        """The image (3, SIDE, SIDE) of a sample, on the 8-bit grid."""
        image = degrade_chain(self.render(sample.view, sample.zoom), sample.steps)
        if sample.zoom == 1:
            return image
        resized = torch.nn.functional.interpolate(
            image[None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
        )[0]
        return resized.clamp(0, 1).mul(255).round().div(255)


def full_reference_scores(image: Tensor, pristine: Tensor) -> NDArray[np.float32]:
    """What `METRICS` say of an image, higher is better; both (3, H, W) in [0, 1]."""
    import piq

    with torch.no_grad():
        values = [sign * float(getattr(piq, name)(image[None], pristine[None])) for name, sign in METRICS.items()]
    return np.array(values, dtype=np.float32)


def mixed_labels(scores: NDArray[np.float32], severity: NDArray[np.float32]) -> NDArray[np.float32]:
    """Labels in [0, 1] from full-reference scores (N, 4) and severities (N,): half ranks, half strength.

    A severity of 0 marks a pristine image, whose label is 1.
    """
    degraded = severity > 0
    order = scores[degraded].argsort(axis=0).argsort(axis=0)
    ranks = ((order + 0.5) / max(1, len(order))).astype(np.float32)
    labels = np.ones(len(severity), dtype=np.float32)
    labels[degraded] = 0.5 * ranks.mean(axis=1) + 0.5 * (1 - severity[degraded])
    return labels

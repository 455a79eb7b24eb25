"""What quality maps point at: flat areas, and faults put into a part of the images, beside maps of local contrast.

    python benchmarks/flat_areas.py FOLDER [--metric nr-lite] [--images 60]

FOLDER holds images that are good throughout, such as photographs; the first by name are taken, at most 512 pixels high
and wide. They are their own references.

flat areas: the share of a map's lowest tenth that lies where luma deviates by less than 2 levels of 255 within 17 x 17
pixels, of images with at least 5% of such places. A map that does not mind flatness has the images' own share.

faults: a square of a third of the short side, at a random place, is blurred (Gaussian, 3 pixels), compressed (JPEG of
quality 10) or gets noise (15 levels). AUC: how often a place inside is lower in the map than one outside. Pointing: how
often the lowest place lies inside; the square's share of the images is what chance gives. Maps of local contrast (the
deviation within 33 x 33 pixels) are compared both ways: pointing at the lowest contrast, and at the highest.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import uniform_filter
from scipy.stats import rankdata

import aigciqa
from aigciqa.errors import ImageError
from aigciqa.images.decode import load_image
from aigciqa.metric import Metric

SIDE, STEP = 512, 4
FLAT_LEVELS, FLAT_WINDOW, LEAST_FLAT = 2, 17, 0.05
CONTRAST_WINDOW = 33
BLUR, JPEG_QUALITY, NOISE = 3, 10, 15

Plane = NDArray[np.float32]


def main() -> None:
    """Print a line for flat areas, and one for each fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--metric", default="nr-lite")
    parser.add_argument("--images", type=int, default=60)
    options = parser.parse_args()
    metric = aigciqa.create_metric(options.metric)
    images = load(options.folder, options.images)
    print(f"{metric.name}, {len(images)} images of {options.folder.name}")
    print_flat_areas(metric, images)
    for name, fault in FAULTS.items():
        print_fault(metric, images, name, fault)


def load(folder: Path, most: int) -> list[Image.Image]:
    """The first images of a folder and of those below it."""
    images: list[Image.Image] = []
    for path in sorted(folder.rglob("*.*")):
        try:
            image = load_image(path)
        except ImageError:  # a text beside them
            continue
        image.thumbnail((SIDE, SIDE))
        images.append(image)
        if len(images) == most:
            break
    return images


def print_flat_areas(metric: Metric, images: list[Image.Image]) -> None:
    """How much of the maps' lowest tenth is flat."""
    shares = []
    for image in images:
        flat = (contrast(image, FLAT_WINDOW) < FLAT_LEVELS)[::STEP, ::STEP].ravel()
        if flat.mean() >= LEAST_FLAT:
            quality = map_of(metric, image, image).ravel()
            lowest = np.argsort(quality, kind="stable")[: len(quality) // 10]
            shares.append((flat[lowest].mean(), flat.mean()))
    lowest_share, whole = np.mean(shares, axis=0)
    above = sum(low > 1.5 * all_ for low, all_ in shares)
    print(
        f"flat areas: {lowest_share:.0%} of the lowest tenth, {whole:.0%} of the images; {above} of {len(shares)} maps "
        "have there over 1.5 times the image's share",
        flush=True,
    )


def print_fault(
    metric: Metric, images: list[Image.Image], name: str, fault: Callable[[Image.Image], Image.Image]
) -> None:
    """How well the maps find a fault."""
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[float, bool]]] = {}
    area = []
    for image in images:
        side = min(image.size) // 3
        left, top = (int(rng.integers(0, length - side)) for length in image.size)
        faulty = image.copy()
        box = (left, top, left + side, top + side)
        faulty.paste(fault(image.crop(box)), box)
        inside = np.zeros((image.height, image.width), bool)
        inside[top : top + side, left : left + side] = True
        inside = inside[::STEP, ::STEP]
        low = contrast(faulty, CONTRAST_WINDOW)[::STEP, ::STEP]
        maps = {"map": map_of(metric, faulty, image), "lowest contrast": low, "highest contrast": -low}
        for kind, values in maps.items():
            lowest = np.unravel_index(values.argmin(), values.shape)
            found.setdefault(kind, []).append((auc(values, inside), bool(inside[lowest])))
        area.append(inside.mean())
    texts = [
        f"{kind}: AUC {ranked:.2f}, pointing {hits:.0%}"
        for kind, (ranked, hits) in ((kind, np.mean(each, axis=0)) for kind, each in found.items())
    ]
    print(f"{name}: {'; '.join(texts)} (chance {np.mean(area):.0%})", flush=True)


def map_of(metric: Metric, image: Image.Image, reference: Image.Image) -> Plane:
    """The quality map at every STEPth pixel; beyond what the metric sees, the score."""
    references = (reference,) if metric.requires_reference else ()
    quality = metric.quality_map(image, *references)[0].numpy()
    left, top, right, bottom = map(round, metric.preprocessor.visible_box(image.height, image.width))
    whole = np.full((image.height, image.width), quality.mean(), np.float32)
    resized = Image.fromarray(quality).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    whole[top:bottom, left:right] = np.asarray(resized)
    return whole[::STEP, ::STEP]


def contrast(image: Image.Image, window: int) -> Plane:
    """Standard deviation of luma around each pixel, in levels."""
    luma = np.asarray(image.convert("L"), np.float64)
    mean = uniform_filter(luma, window)
    deviation: Plane = np.sqrt((uniform_filter(luma * luma, window) - mean * mean).clip(min=0)).astype(np.float32)
    return deviation


def auc(values: Plane, inside: NDArray[Any]) -> float:
    """How often a value inside is lower than one outside; a tie counts half."""
    ranks = rankdata(-values)[inside.ravel()]
    count = len(ranks)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (inside.size - count)))


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(BLUR))


def compressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY)
    return Image.open(stream).convert("RGB")


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(0).normal(0, NOISE, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


FAULTS = {"blur": blurred, "JPEG": compressed, "noise": noisy}

if __name__ == "__main__":
    main()

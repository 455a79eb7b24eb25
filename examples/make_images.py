"""Draw the images of `examples/images`: three photographs and what goes wrong with them.

The photographs are scikit-image's samples `astronaut` (Eileen Collins, NASA, public domain), `chelsea` (Stéfan van der
Walt, CC0) and `coffee` (Pikolo Espresso Bar, Rachel Michetti, CC0). Needs scikit-image:

    pip install scikit-image && python examples/make_images.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

try:
    from skimage import data
except ImportError:
    raise SystemExit("the photographs need scikit-image: pip install scikit-image") from None

FOLDER = Path(__file__).parent / "images"
SHORT_SIDE = 384
SEED = 0


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(3))


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(SEED).normal(0, 25, (image.height, image.width, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def smoothed(image: Image.Image) -> Image.Image:
    """The texture-free look of a diffusion model's weak sample."""
    for _ in range(4):
        image = image.filter(ImageFilter.MedianFilter(7))
    return image.filter(ImageFilter.UnsharpMask(2, 80, 0))


def upsampled(image: Image.Image) -> Image.Image:
    """A 64-pixel image shown large."""
    scale = 64 / min(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return small.resize(image.size, Image.Resampling.BICUBIC)


VARIANTS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {  # folder: what is done, JPEG quality
    "faithful": (lambda image: image, 92),
    "jpeg10": (lambda image: image, 10),
    "noisy": (noisy, 92),
    "smoothed": (smoothed, 92),
    "blurred": (blurred, 92),
    "upsampled": (upsampled, 92),
}


def main() -> None:
    for name in ("astronaut", "chelsea", "coffee"):
        image = Image.fromarray(getattr(data, name)())
        scale = SHORT_SIDE / min(image.size)
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
        save(image, f"prompts/{name}.jpg", 95)
        for folder, (change, quality) in VARIANTS.items():
            save(change(image), f"generated/{folder}/{name}.jpg", quality)


def save(image: Image.Image, name: str, quality: int) -> None:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=quality)


if __name__ == "__main__":
    main()

"""Which files are images, by their names."""

from __future__ import annotations

import os

from aigciqa.images import plugins
from aigciqa.utils import object_stores

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp gif bmp tif tiff avif jp2 ppm pgm pbm pnm".split()  # noqa: SIM905
).union(filter(plugins.is_installed, plugins.PLUGINS))
#: Images all the same, which a walk skips: counted, so that nobody takes them for scored.
SKIPPED_SUFFIXES = (
    frozenset(
        f".{name}"
        for name in """
        apng arw avifs cr2 cr3 dib dng exr hdr heic heics heif hif j2c j2k jpc jpf jpx jxl jxr mpo nef orf pcx pfm psb
        psd qoi raf rw2 svg svgz tga
        """.split()  # noqa: SIM905
    )
    - IMAGE_SUFFIXES
)


def is_image_name(text: str) -> bool:
    """Whether it can be an image's: by its suffix, as a URL, or because there is such a file."""
    suffix = os.path.splitext(text)[1].lower()
    return suffix in IMAGE_SUFFIXES | SKIPPED_SUFFIXES or object_stores.may_be_file(text)

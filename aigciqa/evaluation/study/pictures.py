"""A study's images as a browser can show them, and as the library's metrics see them."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict

from PIL import ExifTags, Image

from aigciqa.images.decode import load_content
from aigciqa.images.reading import read_content

#: Bytes of converted images that are kept.
_KEPT_BYTES = 256_000_000
_MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_PLAIN_MODES = ("RGB", "L", "1", "P")
#: What a browser may treat in another way than the library.
_COLOUR_KEYS = ("icc_profile", "gamma", "chromaticity", "transparency")


class Pictures:
    """Reads images from disk; those that a browser would show otherwise than `load_image` become PNG in sRGB."""

    def __init__(self) -> None:
        self._converted: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def content(self, path: str) -> tuple[bytes, str]:
        """The bytes of an image, and their media type.

        Raises:
            ImageError: the image can't be read.
        """
        with self._lock:
            kept = self._converted.get(path)
            if kept is not None:
                self._converted.move_to_end(path)
                return kept, "image/png"
        data = read_content(path)
        media_type = _plain_type(data)
        # It is decoded in any case: a browser shows what there is of a file that is cut off. As it is served as it is,
        # an eighth of the size tells as much.
        image = load_content(data, path, at_least=None if media_type is None else 1)
        if media_type is not None:
            return data, media_type
        stream = io.BytesIO()
        image.save(stream, "PNG", compress_level=1)
        self._keep(path, stream.getvalue())
        return stream.getvalue(), "image/png"

    def _keep(self, path: str, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._converted.pop(path, b""))
            self._converted[path] = data
            while self._size > _KEPT_BYTES:
                self._size -= len(self._converted.popitem(last=False)[1])


def _plain_type(data: bytes) -> str | None:
    """The media type of an image that is served as it is; None for one to be converted."""
    try:
        with Image.open(io.BytesIO(data), formats=list(_MEDIA_TYPES)) as image:
            plain = image.mode in _PLAIN_MODES and getattr(image, "n_frames", 1) == 1
            plain = plain and image.getexif().get(ExifTags.Base.Orientation, 1) == 1  # few browsers turn WebP
            if plain and not any(key in image.info for key in _COLOUR_KEYS):
                return _MEDIA_TYPES[str(image.format)]
    except Exception:  # of a broken image `load_content` says what is wrong
        return None
    return None

"""The errors that libtiff prints, where Pillow takes what it has decoded for the image."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from aigciqa.errors import InputError
from aigciqa.utils.standard_error import FILENO, c_messages

#: Compressions of a TIFF for which libtiff carries on after an error, or Pillow passes over it.
PRINTED = frozenset({"tiff_ccitt", "group3", "group4", "tiff_jpeg", "jpeg", "lzma"})
#: Pillow has libtiff convert these colours, whatever the compression, and passes over every error.
_YCBCR = 6
#: What Pillow calls every file.
_FILE = b"tempfile.tif: "
#: An error: the function of a decoder, or the file, and what went wrong.
_ERROR = re.compile(rb"(?:(?:Fax[34]|O?JPEG|LZMA|LZW|ZIP|ZSTD|PackBits|WebP)[A-Z]\w*: |tempfile\.tif: )[^\r\n]*[\r\n]*")
#: A decoding that hangs is not waited for any longer.
PATIENCE_SECONDS = 30.0


class _Turns:
    """Lets a thread decode alone, once the decodings that were under way have ended; the others go side by side."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting = 0
        self.running = 0

    def start_afresh(self) -> None:
        """In a child of fork, forget the threads of its parent, which held them off."""
        self.waiting = self.running = 0
        self.changed.release()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with self.changed:  # kept all the time: nobody starts meanwhile
            self.waiting += 1
            try:
                self.changed.wait_for(lambda: not self.running, PATIENCE_SECONDS)
                yield
            finally:
                self.waiting -= 1
                self.changed.notify_all()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: not self.waiting)  # else it would never be alone
            self.running += 1
        try:
            yield
        finally:
            with self.changed:
                self.running -= 1
                self.changed.notify_all()


_turns = _Turns()
if hasattr(os, "register_at_fork"):  # a child must have the standard error itself, and wait for no thread of its parent
    os.register_at_fork(
        before=_turns.changed.acquire, after_in_parent=_turns.changed.release, after_in_child=_turns.start_afresh
    )


def load(image: Image.Image) -> None:
    """Decode an image's pixels; data that is damaged by what libtiff prints is an InputError.

    A TIFF whose errors are only printed is decoded while no other TIFF is, so that they are its own. What other C
    libraries print to the standard error meanwhile comes after.
    """
    if not (isinstance(image, TiffImageFile) and image.tile):
        image.load()
    elif image.info.get("compression") in PRINTED or _is_converted(image):
        with _turns.alone():
            _load_with_errors(image)
    else:
        with _turns.together():
            image.load()


def _is_converted(image: TiffImageFile) -> bool:
    is_ycbcr = image.tag_v2.get(ExifTags.Base.PhotometricInterpretation) == _YCBCR
    return is_ycbcr and image.tile[0][0] == "libtiff"


def _load_with_errors(image: Image.Image) -> None:
    # libtiff's handler of errors can't be set from Python: they are read from where it prints them
    failure: Exception | None = None
    with c_messages() as printed:
        try:
            image.load()
        except Exception as raised:
            failure = raised
    text = printed.getvalue()
    if others := _ERROR.sub(b"", text):  # what other libraries have printed meanwhile
        with contextlib.suppress(OSError), open(FILENO, "wb", closefd=False) as stderr:
            stderr.write(others)
    if found := _ERROR.search(text):
        error = found[0].removeprefix(_FILE).decode(errors="replace").strip()
        raise InputError(f"broken TIFF: {error}") from failure
    if failure is not None:
        raise failure

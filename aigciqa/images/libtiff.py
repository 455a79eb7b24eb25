"""The errors that libtiff prints, where Pillow takes what it has decoded for the image."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

from PIL import Image

from aigciqa.errors import InputError

#: Compressions of a TIFF for which libtiff carries on after an error, or Pillow passes over it.
PRINTED = frozenset({"tiff_ccitt", "group3", "group4", "tiff_jpeg", "jpeg", "lzma"})
#: An error of one of their decoders. No other thread decodes them meanwhile.
_ERROR = re.compile(rb"(?:Fax[34]|O?JPEG|LZMA)[A-Z]\w*: [^\r\n]*[\r\n]*")
_STDERR = 2

_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child must have the standard error itself, and the lock free
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def load(image: Image.Image) -> None:
    """Decode an image's pixels.

    Images of these compressions are decoded one at a time, and what else is printed to the standard error meanwhile
    comes after. A program that another thread starts meanwhile, though, prints where nobody reads it.

    Raises:
        ValueError: its data is damaged, by what libtiff prints.
        Exception: whatever Pillow raises.
    """
    if image.format != "TIFF" or image.info.get("compression") not in PRINTED or not getattr(image, "tile", None):
        image.load()
        return
    # libtiff's handler of errors can't be set from Python: they are read from where it prints them
    with _lock, tempfile.TemporaryFile() as printed:
        failure: Exception | None = None
        with _standard_error_to(printed):
            try:
                image.load()
            except Exception as error:
                failure = error
        printed.seek(0)
        text = printed.read()
    if others := _ERROR.sub(b"", text):  # what other threads have printed meanwhile
        with contextlib.suppress(OSError), open(_STDERR, "wb", closefd=False) as stderr:
            stderr.write(others)
    if found := _ERROR.search(text):
        raise InputError(f"broken TIFF: {found[0].decode(errors='replace').strip()}") from failure
    if failure is not None:
        raise failure


@contextlib.contextmanager
def _standard_error_to(file: IO[bytes]) -> Iterator[None]:
    """Send what C libraries, and all else in this process, print to the standard error to a file."""
    try:
        kept = os.dup(_STDERR)
    except OSError:  # it is closed
        kept = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(file.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)

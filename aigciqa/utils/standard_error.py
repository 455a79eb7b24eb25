"""The standard error of this process, which C libraries print to as well."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

FILENO = 2
#: Whether C's `stderr` is a variable that can be set: in macOS' library and in glibc.
_CAN_SET = sys.platform == "darwin" or "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ())


@contextlib.contextmanager
def standard_error_to(file: IO[bytes]) -> Iterator[None]:
    """Send all that this process prints to the standard error to a file, whichever thread or library prints it."""
    try:
        kept = os.dup(FILENO)
    except OSError:  # it is closed
        kept = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(file.fileno(), FILENO)
        yield
    finally:
        os.dup2(kept, FILENO)
        os.close(kept)


@contextlib.contextmanager
def c_messages() -> Iterator[io.BytesIO]:
    """Catch what C libraries print to their `stderr`; it is there when the block has ended.

    What Python and other programs print goes where it always does, except where C's `stderr` can't be set: there it is
    caught too.
    """
    caught = io.BytesIO()
    if not _CAN_SET:
        with tempfile.TemporaryFile() as file:
            try:
                with standard_error_to(file):
                    yield caught
            finally:
                file.seek(0)
                caught.write(file.read())
    else:
        libc, stderr, memory, text, size = _memory_stream()
        libc.rewind(memory)
        kept, stderr.value = stderr.value, memory.value
        try:
            yield caught
        finally:
            stderr.value = kept
            libc.fflush(memory)
            caught.write(ctypes.string_at(text, size.value))


@functools.cache  # never closed: another thread may be about to print to it
def _memory_stream() -> tuple[ctypes.CDLL, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]:
    """The C library, its variable `stderr`, and a stream to memory: the stream, its text and how long that is."""
    libc = ctypes.CDLL(None)
    stderr = ctypes.c_void_p.in_dll(libc, "__stderrp" if sys.platform == "darwin" else "stderr")
    libc.open_memstream.restype = ctypes.c_void_p
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    memory = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    return libc, stderr, memory, text, size

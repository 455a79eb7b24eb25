"""What the hardware is good at."""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import functools
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from aigciqa.errors import InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Where most people compute.
_DEVICES = ("cpu", "cuda", "mps")
_DEFAULT_DTYPE = threading.RLock()  # it is one for all threads
#: Options of glibc's `mallopt` (malloc.h). Never trim, never map a large block, one arena for all threads; or map every
#: block of 1 MiB and more, so that it goes back when it is freed.
_KEEP, _RETURN = {-1: -1, -4: 0, -8: 1}, {-3: 1 << 20}
#: Bytes of a tensor that is large enough for huge pages, whatever their size.
_HUGE = 64 << 20
#: Where Linux says, in brackets, for whom it has huge pages.
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
#: The process that has torch's threads, unless it is a fork of one.
_PROCESS = os.getpid()


def fast_dtype(device: str | torch.device | None) -> torch.dtype:
    """What networks run fastest in on a device (the CPU if None): bfloat16 where it is built for that, else float32."""
    kind = torch.device(device or "cpu").type
    if kind == "cuda":
        is_good = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        is_good = kind == "cpu" and any(getattr(torch.cpu, check, bool)() for check in checks)
    return torch.bfloat16 if is_good else torch.float32


def check_device(device: str, *, is_here: bool = True) -> None:
    """Raise InputError for a device that torch does not know or, unless other machines compute, that is not here."""
    kind, _, number = device.partition(":")
    try:
        torch.device(device)
    except RuntimeError:
        near = "cuda" if kind.lower() == "gpu" else next(iter(difflib.get_close_matches(kind.lower(), _DEVICES)), None)
        hint = f" Did you mean {near}?" if near and near != kind else ""
        raise InputError(f"`device={device!r}`: expected cpu, cuda, cuda:1 or mps.{hint}") from None
    if not is_here:
        return
    if kind == "cuda":
        count = torch.cuda.device_count()
        if not count:
            why = "torch finds no GPU here" if torch.version.cuda or torch.version.hip else "this torch has no CUDA"
            raise InputError(f"`device={device!r}`: {why}: take cpu")
        if int(number or 0) >= count:
            raise InputError(f"`device={device!r}`: the last GPU here is cuda:{count - 1}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError(f"`device={device!r}`: no mps here, which only Macs with Apple silicon have: take cpu")


def autocast_dtype(dtype: str | torch.dtype | None, device: str | torch.device | None = None) -> torch.dtype | None:
    """The dtype autocast is to use: `bfloat16`, `float16`, or None for `float32`; `auto` is a device's fastest.

    Raises:
        InputError: another dtype.
    """
    if dtype == "auto":
        dtype = fast_dtype(device)
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and chosen not in _DTYPES.values():
        raise InputError(f"dtype is one of {', '.join(_DTYPES)}, auto; got {dtype!r}")
    return None if chosen is torch.float32 else chosen


@contextlib.contextmanager
def undisturbed(device: str) -> Iterator[None]:
    """What modules are made and exported under, whatever the caller has set: ordinary float32 tensors on one device."""
    settle_threads()
    with _DEFAULT_DTYPE, torch.inference_mode(False), torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@functools.cache
def check_huge_pages() -> None:
    """Warn, once, if torch made its first tensor before it was asked for huge pages, which it does not do any more."""
    if sys.platform != "linux" or os.environ.get("THP_MEM_ALLOC_ENABLE", "0") == "0":
        return
    probe = torch.empty(_HUGE, dtype=torch.uint8, device="cpu")
    try:
        if "[madvise]" not in _HUGE_PAGES.read_text() or "hg" in _flags(probe.data_ptr() + _HUGE // 2):
            return
    except OSError:  # a kernel without them
        return
    warnings.warn(
        "torch made its first tensor before aigciqa was imported, so large tensors lie in small pages and networks run "
        "slower; import aigciqa first, or start Python with THP_MEM_ALLOC_ENABLE=1 (with 0, this is not said)",
        stacklevel=2,
    )


def _flags(address: int) -> set[str]:
    """How the kernel treats the memory at an address of this process: flags of proc(5)'s smaps."""
    is_there = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if block := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_there = int(block[1], 16) <= address < int(block[2], 16)
        elif is_there and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    return set()


def settle_threads() -> None:
    """Compute in one thread in a process that was forked: torch's others are in the parent, and would be waited for."""
    if not torch.compiler.is_compiling():
        _settle(os.getpid())


@functools.cache
def _settle(process: int) -> None:
    if process != _PROCESS:
        torch.set_num_threads(1)


def keep_memory(keep: bool) -> None:
    """Keep the memory of a tensor that is gone for the next ones, or give it back to the system at once.

    Kept, it saves the page faults of getting it again; given back, the peak stays low. Only glibc does either.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option, value in (_KEEP if keep else _RETURN).items():
            set_option(option, value)

"""What the hardware is good at."""

from __future__ import annotations

import ctypes
import sys

import torch

#: glibc's `mallopt` (malloc.h): no trimming, no mapping of large blocks, one arena for all threads.
_KEEP = {-1: -1, -4: 0, -8: 1}


def fast_dtype(device: str | torch.device | None) -> torch.dtype:
    """What networks run fastest in on a device: bfloat16 where it is built for that, else float32.

    Args:
        device: the CPU if absent.
    """
    kind = torch.device(device or "cpu").type
    if kind == "cuda":
        is_good = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_good = kind == "cpu" and any(
            getattr(torch.cpu, check, bool)() for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        )
    return torch.bfloat16 if is_good else torch.float32


def keep_memory() -> None:
    """Have this process keep the memory of its tensors for the next ones: a page given back costs a fault to get again.

    For one that does the same again and again. Where the C library is not glibc nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option, value in _KEEP.items():
            set_option(option, value)

"""What the hardware is good at."""

from __future__ import annotations

import ctypes
import sys

import torch

#: Options of glibc's `mallopt` (malloc.h). Never trim, never map a large block, one arena for all threads:
_KEEP = {-1: -1, -4: 0, -8: 1}
#: Map every block of 1 MiB and more, so that it goes back when it is freed.
_RETURN = {-3: 1 << 20}


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


def keep_memory(keep: bool) -> None:
    """What this process does with the memory of a tensor that is gone. Nothing changes where the C library isn't glibc.

    Args:
        keep: it stays for the next tensors, which saves the page faults of getting it again; or it goes back to the
            system at once, which keeps the peak low.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option, value in (_KEEP if keep else _RETURN).items():
            set_option(option, value)

"""What the hardware is good at."""

from __future__ import annotations

import torch


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

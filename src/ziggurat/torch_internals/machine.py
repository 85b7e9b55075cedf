"""What the processor has."""

from __future__ import annotations

import torch


def cpu_has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware. Why: nothing documented tells; it may be emulated, and slow."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())

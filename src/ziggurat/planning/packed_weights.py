"""Weights of convolutions as a prediction packs them, where operators are noted: PyTorch's own are called, and the bytes are oneDNN's.

Kept weights are rounded once and not with every batch, as those in oneDNN's order are (`torch_internals.prepacked`), and a tensor of
PyTorch's with as many bytes stands for each, so that whoever counts tensors counts them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.torch_internals.functions import without_dispatch_modes
from ziggurat.torch_internals.prepacked import Packing, pack, packed_bytes


def _pack(
    layer: nn.Conv2d, weight: Tensor, bias: Tensor | None, shape: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weight and bias, rounded; the weight in as much memory as it takes in oneDNN's order."""
    with without_dispatch_modes():  # of weights whose numbers nobody needs
        num_bytes = packed_bytes(pack(layer, torch.zeros(weight.shape), None, shape)[0])
    with torch.no_grad():
        rounded = weight.detach().to(torch.bfloat16)
        memory = torch.empty(-(-num_bytes // torch.bfloat16.itemsize), dtype=torch.bfloat16)
        place = memory.as_strided(rounded.shape, rounded.stride())
        place.copy_(rounded)
        short = None if bias is None else bias.detach().to(torch.bfloat16, copy=True)
    return place, short


def _convolve(layer: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.conv2d(  # autocast rounds what is not
        images, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )


NOTED = Packing(_pack, _convolve, watchers=1)

"""Weights of convolutions in the order and type in which oneDNN computes with them, kept from one batch to the next.

Under autocast every forward pass on a CPU rounds all weights to bfloat16, and every call of oneDNN brings them into blocks, which for the small
maps of a pyramid costs as much as the convolution. Both give the same numbers as long as weights, shape and number of threads are
the same. Kept, the operator that takes them (`mkldnn::_convolution_pointwise`, which is Inductor's) returns the bits of ``conv2d`` on the
processors that were tried; on any other that is seen: each layer computes with both once for each shape, and packs nothing where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.torch_internals.convolutions import is_small
from ziggurat.torch_internals.machine import cpu_has_bf16_units
from ziggurat.torch_internals.switches import Switch

MOST_BYTES = 256 << 20
TYPES = (torch.float32, torch.bfloat16)
Key = tuple[int, torch.Size, int]  # the layer, the shape of its input, threads


@dataclass(frozen=True)
class _Packed:
    """Packed weights, and what tells that the layer still has those that they were made of.

    Attributes:
        weight: Packed.
        bias: Rounded.
        sources: The layer's own weight and bias, and what shares their memory: so that no others can be taken for them.
        state: Of the sources: how often they were changed, and where they lie.
        is_new: Whether it is still to be seen that these return the bits of the layer.
    """

    weight: Tensor
    bias: Tensor | None
    sources: tuple[Tensor | None, ...]
    state: tuple[int, ...]
    is_new: bool = True

    def is_of(self, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether a layer's weight and bias are those that these were made of."""
        same = self.sources[0] is weight and self.sources[1] is bias
        return same and self.state == _state(weight, bias)


def convolve(layer: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a layer computes, with its weights packed for images of this shape, and rounded as its bias."""
    with torch.autocast("cpu", enabled=False):
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images.to(torch.bfloat16), weight, bias, *_geometry(layer), layer.groups, "none", [], ""
        )  # fmt: skip
    return out


def _geometry(layer: nn.Conv2d) -> tuple[Any, Any, Any]:
    return layer.padding, layer.stride, layer.dilation


class PackedConvolutions:
    """Lets the convolutions of a network compute with packed weights while a block runs, with the same bits.

    Weights are packed when a layer sees a shape for the second time in a block, so that a single batch costs nothing, and forgotten at its
    end: fused optimizers change weights, and nothing tells. Within a block they are made anew where autograd counts a change.

    Args:
        model: Whose plain 2-d convolutions without groups these are; others compute as before.
        most_bytes: Of packed weights; where there would be more, those before are forgotten.
        convolve: Computes with them.

    Attributes:
        num_bytes: Of all packed weights.
    """

    def __init__(
        self,
        model: nn.Module,
        most_bytes: int = MOST_BYTES,
        convolve: Callable[[nn.Conv2d, Tensor, Tensor, Tensor | None], Tensor] = convolve,
    ) -> None:
        self.most_bytes, self.convolve = most_bytes, convolve
        self.layers = [
            layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and _is_plain(layer)
        ]
        self.num_bytes = 0
        self._packed: dict[Key, _Packed | None] = {}  # None: seen once
        self._others: set[Key] = set()  # whose bits would be others
        self._lock = Lock()
        self._switch = Switch(self._on, self._off)

    def used(self) -> AbstractContextManager[None]:
        """Let a block use packed weights; blocks of several threads share them, and the last one's end is that of all."""
        return self._switch.held()

    def _on(self) -> None:
        for number, layer in enumerate(self.layers):
            layer._conv_forward = partial(self._forward, number)  # type: ignore[method-assign]  # the same call

    def _off(self) -> None:
        for layer in self.layers:
            del layer._conv_forward
        with self._lock:
            self._packed.clear()
            self.num_bytes = 0

    def _forward(self, number: int, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layers[number]
        key = number, images.shape, torch.get_num_threads()
        can_be = _can_be_packed(layer, images, weight) and _tells_changes(weight) and _tells_changes(bias)
        packed = self._of(key, images, weight, bias) if can_be else None
        if packed is None:
            out: Tensor = nn.Conv2d._conv_forward(layer, images, weight, bias)
            return out
        out = self.convolve(layer, images, packed.weight, packed.bias)
        if packed.is_new:
            plain: Tensor = nn.Conv2d._conv_forward(layer, images, weight, bias)
            self._decide(key, packed, torch.equal(out, plain))
            return plain
        return out

    def _decide(self, key: Key, packed: _Packed, is_same: bool) -> None:
        """Note whether packed weights return the bits of the layer."""
        with self._lock:
            if not is_same:
                self._others.add(key)
            elif self._packed.get(key) is packed:
                self._packed[key] = replace(packed, is_new=False)

    def _of(self, key: Key, images: Tensor, weight: Tensor, bias: Tensor | None) -> _Packed | None:
        number = key[0]
        with self._lock:
            if key in self._others:
                return None
            if key not in self._packed:
                self._packed[key] = None
                return None
            packed = self._packed[key]
            if packed is None or not packed.is_of(weight, bias):
                packed = self._packed[key] = self._pack(number, images.shape, weight, bias)
            return packed

    def _pack(self, number: int, shape: Sequence[int], weight: Tensor, bias: Tensor | None) -> _Packed:
        num_bytes = weight.numel() * torch.bfloat16.itemsize
        if self.num_bytes + num_bytes > self.most_bytes:
            self._packed.clear()
            self.num_bytes = 0
        layer = self.layers[number]
        reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        with torch.no_grad():
            rounded = weight.detach().to(torch.bfloat16, memory_format=torch.contiguous_format).to_mkldnn()
            weights = reorder(rounded, *_geometry(layer), layer.groups, list(shape))
            short = None if bias is None else bias.detach().to(torch.bfloat16, copy=True)
        self.num_bytes += num_bytes
        sources = weight, bias, weight.detach(), None if bias is None else bias.detach()
        return _Packed(weights, short, sources, _state(weight, bias))


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether a layer does what PyTorch's does, and no more."""
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return False
    kind = type(layer)
    is_own = kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward
    return is_own and "_conv_forward" not in vars(layer) and layer.groups == 1 and layer.in_channels > 1


def _can_be_packed(layer: nn.Conv2d, images: Tensor, weight: Tensor) -> bool:
    """Whether this call is one in bfloat16 that oneDNN computes in channels-last order."""
    return (
        type(images) is Tensor
        and type(weight) is nn.Parameter
        and not torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and images.device.type == weight.device.type == "cpu"
        and images.dtype in TYPES
        and weight.dtype in TYPES
        and images.dim() == 4
        and images.shape[2] * images.shape[3] > 1
        and images.numel() > 0
        and not torch._C._len_torch_dispatch_stack()  # who watches operators (records, counts) shall see PyTorch's
        and not torch._C._len_torch_function_stack()
        and images.is_contiguous(memory_format=torch.channels_last)
        and not is_small(images, weight, layer.stride, layer.dilation)
        and torch.backends.mkldnn.is_available()
        and cpu_has_bf16_units()
    )


def _tells_changes(tensor: Tensor | None) -> bool:
    """Whether changes of a tensor in place are counted: those made in inference mode count none."""
    try:
        return tensor is None or tensor._version >= 0
    except RuntimeError:
        return False


def _state(*tensors: Tensor | None) -> tuple[int, ...]:
    """Return what is another one as soon as one of some tensors is changed in place, or lies elsewhere."""
    return tuple(n for t in tensors if t is not None for n in (t._version, t.data_ptr()))

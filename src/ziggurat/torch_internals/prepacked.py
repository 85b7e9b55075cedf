"""Weights of convolutions in the order and type in which oneDNN computes with them, kept from one batch to the next.

Under autocast every forward pass on a CPU rounds all weights to bfloat16, and every call of oneDNN brings them into blocks, which for the small
maps of a pyramid costs as much as the convolution. Both give the same numbers as long as weights, shape and number of threads are
the same. Kept, the operator that takes them (`mkldnn::_convolution_pointwise`, which is Inductor's) returns the bits of ``conv2d`` on the
processors that were tried; on any other that is seen: each layer computes with both once for each shape, and packs nothing where they differ.

Packed weights are more bytes than the layer's, rounded: oneDNN fills up blocks. `packed_bytes` asks it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ziggurat.torch_internals.convolutions import goes_wrong
from ziggurat.torch_internals.machine import cpu_has_bf16_units
from ziggurat.torch_internals.switches import Switch

MOST_BYTES = 256 << 20
MOST_KEYS = 10_000  # that are known to have been seen: whoever sends images to a server chooses their shapes
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


class Packing(NamedTuple):
    """How weights are packed, and what computes with them.

    Attributes:
        pack: Returns a layer's weight and bias, packed for images of a shape.
        convolve: Returns what a layer computes with them, rounded as its bias.
        watchers: Dispatch modes that may look on; where there are others, nothing is packed.
    """

    pack: Callable[[nn.Conv2d, Tensor, Tensor | None, Sequence[int]], tuple[Tensor, Tensor | None]]
    convolve: Callable[[nn.Conv2d, Tensor, Tensor, Tensor | None], Tensor]
    watchers: int = 0


def pack(
    layer: nn.Conv2d, weight: Tensor, bias: Tensor | None, shape: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Return a layer's weight in bfloat16 in the order in which oneDNN takes it for images of a shape, and its bias, rounded."""
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    with torch.no_grad():
        rounded = weight.detach().to(torch.bfloat16, memory_format=torch.contiguous_format).to_mkldnn()
        weights: Tensor = reorder(rounded, *_geometry(layer), layer.groups, list(shape))
        short = None if bias is None else bias.detach().to(torch.bfloat16, copy=True)
    return weights, short


def convolve(layer: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a layer computes, with its weights packed for images of this shape, and rounded as its bias."""
    with torch.autocast("cpu", enabled=False):
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            images.to(torch.bfloat16), weight, bias, *_geometry(layer), layer.groups, "none", [], ""
        )  # fmt: skip
    return out


IN_BLOCKS = Packing(pack, convolve)


def packed_bytes(weight: Tensor) -> int:
    """Return the bytes of a packed weight."""
    if weight.layout == torch.strided:
        return weight.untyped_storage().nbytes()
    return int(torch.ops.mkldnn._nbytes(weight))


def _geometry(layer: nn.Conv2d) -> tuple[Any, Any, Any]:
    return layer.padding, layer.stride, layer.dilation


@dataclass
class _Seen:
    """What is known of a layer, a shape and a number of threads.

    Attributes:
        used: The last call of all, counted from 1, that was one of these.
        num_bytes: Of its weights, packed; before they were packed, about.
        packed: None before the second call, and where there is no room.
    """

    used: int
    num_bytes: int
    packed: _Packed | None = None


class PackedConvolutions:
    """Lets the convolutions of a network compute with packed weights while a block runs, with the same bits.

    Weights are packed when a layer sees a shape for the second time in a block, so that a single batch costs nothing, and forgotten at its
    end: fused optimizers change weights, and nothing tells. Within a block they are made anew where autograd counts a change.

    Where there is no room, those are forgotten that were not used since this layer has last seen this shape. If all were, these are not
    packed: a network, or a round of shapes, that is larger than the room would else pack for nothing, again and again.

    Args:
        model: Whose plain 2-d convolutions without groups these are; others compute as before.
        most_bytes: Of packed weights.
        packing: How they are packed, and what computes with them.

    Attributes:
        num_bytes: Of all packed weights, with their biases.
        num_packings: Weights that were packed so far.
    """

    def __init__(self, model: nn.Module, most_bytes: int = MOST_BYTES, packing: Packing = IN_BLOCKS) -> None:
        self.most_bytes, self.packing = most_bytes, packing
        self.layers = [
            layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and _is_plain(layer)
        ]
        self.num_bytes = self.num_packings = 0
        self._calls = 0
        self._seen: OrderedDict[Key, _Seen] = OrderedDict()  # what was used last is last
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
            self._seen.clear()
            self.num_bytes = 0

    def _forward(self, number: int, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        layer = self.layers[number]
        key = number, images.shape, torch.get_num_threads()
        can_be = (
            torch._C._len_torch_dispatch_stack()
            <= self.packing.watchers  # else: who counts shall see PyTorch's
            and _can_be_packed(layer, images, weight)
            and _tells_changes(weight)
            and _tells_changes(bias)
        )
        packed = self._of(key, images, weight, bias) if can_be else None
        if packed is None:
            out: Tensor = nn.Conv2d._conv_forward(layer, images, weight, bias)
            return out
        out = self.packing.convolve(layer, images, packed.weight, packed.bias)
        if packed.is_new:
            plain: Tensor = nn.Conv2d._conv_forward(layer, images, weight, bias)
            self._decide(key, packed, torch.equal(out, plain))
            return plain
        return out

    def _decide(self, key: Key, packed: _Packed, is_same: bool) -> None:
        """Note whether packed weights return the bits of the layer."""
        with self._lock:
            seen = self._seen.get(key)
            if seen is not None and seen.packed is packed:
                if is_same:
                    seen.packed = replace(packed, is_new=False)
                else:
                    self._forget(key)
            if not is_same:
                self._others.add(key)

    def _of(self, key: Key, images: Tensor, weight: Tensor, bias: Tensor | None) -> _Packed | None:
        with self._lock:
            if key in self._others:
                return None
            self._calls += 1
            seen = self._seen.get(key)
            if seen is None:
                self._seen[key] = _Seen(self._calls, weight.numel() * torch.bfloat16.itemsize)
                if len(self._seen) > MOST_KEYS:
                    self._forget(next(iter(self._seen)))
                return None
            before, seen.used = seen.used, self._calls
            self._seen.move_to_end(key)
            if seen.packed is None or not seen.packed.is_of(weight, bias):
                self._pack(key, seen, before, images.shape, weight, bias)
            return seen.packed

    def _pack(
        self, key: Key, seen: _Seen, before: int, shape: Sequence[int], weight: Tensor, bias: Tensor | None
    ) -> None:
        """Pack weights, if there is room beside what was used since a call."""
        self._drop(seen)
        while self.num_bytes + seen.num_bytes > self.most_bytes:
            oldest = next(iter(self._seen))
            if oldest == key or self._seen[oldest].used >= before:
                return
            self._forget(oldest)
        weights, short = self.packing.pack(self.layers[key[0]], weight, bias, shape)
        self.num_packings += 1
        seen.num_bytes = packed_bytes(weights) + (0 if short is None else short.nbytes)
        if self.num_bytes + seen.num_bytes > self.most_bytes:
            return  # with what fills up blocks; it is known from now on
        self.num_bytes += seen.num_bytes
        sources = weight, bias, weight.detach(), None if bias is None else bias.detach()
        seen.packed = _Packed(weights, short, sources, _state(weight, bias))

    def _drop(self, seen: _Seen) -> None:
        if seen.packed is not None:
            self.num_bytes -= seen.num_bytes
            seen.packed = None

    def _forget(self, key: Key) -> None:
        self._drop(self._seen.pop(key))


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
        and not torch._C._len_torch_function_stack()  # who records calls shall see PyTorch's
        and images.is_contiguous(memory_format=torch.channels_last)
        and not goes_wrong(images, weight, layer.stride, layer.padding, layer.dilation)
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

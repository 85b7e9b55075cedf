"""How a message of named tensors travels: a head of a fixed length, the rest of a long head, then the tensors' own memory.

head   8 bytes: length | names, shapes, types, memory formats, layout over other axes, note | zeros, up to 4096 bytes
rest   what of the head is longer than that
body   each tensor's memory, without gaps; nothing of an empty one, nor of None
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor, band_of
from ziggurat.parallel.spatial.layout import Dims
from ziggurat.parallel.spatial.strides import is_dense

HEAD_BYTES = 4096
LENGTH_BYTES = 8


@dataclass(frozen=True)
class Message:
    """What one worker sends another at a time.

    Attributes:
        tensors: By name; None stands for a gradient that is zero everywhere.
        note: Anything small that goes with them.
    """

    tensors: Mapping[Any, Tensor | None]
    note: Any = None


@dataclass(frozen=True)
class Placed:
    """How one tensor of a message lies in memory and over workers.

    Attributes:
        shape: Of the sender's own part.
        strides: How the receiver has it: as the sender, also of dims of one row and of expanded ones, but without gaps.
        dtype: Its type.
        requires_grad: Whether the receiver sends a gradient back.
        dims: Its layout over the workers that share images; None for a plain tensor.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    dims: Dims | None = None


class Parcel(NamedTuple):
    """A message, packed.

    Attributes:
        head: uint8, shape ``(HEAD_BYTES,)``.
        rest: uint8, one-dimensional, or nothing.
        body: The tensors' memory, one-dimensional, none of them empty.
    """

    head: Tensor
    rest: list[Tensor]
    body: list[Tensor]


def pack(message: Message, device: torch.device) -> Parcel:
    """Return what travels of a message: heads on a device, bodies in the tensors' own memory where that has no gaps."""
    placed: dict[Any, Placed | None] = {}
    body: list[Tensor] = []
    for name, tensor in message.tensors.items():
        placed[name] = None
        if tensor is not None:
            local = band_of(tensor)
            dense, strides = _dense(local.detach())
            dims = tensor.dims if isinstance(tensor, SpatialTensor) else None
            placed[name] = Placed(tuple(local.shape), strides, local.dtype, local.requires_grad, dims)
            if dense.numel():
                body.append(dense)
    content = pickle.dumps((placed, message.note))
    data = len(content).to_bytes(LENGTH_BYTES, "little") + content
    pieces = [data[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0")]
    if len(data) > HEAD_BYTES:
        pieces.append(data[HEAD_BYTES:])
    head, *rest = (torch.frombuffer(bytearray(piece), dtype=torch.uint8).to(device) for piece in pieces)
    return Parcel(head, rest, body)


class Arrival:
    """A message on its way to this worker: memory for each piece, as soon as its size is known.

    Args:
        device: Where it arrives.
        spatial: Of tensors that are spread over the workers that share images.

    Attributes:
        head: To be received first; then wanted in the CPU's memory.
    """

    def __init__(self, device: torch.device, spatial: SpatialMesh | None) -> None:
        self.device, self.spatial = device, spatial
        self.head = torch.empty(HEAD_BYTES, dtype=torch.uint8, device=device)
        self._rest: list[Tensor] = []
        self._data = b""
        self._placed: dict[Any, Placed | None] = {}
        self._memory: dict[Any, Tensor] = {}
        self._note: Any = None

    def rest(self) -> list[Tensor]:
        """Return the memory of the head's rest, to be received after the head has come: one tensor or none."""
        self._data = self.head.numpy().tobytes()
        missing = int.from_bytes(self._data[:LENGTH_BYTES], "little") - (HEAD_BYTES - LENGTH_BYTES)
        if missing > 0:
            self._rest = [torch.empty(missing, dtype=torch.uint8, device=self.device)]
        return self._rest

    def body(self) -> list[Tensor]:
        """Return the memory of the tensors, to be received after the rest has come; one-dimensional, none empty."""
        data = self._data + b"".join(rest.cpu().numpy().tobytes() for rest in self._rest)
        end = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
        self._placed, self._note = pickle.loads(data[LENGTH_BYTES:end])  # noqa: S301 - this run's own worker
        for name, place in self._placed.items():
            if place is not None:
                self._memory[name] = torch.empty(_length(place), dtype=place.dtype, device=self.device)
        return [memory for memory in self._memory.values() if memory.numel()]

    def message(self) -> Message:
        """Return the message, after the body has come."""
        return Message({name: self._tensor(name, place) for name, place in self._placed.items()}, self._note)

    def _tensor(self, name: Any, place: Placed | None) -> Tensor | None:
        if place is None:
            return None
        local = self._memory[name].as_strided(place.shape, place.strides)
        local.requires_grad_(place.requires_grad)
        if place.dims is None:
            return local
        assert self.spatial is not None
        return SpatialTensor(local, place.dims, self.spatial)


def _dense(tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """Return a tensor's memory without gaps as one dim, and the strides of the tensor in it.

    Whether a network's ``reshape`` or ``contiguous`` copies depends on strides, and so does what sees a change in place; and the order in
    which random numbers are drawn. What is expanded is sent once.

    Example:
        >>> flat, strides = _dense(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
        >>> flat.shape, strides
        (torch.Size([120]), (60, 1, 15, 3))
        >>> flat, strides = _dense(torch.zeros(2, 1, 4)[:, :, 1:].expand(2, 3, 3))
        >>> flat.shape, strides
        (torch.Size([6]), (3, 0, 1))
    """
    shape = [1 if stride == 0 else size for stride, size in zip(tensor.stride(), tensor.shape, strict=True)]
    once = tensor.as_strided(shape, tensor.stride()) if tensor.numel() else tensor
    if is_dense(once.shape, once.stride()):
        return once.as_strided((once.numel(),), (1,)), once.stride()
    order = sorted(range(once.dim()), key=lambda d: (once.stride(d), once.shape[d]), reverse=True)
    turned = once.permute(order).contiguous()
    strides = turned.permute([order.index(dim) for dim in range(len(order))]).stride()
    return turned.view(-1), tuple(
        0 if old == 0 else new for old, new in zip(tensor.stride(), strides, strict=True)
    )


def _length(place: Placed) -> int:
    """Return how many elements are sent of a tensor."""
    if 0 in place.shape:
        return 0
    return math.prod(
        1 if stride == 0 else size for size, stride in zip(place.shape, place.strides, strict=True)
    )

"""Adding up many tensors over workers, a piece of them at a time: no second copy of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from ziggurat.parallel.collectives.canonical import Span
from ziggurat.parallel.collectives.exchange import Exchange
from ziggurat.parallel.collectives.hierarchy import even_slices
from ziggurat.parallel.collectives.shared_memory import Arena, share_memory
from ziggurat.parallel.collectives.tiers import Meeting, MessageTier, Room, SharedTier, Tier, meetings
from ziggurat.parallel.collectives.workers import Workers

PIECE_BYTES = 8 << 20
LEAST_ROOM = 1 << 16  # bytes of shared memory for each worker


def add_up_in_pieces(
    tensors: Iterable[Tensor], add_up: Callable[[Tensor], Tensor], piece_bytes: int = PIECE_BYTES
) -> None:
    """Overwrite tensors with their sums over workers.

    Args:
        tensors: In the same order on every worker.
        add_up: From this worker's flat tensor to the sum over all workers.
        piece_bytes: About how much is joined into one flat tensor.

    Communication:
        One call of `add_up` for each piece.

    Example:
        >>> parts = [torch.ones(2), torch.ones(3)]
        >>> add_up_in_pieces(parts, lambda flat: 2 * flat)
        >>> parts[1]
        tensor([2., 2., 2.])
    """
    piece: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if piece and (piece[0].dtype != tensor.dtype or size >= piece_bytes):
            _add_up(piece, add_up)
            piece, size = [], 0
        piece.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if piece:
        _add_up(piece, add_up)


def _add_up(tensors: list[Tensor], add_up: Callable[[Tensor], Tensor]) -> None:
    flat = add_up(torch.cat([tensor.reshape(-1) for tensor in tensors]))
    for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(total.view(tensor.shape))


class PartSum:
    """The sum of a flat tensor over workers: through the memory of one machine where they share it, else by messages.

    Each element is added in the same order, that of a tree over the workers, wherever in the tensor it is: so it does not matter
    how a longer tensor was cut.

    Args:
        workers: Of one axis.
        room_bytes: Shared memory for each worker, at most: it is mapped at the first sum, and again where a longer tensor comes.

    Placement:
        Before, each worker has a part; after, every worker has the same sum.

    Communication:
        Two barriers for each `room_bytes` of a tensor; by messages one all-to-all and one all-gather: ``2 (W - 1) / W`` of its bytes
        sent by each worker.
    """

    def __init__(self, workers: Workers, room_bytes: int = PIECE_BYTES) -> None:
        self.workers = workers
        self.most_bytes = room_bytes
        self.room_bytes = 0
        self.memory: Tensor | None = None
        self.can_share = workers.size > 1 and workers.device.type == "cpu"
        self.parts = [range(number, number + 1) for number in range(workers.size)]

    def __call__(self, part: Tensor) -> Tensor:
        """Return the sum, of a part that is flat and contiguous, and may be overwritten."""
        if self.workers.size == 1:
            return part
        wanted = min(self.most_bytes, max(LEAST_ROOM, 1 << (part.nbytes - 1).bit_length()))
        if self.can_share and wanted > self.room_bytes:
            self.memory = share_memory(self.workers, (self.workers.size + 1) * wanted)
            self.room_bytes, self.can_share = wanted, self.memory is not None
        if self.memory is None:
            return self._exchange(part, partial(MessageTier, like=part))
        for piece in part.split(self._room(part.dtype)):
            room = self._places(self.memory, piece.dtype)
            piece.copy_(self._exchange(piece, partial(SharedTier, room=room)))
        return part

    def _room(self, dtype: torch.dtype) -> int:
        """Return how many elements of shared memory there are for each worker: a multiple of their number."""
        return self.room_bytes // dtype.itemsize // self.workers.size * self.workers.size

    def _places(self, memory: Tensor, dtype: torch.dtype) -> Room:
        """Return the memory's places, which stay whatever the length of a piece is."""
        arena, room, size = Arena(memory), self._room(dtype), self.workers.size
        return Room(arena.tensor((size, 1, room), dtype), arena.tensor((room,), dtype))

    def _exchange(self, piece: Tensor, make_tier: Callable[[Meeting], Tier]) -> Tensor:
        rank, size = self.workers.rank, self.workers.size
        (meeting,) = meetings([self.workers], rank, self.parts, even_slices(piece.numel(), size))
        roots = {Span(rank, rank + 1): piece}
        return Exchange(roots, Span(0, size), [make_tier(meeting)], piece.numel()).result()

"""Adding up many tensors over workers, a piece of them at a time: no second copy of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

PIECE_BYTES = 8 << 20


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

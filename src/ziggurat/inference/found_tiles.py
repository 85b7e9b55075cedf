"""What was found in tiles, between the memory of a worker and its journal: of an image its tiles, whoever has computed them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch

from ziggurat.data.extents import Region
from ziggurat.errors import UserError
from ziggurat.inference.journal import Records
from ziggurat.inference.tiles import Work
from ziggurat.tasks.base import Task

Found = TypeVar("Found")
TILES = "tiles"


def encode(task: Task[Found, Any], found: Sequence[Found]) -> bytes:
    """Return what was found in the tiles of a batch as the bytes of a record."""
    stream = io.BytesIO()
    torch.save(task.pack(found), stream)
    return stream.getvalue()


def decode(task: Task[Found, Any], record: bytes) -> list[Found]:
    """Undo `encode`; nothing of the record is run.

    Raises:
        UserError: If the task packs what is none of the plain kinds.
    """
    try:
        packed = torch.load(io.BytesIO(record), "cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"what the task {task.name} packs must be made of tensors, numbers, text, tuples, lists and dictionaries, so that it can "
            "be kept on disk: see its pack and unpack"
        ) from None
    return task.unpack(packed)


class FoundTiles(Generic[Found]):
    """What was found in the tiles of images, read from the journal; a batch is in memory at a time.

    Args:
        task: That has found it.
        work: All tiles.
        records: Of all workers.
    """

    def __init__(self, task: Task[Found, Any], work: Work, records: Records) -> None:
        self._task, self._work, self._records = task, work, records
        self._last: tuple[int, list[Found]] = (-1, [])
        self._first: dict[int, tuple[int, int]] = {}  # of each image: its first batch, and the place in it
        for number, batch in enumerate(work.batches):
            for place, piece in enumerate(batch):
                self._first.setdefault(piece.image, (number, place))

    def of_image(self, index: int) -> Iterator[tuple[Region, Found]]:
        """Yield the tiles of an image, in order.

        Raises:
            UserError: If a record is missing.
        """
        number, place = self._first[index]
        while number < len(self._work.batches):
            batch, found = self._work.batches[number], self._batch(number)
            for piece, one in zip(batch[place:], found[place:], strict=True):
                if piece.image != index:
                    return
                yield piece.tile, one
            number, place = number + 1, 0

    def _batch(self, number: int) -> list[Found]:
        if self._last[0] != number:
            entry = self._records.get((TILES, number))
            if entry is None:
                raise UserError(
                    "what other workers have written is not there: --out must lie on a disk that all machines share"
                )
            self._last = (number, decode(self._task, entry.read()))
        return self._last[1]

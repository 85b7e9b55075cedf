"""The rows of a prediction's results, image by image, on disk: as many as there are need not be in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, overload

from ziggurat.data.dataset import Spelling
from ziggurat.inference.journal import Records
from ziggurat.tasks.base import CutOff

IMAGE = "image"
Row = dict[str, Any]


def encode_rows(rows: Sequence[Row], cut: CutOff) -> bytes:
    """Return the record of an image: a line for what was cut off, and one for each row."""
    return "\n".join([json.dumps(list(cut)), *map(json.dumps, rows)]).encode()


class Rows(Sequence[Row]):
    """The rows of all images, in the order of images; each pass over them reads them again.

    Args:
        records: Of all workers.
        indices: Of the images.
    """

    def __init__(self, records: Records, indices: Sequence[int]) -> None:
        self._entries = [records[IMAGE, index] for index in indices]

    def __len__(self) -> int:
        return sum(entry.num for entry in self._entries)

    def __iter__(self) -> Iterator[Row]:
        for rows in self.by_image():
            yield from rows

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> list[Row]: ...
    def __getitem__(self, place: int | slice) -> Row | list[Row]:
        return list(self)[place]

    def by_image(self) -> Iterator[list[Row]]:
        """Yield the rows of each image; of some there are none."""
        for entry in self._entries:
            yield [json.loads(line) for line in entry.read().decode().split("\n")[1:]]

    def cuts(self) -> list[CutOff]:
        """Return what was cut off from each image."""
        return [CutOff(*json.loads(entry.read().partition(b"\n")[0])) for entry in self._entries]

    def texts(self, spelled: Spelling) -> Iterator[str]:
        """Yield each row as JSON, with ids as the data set's files write them."""
        as_they_are = not spelled.images and not spelled.categories
        for entry in self._entries:
            lines = entry.read().decode().split("\n")[1:]
            yield from (
                lines if as_they_are else (json.dumps(_respelled(json.loads(one), spelled)) for one in lines)
            )


def _respelled(row: Row, spelled: Spelling) -> Row:
    """Return a row of results with ids as the data set's files write them."""
    changed = {**row, "image_id": spelled.images.get(row["image_id"], row["image_id"])}
    if "category_id" in row:
        changed["category_id"] = spelled.categories.get(row["category_id"], row["category_id"])
    if "top" in row:
        changed["top"] = [_respelled_class(one, spelled) for one in row["top"]]
    return changed


def _respelled_class(one: Row, spelled: Spelling) -> Row:
    return one | {"category_id": spelled.categories.get(one["category_id"], one["category_id"])}

"""From images of any size to a prediction for each, on all workers and for any task.

1. The task says how the network sees each image: resized, cut into tiles, or its middle.
2. `run_tiles` runs the model on the tiles of all images, and the task decodes what comes out of each.
3. An image is stitched, as soon as its last tile is there, by the worker that has computed it; one of which several workers have
   computed some by that of its first tile, which is sent the others at the end. Of workers that computed the same tiles each
   takes some of the images. So each image is one worker's, whatever it is made into next, and a worker holds the tiles of one
   image it is at, and of two that it shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from torch import Tensor

from ziggurat.data.batch import map_tensors
from ziggurat.data.decoding import SpoiledImages
from ziggurat.data.extents import Region
from ziggurat.data.views import Piece, View
from ziggurat.errors import UserError
from ziggurat.inference.reading import Images
from ziggurat.inference.tiles import Compute, Work, run_tiles
from ziggurat.tasks.base import Task

Found = TypeVar("Found")
Prediction = TypeVar("Prediction")


def run_images(
    task: Task[Found, Prediction],
    images: Images,
    compute: Compute,
    give: Callable[[int, Prediction], None],
    spoiled: dict[int, str] | None = None,
) -> None:
    """Run a model on all images, together with the other workers.

    Args:
        task: Of the model.
        images: The same on every worker.
        compute: How the model is run; its mode (training or evaluation) is restored.
        give: Called with the index of each image that is this worker's, and what is predicted for it, on the CPU, in the image's own
            pixels, as soon as that is known. Every image is one worker's. It is called outside of inference mode.
        spoiled: Takes what is wrong with each image that cannot be decoded, by its index, on every worker; what was given for
            such an image, if anything was, counts for nothing. None makes it an error.

    Raises:
        SpoiledImages: On every worker, with each image that cannot be decoded, if `spoiled` is None.

    Placement:
        Every worker has the model and can read every image; afterwards an image's prediction is with one worker.

    Communication:
        One gather of what was found in the tiles of those images that several workers have computed.
    """
    work = Work.of(images, views_of(task, images), compute)
    joiner = _Joiner(task, images, work, compute, give)
    run_tiles(images, work, task, compute, joiner, spoiled)
    joiner.join_shared(spoiled or {})


def views_of(task: Task[Any, Any], images: Images) -> list[View]:
    """Return how the network sees each image, by its header, which may not have been read yet.

    Raises:
        SpoiledImages: With each image whose header is not readable.
    """
    views, spoiled = [], {}
    for index in range(len(images)):
        try:
            views.append(task.view(images.record(index)))
        except UserError as error:
            spoiled[index] = str(error)
    if spoiled:
        raise SpoiledImages(spoiled)
    return views


class _Joiner(Generic[Found, Prediction]):
    """Takes what is found in tiles, and joins each image whose last tile has come.

    Args:
        task: Says how.
        images: All of them.
        work: All tiles.
        compute: This worker among the others.
        give: Takes the predictions.
    """

    def __init__(
        self,
        task: Task[Found, Prediction],
        images: Images,
        work: Work,
        compute: Compute,
        give: Callable[[int, Prediction], None],
    ) -> None:
        self._task, self._images, self._work, self._give = task, images, work, give
        self._workers, self._turn = compute.mesh.data, compute.mesh.turn
        self._tiles: dict[int, list[tuple[Region, Found]]] = {}  # of images that are not joined yet

    def __call__(self, number: int, found: Sequence[Found], faults: Mapping[int, str], /) -> None:
        """Take a batch."""
        for piece, one in zip(self._work.batches[number], found, strict=True):
            tiles = self._tiles.setdefault(piece.image, [])
            tiles.append((piece.tile, one))
            if len(tiles) == len(self._work.views[piece.image].tiles):
                self._join(piece.image, piece.image in faults)

    def join_shared(self, spoiled: Mapping[int, str]) -> None:
        """Join the images of which several workers have computed tiles."""
        own = [index for index in sorted(self._tiles) if self._tiles[index][0][0] == self._first(index)]
        foreign = [
            (Piece(index, tile), one)
            for index, tiles in sorted(self._tiles.items())
            if index not in own
            for tile, one in tiles
        ]
        sent = [piece for piece, _ in foreign], self._task.pack([one for _, one in foreign])
        received = [
            zip(pieces, self._task.unpack(packed), strict=True)
            for pieces, packed in self._workers.gather(sent)
        ]
        for piece, one in itertools.chain(*received):
            if piece.image in own:
                self._tiles[piece.image].append((piece.tile, one))
        for index in own:
            self._join(index, index in spoiled)

    def _first(self, index: int) -> Region:
        return self._work.views[index].tiles[0]

    def _join(self, index: int, is_spoiled: bool) -> None:
        tiles, (number, count) = self._tiles.pop(index), self._turn
        if is_spoiled or index % count != number:  # others that have these tiles join it
            return
        prediction = self._task.stitch(tiles, self._work.views[index], self._images.record(index))
        self._give(index, map_tensors(prediction, _free))


def _free(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd may meet: what one tile gave was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor

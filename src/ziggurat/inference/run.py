"""From images of any size to a prediction for each, on all workers and for any task.

1. The task says how the network sees each image: resized, cut into tiles, or its middle.
2. `run_tiles` runs the model on the tiles of all images, and the task decodes what comes out of each.
3. An image is stitched by the worker that has computed its first tile, which is sent the others; of workers that
   computed the same tiles each takes some of the images. So each image is one worker's, whatever it is made into next:
   counts, pictures or files.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

from torch import Tensor

from ziggurat.data.batch import map_tensors
from ziggurat.data.decoding import SpoiledImages
from ziggurat.data.extents import Region
from ziggurat.data.views import View
from ziggurat.errors import UserError
from ziggurat.inference.tiles import Compute, Images, Tiled, run_tiles
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.tasks.base import Task

Found = TypeVar("Found")
Prediction = TypeVar("Prediction")


def run_images(
    task: Task[Found, Prediction], images: Images, compute: Compute, spoiled: dict[int, str] | None = None
) -> dict[int, Prediction]:
    """Run a model on all images, together with the other workers.

    Args:
        task: Of the model.
        images: The same on every worker.
        compute: How the model is run; its mode (training or evaluation) is restored.
        spoiled: Takes what is wrong with each image that cannot be decoded, by its index, on every worker; such an image has
            no prediction. None makes it an error.

    Returns:
        What is predicted for those images that are this worker's, by their index, on the CPU, in each image's own
        pixels. Every image is one worker's.

    Raises:
        SpoiledImages: On every worker, with each image that cannot be decoded, if `spoiled` is None.

    Placement:
        Every worker has the model and can read every image; afterwards an image's prediction is with one worker.

    Communication:
        One gather of what was found in the tiles of those images that several workers have computed.
    """
    views = _views(task, images)
    tiled = run_tiles(images, views, task.decode, compute, spoiled)
    owned = _tiles_of_own_images(tiled, task, compute.mesh.data)
    number, count = compute.mesh.turn  # all of them have these tiles: each joins those of some images
    return {
        index: map_tensors(task.stitch(owned[index], views[index], images.record(index)), _free)
        for index in list(owned)[number::count]
        if not spoiled or index not in spoiled
    }


def _views(task: Task[Any, Any], images: Images) -> list[View]:
    """Return how the network sees each image, by its header, which may not have been read yet."""
    views, spoiled = [], {}
    for index in range(len(images)):
        try:
            views.append(task.view(images.record(index)))
        except UserError as error:
            spoiled[index] = str(error)
    if spoiled:
        raise SpoiledImages(spoiled)
    return views


def _free(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd may meet: what one tile gave was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor


def _tiles_of_own_images(
    tiled: Tiled[Found], task: Task[Found, Any], workers: Workers
) -> dict[int, list[tuple[Region, Found]]]:
    """Return all tiles, in order, of the images whose first tile this worker has computed."""
    owned = {piece.image for piece in tiled.mine}
    # tiles of an image follow each other, so that only the first image here may have begun elsewhere
    if tiled.first:
        owned.discard(tiled.pieces[tiled.first - 1].image)
    pairs = list(zip(tiled.mine, tiled.results, strict=True))
    foreign = [(piece, found) for piece, found in pairs if piece.image not in owned]
    sent = [piece for piece, _ in foreign], task.pack([found for _, found in foreign])
    received = [zip(pieces, task.unpack(packed), strict=True) for pieces, packed in workers.gather(sent)]
    tiles: dict[int, list[tuple[Region, Found]]] = {index: [] for index in sorted(owned)}
    for piece, found in itertools.chain(pairs, *received):
        if piece.image in owned:
            tiles[piece.image].append((piece.tile, found))
    return tiles

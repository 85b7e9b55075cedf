"""Labelling each pixel of images of any size, on all workers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from ziggurat.config import DataConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.tiles import Tile
from ziggurat.data.views import Piece, View, make_view
from ziggurat.inference.tiles import Compute, Images, Tiled, run_tiles
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import SpatialTensor, whole_tensor
from ziggurat.tasks.segmentation.label_tiles import join_tiles

LabelledTile = tuple[Tile, Tensor]


def segment_images(
    model: VisionModel, images: Images, config: DataConfig, compute: Compute
) -> dict[int, Tensor]:
    """Label the pixels of all images, together with the other workers.

    Args:
        model: On the worker's device; its mode (training or evaluation) is restored.
        images: The same on every worker.
        config: Resizing, crop and overlap of tiles.
        compute: How the model is run.

    Returns:
        The label of each pixel of those images that are this worker's, by their index: uint8, shape ``(H, W)`` in the
        image's own pixels, on the CPU. Every image is one worker's (of workers that compute the same images in turn).

    Raises:
        UserError: On every worker, listing each image that cannot be decoded.

    Placement:
        Every worker has the model and can read every image; afterwards an image's labels are with the worker that
        has computed its first tile.

    Communication:
        One gather of the tiles (a byte for each pixel) of those images that several workers have computed.
    """

    def finish(outputs: dict[str, Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        labels_BHW = whole_labels(outputs["logits"]).cpu()
        return [labels[:height, :width] for labels, (height, width) in zip(labels_BHW, sizes, strict=True)]

    views = [make_view(images.record(index), config) for index in range(len(images))]
    tiled = run_tiles(model, images, views, finish, compute)
    owned = _tiles_of_own_images(tiled, compute.mesh.dp)
    number, count = compute.mesh.turn  # all of them have these tiles: each joins those of some images
    return {
        index: _to_own_pixels(join_tiles(owned[index]), views[index], images.record(index))
        for index in list(owned)[number::count]
    }


def whole_labels(logits_BKHW: Tensor) -> Tensor:
    """Return the best class of each pixel, uint8, shape ``(B, H, W)``.

    Communication:
        Where several workers share each image: one gather (a byte for each pixel).
    """
    if not isinstance(logits_BKHW, SpatialTensor):
        return logits_BKHW.argmax(dim=1).to(torch.uint8)
    x = logits_BKHW
    labels = x.local.argmax(dim=1).to(torch.uint8)
    return whole_tensor(SpatialTensor(labels, (x.dims[0], *x.dims[2:]), x.mesh), "the labels of all pixels")


def _tiles_of_own_images(tiled: Tiled[Tensor], workers: Workers) -> dict[int, list[LabelledTile]]:
    """Return all tiles, in order, of the images whose first tile this worker has computed."""
    owned = {piece.image for piece in tiled.mine}
    # tiles of an image follow each other, so that only the first image here may have begun elsewhere
    if tiled.first:
        owned.discard(tiled.pieces[tiled.first - 1].image)
    pairs = list(zip(tiled.mine, tiled.results, strict=True))
    foreign = [(piece, labels) for piece, labels in pairs if piece.image not in owned]
    received: list[list[tuple[Piece, Tensor]]] = workers.gather(foreign)
    tiles: dict[int, list[LabelledTile]] = {index: [] for index in sorted(owned)}
    for piece, labels in itertools.chain(pairs, *received):
        if piece.image in owned:
            tiles[piece.image].append((piece.tile, labels))
    return tiles


def _to_own_pixels(labels_HW: Tensor, view: View, record: ImageRecord) -> Tensor:
    """Undo the resizing of an image; each pixel takes its nearest label."""
    if (view.height, view.width) == (record.height, record.width):
        return labels_HW
    size = [record.height, record.width]
    resized: Tensor = functional.resize(labels_HW[None], size, InterpolationMode.NEAREST_EXACT)[0]
    return resized

"""Finding the objects of images of any size, on all workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.views import View, make_view
from ziggurat.inference.tiles import Compute, Images, ProgressCallback, compute_as_configured, run_tiles
from ziggurat.models.vision import VisionModel
from ziggurat.strategies.mesh import Mesh
from ziggurat.tasks.detection.detections import Detections
from ziggurat.tasks.detection.merging import concatenate, merge_tiles
from ziggurat.tasks.detection.task import DetectionTask


def detect_as_configured(
    model: VisionModel,
    task: DetectionTask,
    images: Images,
    config: RunConfig,
    mesh: Mesh,
    progress: ProgressCallback | None = None,
) -> list[Detections]:
    """Call `detect_images` with the settings of a run."""
    compute = compute_as_configured(config, mesh, progress)
    return detect_images(model, task, images, config.data, config.decode, compute)


def detect_images(
    model: VisionModel,
    task: DetectionTask,
    images: Images,
    config: DataConfig,
    decode: DecodeConfig,
    compute: Compute,
) -> list[Detections]:
    """Find the objects of all images, together with the other workers.

    Args:
        model: On the worker's device; its mode (training or evaluation) is restored.
        task: Decodes the model's outputs.
        images: The same on every worker.
        config: Resizing, crop and overlap of tiles.
        decode: How the tiles of an image are joined.
        compute: How the model is run.

    Returns:
        The detections of each image in its own pixels, on the CPU, by falling score.

    Raises:
        UserError: On every worker, listing each image that cannot be decoded.

    Placement:
        Every worker has the model and can read every image; afterwards every worker has all detections.

    Communication:
        One gather of the tiles' detections (28 bytes for each), after the computation.
    """

    def finish(outputs: Any, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        return [
            Detections(one.boxes_xyxy.cpu(), one.scores.cpu(), one.labels.cpu())
            for one in task.detections(outputs, sizes)
        ]

    views = [make_view(images.record(index), config) for index in range(len(images))]
    tiled = run_tiles(model, images, views, finish, compute)
    # Runs of tiles follow each other in the order of the workers.
    in_order = itertools.chain.from_iterable(map(_unpack, compute.mesh.dp.gather(_pack(tiled.results))))
    of_image: dict[int, list[Detections]] = {index: [] for index in range(len(images))}
    for piece, detections in zip(tiled.pieces, in_order, strict=True):
        of_image[piece.image].append(detections)
    margin = config.tile_overlap * config.crop / 8
    return [
        _to_own_pixels(merge_tiles(views[i].tiles, of_image[i], margin, decode), views[i], images.record(i))
        for i in range(len(images))
    ]


def _pack(found: Sequence[Detections]) -> tuple[list[int], Detections | None]:
    """Join many small tensors into three, which travel faster."""
    return [len(detections) for detections in found], concatenate(found) if found else None


def _unpack(packed: tuple[list[int], Detections | None]) -> Iterator[Detections]:
    counts, joined = packed
    if joined is not None:
        columns = (joined.boxes_xyxy, joined.scores, joined.labels)
        for boxes, scores, labels in zip(*(column.split(counts) for column in columns), strict=True):
            yield Detections(boxes, scores, labels)


def _to_own_pixels(detections: Detections, view: View, record: ImageRecord) -> Detections:
    """Undo the resizing of an image."""
    if (view.height, view.width) == (record.height, record.width):
        return detections
    x, y = record.width / view.width, record.height / view.height
    factors = detections.boxes_xyxy.new_tensor([x, y, x, y])
    return replace(detections, boxes_xyxy=detections.boxes_xyxy * factors)

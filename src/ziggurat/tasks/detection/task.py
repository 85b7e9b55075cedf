"""The detection task: boxes with a class and a score.

Shapes: ``K`` normalizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import Microbatch, Objects
from ziggurat.data.dataset import DetectionDataset, ImageRecord
from ziggurat.data.detections import Detections, named
from ziggurat.data.extents import Extent, Region
from ziggurat.data.views import View
from ziggurat.errors import UserError
from ziggurat.models.detector import Detector
from ziggurat.models.vision import VisionModel, takes_samples
from ziggurat.tasks.base import CutOff, Place, ResultTable, Task
from ziggurat.tasks.detection.assignment import Assignment
from ziggurat.tasks.detection.decoding import Decoder
from ziggurat.tasks.detection.graph import GraphBoxes, compare_detections, padded_detections
from ziggurat.tasks.detection.loss import DetectionLoss, Outputs
from ziggurat.tasks.detection.merging import merge_tiles
from ziggurat.tasks.detection.metric import DetectionMetric
from ziggurat.tasks.detection.packing import Packed, pack, unpack
from ziggurat.tasks.detection.settings import DEMO, PRETRAINED_DATA, PRETRAINED_DECODE, coco_classes
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.detection.windows import inside, objects_inside
from ziggurat.tasks.detection.writing import box_table, coco_rows
from ziggurat.tasks.graph import Dialect, Difference
from ziggurat.visualize.boxes import draw_comparison, draw_detections, draw_objects
from ziggurat.visualize.pixels import reduction


class DetectionTask(Task[Detections, Detections]):
    """Puts the parts of this room together: targets, loss, decoding, joining of tiles, metric, pictures and files.

    Args:
        model: Gives the facts: levels, head and classes; its weights are not used.
        config: ``loss``, and ``decode`` for how outputs become boxes.
    """

    name = "detect"
    main_metric = "map50"
    settings = (
        "decode.", "loss.normalizer", "loss.focal_alpha", "loss.focal_gamma", "loss.box_weight", "loss.detection",
        "loss.equalized_scale", "loss.class_weights", "loss.effective_beta", "data.min_visible", "data.tile_overlap",
        "data.rare_crops", "data.aspect_grouping",
    )  # fmt: skip
    annotations = ("boxes",)
    default_model = "fcos-resnet50-fpn"
    usual_classes = 91
    targets = ObjectKind()
    limit = "decode.max_detections"
    lies_on = "boxes"
    joining_fault = (
        "boxes of several runs are fused image by image (decode.fusion), by code that no graph has"
    )
    legend = "in colour: found, with class and score; white: annotated"

    def __init__(self, model: VisionModel, config: RunConfig) -> None:
        super().__init__(model, config)
        detector = cast(Detector, model)  # what it says it is for
        self._loss, self._decoder = DetectionLoss(detector, config.loss), Decoder(detector, config.decode)
        self.normalizer_names, self.term_names = self._loss.normalizer_names, self._loss.term_names
        self.accumulated_names = self._loss.accumulated_names

    @classmethod
    def demo(cls) -> RunConfig:
        """Return a run on scenes of several digits."""
        return DEMO

    @classmethod
    def pretrained_settings(cls, name: str) -> RunConfig:
        """Return what torchvision's detectors do."""
        decode = PRETRAINED_DECODE.get(name.partition("-")[0], RunConfig().decode)
        return RunConfig(data=PRETRAINED_DATA, decode=decode)

    @classmethod
    def known_classes(cls, count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return COCO's classes, if there are so many."""
        return coco_classes(count)

    def take_counts(self, counts: ClassCounts) -> None:
        """Make weights of classes of how many objects have them, if the loss is to have such."""
        self._loss.weights.take_counts(counts)

    def assign(self, batch: Microbatch) -> Assignment:
        """Say which predictions answer for which objects; needs no outputs of the model."""
        return self._loss.assign(batch)

    def normalizers(self, assignment: Assignment) -> Tensor:
        """Return a microbatch's summands of the global normalizers, float64, shape ``(K,)``."""
        return self._loss.normalizers(assignment)

    def output_sums(self, outputs: Outputs, assignment: Assignment) -> Tensor:
        """Return nothing, float64, shape ``(0,)``: the loss depends on no sum over outputs."""
        return assignment.positives.new_zeros(0)

    def loss_shares(self, outputs: Outputs, assignment: Assignment, totals: Tensor) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; see `DetectionLoss.loss_shares`."""
        return self._loss.loss_shares(outputs, assignment, totals)

    def detections(self, outputs: Outputs, sizes: Sequence[Extent]) -> list[Detections]:
        """Return the objects found in each image, where the outputs are; see `Decoder.detections`."""
        return self._decoder.detections(outputs, sizes)

    def choose(self, labels: Sequence[int]) -> None:
        """Let only some classes count: those of others take no candidate's place.

        Raises:
            UserError: If a graph decodes, which has chosen its candidates among all classes.
        """
        if takes_samples(self.model):
            raise UserError(
                "--classes chooses before boxes are dropped, and an export has dropped them: take the run itself, or choose among "
                "the results"
            )
        self._decoder.labels = tuple(labels)

    def decode(self, outputs: Outputs, sizes: Sequence[Extent]) -> list[Detections]:
        """Return the objects found in each tile, on the CPU; see `detections`. A graph has found them itself."""
        if takes_samples(self.model):
            return padded_detections(cast(dict[str, Tensor], outputs))
        return [
            replace(one, boxes_xyxy=one.boxes_xyxy.cpu(), scores=one.scores.cpu(), labels=one.labels.cpu())
            for one in self.detections(outputs, sizes)
        ]

    def stitch(
        self, tiles: Sequence[tuple[Region, Detections]], view: View, record: ImageRecord
    ) -> Detections:
        """Join the objects of an image's tiles; see `merging`."""
        data = self.config.data
        margin = data.tile_overlap * data.crop / 8
        found = [detections for _, detections in tiles]
        merged = merge_tiles([tile for tile, _ in tiles], found, margin, self.config.decode)
        if (view.height, view.width) == (record.height, record.width):
            return merged
        return self.seen_at(merged, view.extent, record.extent)

    def seen_at(self, prediction: Detections, extent: Extent, smaller: Extent) -> Detections:
        """Return detections in the pixels of another extent of their image."""
        y, x = (new / old for new, old in zip(smaller, extent, strict=True))
        factors = prediction.boxes_xyxy.new_tensor([x, y, x, y])
        return replace(prediction, boxes_xyxy=prediction.boxes_xyxy * factors)

    def graph(self, dialect: Dialect) -> GraphBoxes:
        """Return decoding and suppression as part of a graph."""
        return GraphBoxes(cast(Detector, self.model), self.config.decode, dialect)

    def compare_graph(
        self, outputs: Outputs, graph: dict[str, Tensor], sizes: Sequence[Extent]
    ) -> list[Difference]:
        """Return whether both find the same objects; see `compare_detections`."""
        pairs = zip(self.decode(outputs, sizes), padded_detections(graph), strict=True)
        return [compare_detections(ours, theirs) for ours, theirs in pairs]

    def pack(self, found: Sequence[Detections]) -> Packed:
        """Return three tensors (28 bytes for each detection)."""
        return pack(found)

    def unpack(self, packed: Packed) -> list[Detections]:
        """Undo `pack`."""
        return unpack(packed)

    def metric(self, dataset: DetectionDataset) -> DetectionMetric:
        """Return COCO's metrics."""
        return DetectionMetric(dataset, self.config.decode.max_detections)

    def draw(self, image_CHW: Tensor, prediction: Detections, classes: Sequence[str]) -> Image.Image:
        """Draw boxes with class and score."""
        return draw_detections(image_CHW, prediction, classes)

    def draw_comparison(
        self, image_CHW: Tensor, prediction: Detections, dataset: DetectionDataset, index: int
    ) -> Image.Image:
        """Draw found boxes in colour with the annotated ones in white, as small as a report's sheet shows them."""
        height, width = image_CHW.shape[1:]
        smaller = reduction(width, height)
        scale = smaller if smaller < 1 else None
        return draw_comparison(image_CHW, prediction, dataset.objects(index), dataset.classes, scale=scale)

    def draw_region(
        self, image_CHW: Tensor, prediction: Detections, dataset: DetectionDataset, index: int, region: Region
    ) -> Image.Image:
        """Draw found and annotated boxes that reach into the window."""
        found = inside(prediction, region)
        return draw_comparison(
            image_CHW, found, objects_inside(dataset.objects(index), region), dataset.classes
        )

    def draw_target(self, image_CHW: Tensor, target: Objects, classes: Sequence[str]) -> Image.Image:
        """Draw the boxes of a training sample."""
        return draw_objects(image_CHW, target, classes)

    def named(self, prediction: Detections, classes: Sequence[str]) -> Detections:
        """Return detections with the names of their classes (`NamedDetections`)."""
        return named(prediction, classes)

    def rows(self, prediction: Detections, place: Place) -> list[dict[str, Any]]:
        """Return every detection as COCO has it."""
        return coco_rows(prediction, place)

    def arrays(self, prediction: Detections) -> dict[str, Tensor]:
        """Return corners, scores and labels, the best first, and how many they are."""
        found = prediction
        count = torch.tensor(len(found), dtype=torch.int32)
        return {
            "boxes_xyxy": found.boxes_xyxy,
            "scores": found.scores,
            "labels": found.labels,
            "count": count,
        }

    def array_specs(self, classes: Sequence[str]) -> dict[str, tuple[str, Extent]]:
        """Return the types and shapes of `arrays`."""
        return {
            "boxes_xyxy": ("float32", (-1, 4)),
            "scores": ("float32", (-1,)),
            "labels": ("int64", (-1,)),
            "count": ("int32", ()),
        }

    def table(self, rows: Sequence[dict[str, Any]]) -> ResultTable:
        """Return a line for each box."""
        return box_table(rows)

    def cut_off(self, prediction: Detections) -> CutOff:
        """Return what ``decode.max_detections`` and ``decode.candidates`` have cut off."""
        is_early = 2 * prediction.candidates_cut > prediction.num_cut
        limit = "decode.candidates" if is_early else self.limit
        return CutOff(prediction.num_cut, prediction.best_cut, limit)

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the number of detections."""
        return {"detections": len(rows)}

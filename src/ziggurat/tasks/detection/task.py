"""The detection task: from a model's outputs to the loss's shares, and to boxes.

Shapes: ``B`` images, ``N`` positives of all levels, ``K`` normalizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ziggurat.config import DecodeConfig, LossConfig, RunConfig
from ziggurat.data.batch import Microbatch, ObjectTargets
from ziggurat.models.detector import Detector
from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.tasks.detection.anchors import Grid, anchors_at, make_grids
from ziggurat.tasks.detection.assignment import Assignment, Places, collect_targets, gather, places_from_index
from ziggurat.tasks.detection.atss import AtssRules
from ziggurat.tasks.detection.candidates import Candidates, best_scores, join_candidates
from ziggurat.tasks.detection.detections import Detections, suppress
from ziggurat.tasks.detection.fcos import FcosRules
from ziggurat.tasks.detection.focal import focal_sums
from ziggurat.tasks.detection.retinanet import RetinaNetRules
from ziggurat.tasks.detection.rules import Rules
from ziggurat.tasks.own import own_block, own_part

Outputs = dict[str, dict[str, Tensor]]
RULES: dict[str, type[Rules]] = {"fcos": FcosRules, "retinanet": RetinaNetRules, "atss": AtssRules}
# as the reference implementation of each paper has it
DEFAULT_NORMALIZER = {"fcos": "positives", "retinanet": "images", "atss": "positives"}


class DetectionTask:
    """Assigns targets, computes shares of the loss and decodes boxes, for any of the heads.

    Where several workers share each image, each assigns the targets of all positions (it knows all boxes) and computes
    the loss of those that it answers for.

    Args:
        model: Gives the facts: levels, head and classes; its weights are not used.
        loss: The loss.
        decode: How outputs become boxes.

    Attributes:
        normalizers_are_parts: No: targets of all positions are known to every worker.
        normalizer_names: What the loss is divided by: the positives, and for the box term what its weights are
            if they are not 1 each; or the images.
        output_sum_names: None: the loss depends on no sum over outputs.
        term_names: The terms of the loss.
    """

    normalizers_are_parts = False
    output_sum_names: tuple[str, ...] = ()

    def __init__(self, model: Detector, loss: LossConfig, decode: DecodeConfig) -> None:
        self._model = model
        self._loss = loss
        self._decode = decode
        self._rules = RULES[model.head_kind]()
        chosen = DEFAULT_NORMALIZER[model.head_kind] if loss.normalizer == "default" else loss.normalizer
        names = ("images",) if chosen == "images" else ("positives", self._rules.box_normalizer)
        self.normalizer_names: tuple[str, ...] = tuple(dict.fromkeys(names))
        self.term_names: tuple[str, ...] = self._rules.term_names

    @torch.no_grad()
    def assign(self, batch: Microbatch) -> Assignment:
        """Say which predictions answer for which objects; needs no outputs of the model.

        Args:
            batch: Its objects, and the rows and columns of its images, are used.
        """
        grids = self._grids(*batch.extent)
        targets = batch.targets
        assert isinstance(targets, ObjectTargets)  # the data set was opened for this task
        boxes, counts = targets.boxes_xyxy, torch.tensor(targets.counts)
        image = torch.arange(len(counts)).repeat_interleave(counts).to(boxes.device)
        matched_BP = self._rules.match(boxes, image, len(counts), grids)
        bases = [self._rules.base_anchors(grid.stride, boxes.device) for grid in grids]
        return collect_targets(matched_BP, grids, bases, boxes, targets.labels)

    def normalizers(self, assignment: Assignment) -> Tensor:
        """Return a microbatch's summands of the global normalizers, float64, shape ``(K,)``."""
        positives = assignment.positives
        if self.normalizer_names == ("images",):
            return positives.new_full((1,), len(positives))
        counts = [positives, self._rules.box_weights(assignment)]
        return torch.stack([count.sum() for count in counts[: len(self.normalizer_names)]])

    def output_sums(self, outputs: Outputs, assignment: Assignment) -> Tensor:
        """Return nothing, float64, shape ``(0,)``: the loss depends on no sum over outputs."""
        return assignment.positives.new_zeros(0)

    def loss_shares(self, outputs: Outputs, assignment: Assignment, totals: Tensor) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; summed over all microbatches they are the loss.

        Computed in float32 (or float64, if the outputs are), also under autocast.

        Args:
            outputs: The model's.
            assignment: Of the same microbatch.
            totals: The global normalizers, float64, shape ``(K,)``: the sum of `normalizers` over all microbatches.
        """
        device = assignment.positives.device
        outputs, own = own_outputs(outputs, assignment)
        with torch.autocast(device.type, enabled=False):
            sums, losses = self._class_sums(outputs, own), self._positive_losses(outputs, own)
            weight_B = self._image_weights(assignment.positives, totals[0]).to(device, sums.dtype)
            box_weights = self._rules.box_weights(assignment)
            last = totals[len(self.normalizer_names) - 1]
            box_weight_B = self._image_weights(box_weights, last).to(device, sums.dtype)
            image_N = torch.cat([level.positives.image for level in own.levels.values()])
            shares = {"classes": (sums * weight_B).sum()}
            for term, loss_N in losses.items():
                factor_B = box_weight_B if term == "boxes" else weight_B
                shares[term] = (loss_N * factor_B[image_N]).sum()
            shares["boxes"] = shares["boxes"] * self._loss.box_weight
        return shares

    @torch.no_grad()
    def detections(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Return the objects found in each image, in pixels of the model's input.

        Args:
            outputs: The model's.
            sizes: Rows and columns of each image before padding; boxes are clipped to them.

        Communication:
            Where several workers share each image: one gather of the candidates along each axis.
        """
        finest, level = next(iter(self._model.levels.items()))
        rows, columns = outputs[finest]["boxes"].shape[-2:]
        device = outputs[finest]["boxes"].device
        with torch.autocast(device.type, enabled=False):
            found = [
                self._candidates(outputs[grid.name], grid)
                for grid in self._grids(rows * level.stride, columns * level.stride)
            ]
            boxes_of_finest = outputs[finest]["boxes"]
            if isinstance(boxes_of_finest, SpatialTensor):
                found = join_candidates(found, self._decode.candidates, boxes_of_finest.mesh)
            image, boxes, scores, labels = (
                torch.cat([getattr(level, name) for level in found])
                for name in ("image", "boxes_xyxy", "scores", "labels")
            )
            bounds = torch.tensor(sizes, device=device, dtype=boxes.dtype).flip(1).repeat(1, 2)
            boxes = torch.minimum(boxes.clamp(min=0), bounds[image])
        results = []
        for number in range(len(sizes)):
            of_image = (image == number).nonzero().squeeze(1)
            one = Detections(boxes[of_image], scores[of_image], labels[of_image])
            results.append(suppress(one, self._decode.nms_threshold, self._decode.max_detections))
        return results

    def _grids(self, height: int, width: int) -> list[Grid]:
        model = self._model
        return make_grids(model.levels, model.level_sizes(height, width), *model.padded_size(height, width))

    def _class_sums(self, outputs: Outputs, assignment: Assignment) -> Tensor:
        """Return the focal loss of each image, shape ``(B,)``."""
        alpha, gamma = self._loss.focal_alpha, self._loss.focal_gamma
        by_level = [
            focal_sums(outputs[name]["classes"], targets, self._rules.num_anchors, alpha, gamma)
            for name, targets in assignment.levels.items()
        ]
        return torch.stack(by_level).sum(dim=0)

    def _positive_losses(self, outputs: Outputs, assignment: Assignment) -> dict[str, Tensor]:
        """Return every other term's loss of each positive, shapes ``(N,)``; outputs elsewhere are not touched."""
        values = {}
        for term in self.term_names[1:]:
            parts = [
                gather(outputs[name][term], targets.positives, self._rules.num_anchors)
                for name, targets in assignment.levels.items()
            ]
            joined = torch.cat(parts)
            values[term] = joined.to(torch.promote_types(joined.dtype, torch.float32))
        anchors = torch.cat([targets.anchors_xyxy for targets in assignment.levels.values()])
        boxes = torch.cat([targets.boxes_xyxy for targets in assignment.levels.values()])
        dtype = values["boxes"].dtype
        return self._rules.losses(values, anchors.to(dtype), boxes.to(dtype))

    def _image_weights(self, counts_B: Tensor, total: Tensor) -> Tensor:
        """Return what each image's losses are multiplied by, float64, shape ``(B,)``.

        Args:
            counts_B: Each image's positives, or the sum of their weights.
            total: The global normalizer.
        """
        total = total.to(counts_B.device).clamp(min=1)
        if self.normalizer_names == ("images",):
            return 1 / (counts_B.clamp(min=1) * total)
        return torch.ones_like(counts_B) / total

    def _candidates(self, terms: dict[str, Tensor], grid: Grid) -> Candidates:
        """Return a level's candidates among the positions that this worker answers for."""
        num_anchors, num_classes = self._rules.num_anchors, self._model.num_classes
        block = own_block(terms["boxes"])
        terms = {name: own_part(t) for name, t in terms.items()}
        terms = {name: t.to(torch.promote_types(t.dtype, torch.float32)) for name, t in terms.items()}
        scores_BP = self._rules.scores(terms).permute(0, 2, 3, 1).flatten(1)  # a view of channels-last maps
        indices = [
            best_scores(one, self._decode.score_threshold, self._decode.candidates) for one in scores_BP
        ]
        image = torch.arange(len(indices)).repeat_interleave(torch.tensor([len(one) for one in indices]))
        image, index = image.to(scores_BP.device), torch.cat(indices)
        prediction = torch.div(index, num_classes, rounding_mode="floor")
        here = places_from_index(image, prediction, block.width, num_anchors)
        places = Places(image, here.row + block.rows[0], here.column + block.columns[0], here.anchor)
        base = self._rules.base_anchors(grid.stride, index.device)
        anchors = anchors_at(grid, base, places.row, places.column, places.anchor)
        boxes = self._rules.decode(gather(terms["boxes"], here, num_anchors), anchors)
        labels = index % num_classes
        in_level = (places.row * grid.columns + places.column) * num_anchors + places.anchor
        return Candidates(image, in_level * num_classes + labels, boxes, scores_BP[image, index], labels)


def own_outputs(outputs: Outputs, assignment: Assignment) -> tuple[Outputs, Assignment]:
    """Return outputs and targets of the positions that this worker answers for; all of them, if it is alone."""
    if not any(isinstance(term, SpatialTensor) for terms in outputs.values() for term in terms.values()):
        return outputs, assignment
    levels = {
        name: targets.of_block(own_block(outputs[name]["boxes"]))
        for name, targets in assignment.levels.items()
    }
    own = {name: {term: own_part(t) for term, t in outputs[name].items()} for name in levels}
    return own, replace(assignment, levels=levels)


def make_task(model: Detector, config: RunConfig) -> DetectionTask:
    """Return the detection task of a model, as a run's configuration defines it."""
    return DetectionTask(model, config.loss, config.decode)

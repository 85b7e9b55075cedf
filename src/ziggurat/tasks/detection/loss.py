"""The loss of detection: targets for every prediction, and each term's share.

Where several workers share each image, each assigns the targets of all positions (it knows all boxes) and computes the
loss of those that it answers for.

Shapes: ``B`` images, ``N`` positives of all levels, ``K`` normalizers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ziggurat.config import LossConfig
from ziggurat.data.batch import Microbatch
from ziggurat.models.detector import Detector
from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.tasks.class_weights import ClassWeights
from ziggurat.tasks.detection.anchors import level_grids
from ziggurat.tasks.detection.assignment import Assignment, collect_targets, gather
from ziggurat.tasks.detection.equalized import equalized
from ziggurat.tasks.detection.focal import ByClass, focal_sums, focal_sums_by_class
from ziggurat.tasks.detection.heads import HEADS
from ziggurat.tasks.detection.targets import ObjectTargets
from ziggurat.tasks.own import own_block, own_part

Outputs = dict[str, dict[str, Tensor]]


class DetectionLoss:
    """Assigns targets and computes shares of the loss, for any of the heads.

    Args:
        model: Gives the facts: levels, head and classes; its weights are not used.
        loss: The loss.

    Attributes:
        normalizer_names: What the loss is divided by: the positives, and for the box term what its weights are
            if they are not 1 each; or the images.
        term_names: The terms of the loss.
        accumulated_names: With ``loss.detection=equalized`` the gradients of each class's positives, then of its negatives, as
            `equalized` sums them up.
    """

    def __init__(self, model: Detector, loss: LossConfig) -> None:
        head = HEADS[model.head_kind]
        self._model, self._loss = model, loss
        self.weights = ClassWeights(loss, model.num_classes)
        classes = range(model.num_classes) if loss.detection == "equalized" else ()
        self.accumulated_names = tuple(f"{kind}_{c}" for kind in ("positive", "negative") for c in classes)
        self._assigner, self._coder = head.assigner, head.coder
        chosen = head.normalizer if loss.normalizer == "default" else loss.normalizer
        names = ("images",) if chosen == "images" else ("positives", self._coder.box_normalizer)
        self.normalizer_names = tuple(dict.fromkeys(names))
        self.term_names = self._coder.term_names

    @torch.no_grad()
    def assign(self, batch: Microbatch) -> Assignment:
        """Say which predictions answer for which objects; needs no outputs of the model.

        Args:
            batch: Its objects, and the rows and columns of its images, are used.
        """
        grids = level_grids(self._model, *batch.extent)
        targets: ObjectTargets = batch.targets
        boxes, counts = targets.boxes_xyxy, torch.tensor(targets.counts)
        image = torch.arange(len(counts)).repeat_interleave(counts).to(boxes.device)
        matched_BP = self._assigner.match(boxes, image, len(counts), grids)
        bases = [self._assigner.base_anchors(grid.stride, boxes.device) for grid in grids]
        return collect_targets(matched_BP, grids, bases, boxes, targets.labels)

    def normalizers(self, assignment: Assignment) -> Tensor:
        """Return a microbatch's summands of the global normalizers, float64, shape ``(K,)``."""
        positives = assignment.positives
        if self.normalizer_names == ("images",):
            return positives.new_full((1,), len(positives))
        counts = [positives, self._coder.box_weights(assignment)]
        return torch.stack([count.sum() for count in counts[: len(self.normalizer_names)]])

    def loss_shares(self, outputs: Outputs, assignment: Assignment, totals: Tensor) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; summed over all microbatches they are the loss.

        Computed in float32 (or float64, if the outputs are), also under autocast.

        Args:
            outputs: The model's.
            assignment: Of the same microbatch.
            totals: The global normalizers, float64, shape ``(K,)``: the sum of `normalizers` over all microbatches. Behind them,
                where the loss is equalized, what was accumulated in the steps before.

        Returns:
            The terms; where the loss is equalized, behind them ``accumulated``.
        """
        device = assignment.positives.device
        outputs, own = own_outputs(outputs, assignment)
        with torch.autocast(device.type, enabled=False):
            sums, gradients = self._class_sums(outputs, own, totals[len(self.normalizer_names) :])
            losses = self._positive_losses(outputs, own)
            weight_B = self._image_weights(assignment.positives, totals[0]).to(device, sums.dtype)
            box_weights = self._coder.box_weights(assignment)
            last = totals[len(self.normalizer_names) - 1]
            box_weight_B = self._image_weights(box_weights, last).to(device, sums.dtype)
            image_N = torch.cat([level.positives.image for level in own.levels.values()])
            shares = {"classes": (sums * weight_B).sum()}
            for term, loss_N in losses.items():
                factor_B = box_weight_B if term == "boxes" else weight_B
                shares[term] = (loss_N * factor_B[image_N]).sum()
            shares["boxes"] = shares["boxes"] * self._loss.box_weight
            if gradients is not None:
                shares["accumulated"] = (gradients * weight_B.double()).sum(dim=1)
        return shares

    def _class_sums(
        self, outputs: Outputs, assignment: Assignment, accumulated: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the focal loss of each image, shape ``(B,)``; where it is equalized, also its gradients, shape ``(2 * K, B)``."""
        alpha, gamma, num_anchors = self._loss.focal_alpha, self._loss.focal_gamma, self._assigner.num_anchors
        levels = [(outputs[name]["classes"], targets) for name, targets in assignment.levels.items()]
        if not self.accumulated_names and not self.weights:
            by_level = [focal_sums(logits, targets, num_anchors, alpha, gamma) for logits, targets in levels]
            return torch.stack(by_level).sum(dim=0), None
        by_class = ByClass(positive_K=self.weights.weight_K if self.weights else None)
        if self.accumulated_names:
            by_class = equalized(accumulated, gamma, self._loss.equalized_scale, by_class)
        found = [
            focal_sums_by_class(logits, targets, num_anchors, alpha, gamma, by_class)
            for logits, targets in levels
        ]
        loss_B = torch.stack([one.loss_B for one in found]).sum(dim=0)
        if not self.accumulated_names:
            return loss_B, None
        gradients = torch.stack([torch.cat([one.positive_BK, one.negative_BK], dim=1) for one in found])
        return loss_B, gradients.sum(dim=0).T

    def _positive_losses(self, outputs: Outputs, assignment: Assignment) -> dict[str, Tensor]:
        """Return every other term's loss of each positive, shapes ``(N,)``; outputs elsewhere are not touched."""
        values = {}
        for term in self.term_names[1:]:
            parts = [
                gather(outputs[name][term], targets.positives, self._assigner.num_anchors)
                for name, targets in assignment.levels.items()
            ]
            joined = torch.cat(parts)
            values[term] = joined.to(torch.promote_types(joined.dtype, torch.float32))
        anchors = torch.cat([targets.anchors_xyxy for targets in assignment.levels.values()])
        boxes = torch.cat([targets.boxes_xyxy for targets in assignment.levels.values()])
        dtype = values["boxes"].dtype
        return self._coder.losses(values, anchors.to(dtype), boxes.to(dtype))

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

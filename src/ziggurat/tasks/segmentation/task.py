"""The segmentation task: from the logits of each pixel to the loss's shares.

Shapes: ``B`` images, ``K`` classes, ``H`` rows and ``W`` columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.config import LossConfig
from ziggurat.data.batch import IGNORED_PIXEL, MaskTargets, Microbatch
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.own import own_part
from ziggurat.tasks.segmentation.pixel_losses import DiceTotals, dice_share, focal_cross_entropy, overlap_sums


@dataclass(frozen=True)
class PixelTargets:
    """What the logits of a microbatch have to predict.

    Attributes:
        labels_BHW: The label of each pixel, uint8; `IGNORED_PIXEL` takes no part.
        counts_K: Pixels of each class, float64.
    """

    labels_BHW: Tensor
    counts_K: Tensor


class SegmentationTask:
    """Computes shares of the loss.

    The terms are those that ``loss.segmentation`` names:

    - ``ce``: cross-entropy, summed over the valid pixels of the global batch, divided by their number.
    - ``focal``: the same of the focal loss of the softmax, ``(1 - p)**gamma * -log(p)`` of the true class's
      probability (without alpha).
    - ``dice``: one minus the mean, over the classes that occur in the truth of the global batch, of
      ``2 * I / (P + T)``: of the global batch's valid pixels, the sum ``P`` of the class's probabilities, the number
      ``T`` of its pixels, and the sum ``I`` of its probabilities on its own pixels. It is not a mean of the Dices of
      images or microbatches. Times ``loss.dice_weight``.

    Args:
        model: Gives the number of classes; its weights are not used.
        loss: The loss.

    Where several workers share each image, each has the masks of the pixels that it answers for.

    Attributes:
        normalizers_are_parts: Yes: a worker counts the pixels that it has.
        normalizer_names: Valid pixels; with Dice also the pixels of each class.
        output_sum_names: With Dice, ``I`` and ``P`` of each class; otherwise none.
        term_names: The terms of the loss.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, equation 4. https://arxiv.org/abs/1708.02002
        Milletari et al., V-Net, 2016, section 3. https://arxiv.org/abs/1606.04797 (there with squares)
    """

    normalizers_are_parts = True

    def __init__(self, model: VisionModel, loss: LossConfig) -> None:
        self._num_classes = model.num_classes
        self._loss = loss
        self.term_names: tuple[str, ...] = tuple(loss.segmentation.split("+"))
        self.normalizer_names: tuple[str, ...] = ("pixels",)
        self.output_sum_names: tuple[str, ...] = ()
        if "dice" in self.term_names:
            classes = range(self._num_classes)
            self.normalizer_names += tuple(f"pixels_{number}" for number in classes)
            self.output_sum_names = tuple(
                f"{name}_{c}" for name in ("intersection", "predicted") for c in classes
            )

    @torch.no_grad()
    def assign(self, batch: Microbatch) -> PixelTargets:
        """Count the pixels of each class; needs no outputs of the model.

        Args:
            batch: Its masks are used.

        Raises:
            UserError: If a mask has a label that is not of a class.
        """
        targets = batch.targets
        assert isinstance(targets, MaskTargets)  # the data set was opened for this task
        counts = torch.bincount(targets.labels_BHW.flatten(), minlength=IGNORED_PIXEL + 1)
        strange = counts[self._num_classes : IGNORED_PIXEL].nonzero().flatten() + self._num_classes
        if len(strange):
            raise UserError(
                f"masks must have the labels 0 to {self._num_classes - 1}, or {IGNORED_PIXEL} for no label: got "
                f"{', '.join(map(str, strange.tolist()[:8]))}; name all classes in data.classes"
            )
        return PixelTargets(targets.labels_BHW, counts[: self._num_classes].to(torch.float64))

    def normalizers(self, assignment: PixelTargets) -> Tensor:
        """Return the number of valid pixels, and with Dice those of each class, float64, shape ``(1 [+ K],)``."""
        pixels = assignment.counts_K.sum().view(1)
        return torch.cat([pixels, assignment.counts_K]) if self.output_sum_names else pixels

    @torch.no_grad()
    def output_sums(self, outputs: dict[str, Tensor], assignment: PixelTargets) -> Tensor:
        """Return a microbatch's intersections and predicted pixels of each class, float64, shape ``(2 * K,)``.

        Empty for a loss without Dice.
        """
        if not self.output_sum_names:
            return assignment.counts_K.new_zeros(0)
        with torch.autocast(assignment.counts_K.device.type, enabled=False):
            return torch.cat(overlap_sums(own_part(outputs["logits"]), assignment.labels_BHW))

    def loss_shares(
        self, outputs: dict[str, Tensor], assignment: PixelTargets, totals: Tensor
    ) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; summed over all microbatches they are the loss.

        Computed in float32 (or float64, if the outputs are), also under autocast.

        Args:
            outputs: The model's.
            assignment: Of the same microbatch.
            totals: Sums over all microbatches of `normalizers`, then of `output_sums`, float64.
        """
        logits_BKHW, labels_BHW = own_part(outputs["logits"]), assignment.labels_BHW
        totals = totals.to(logits_BKHW.device)
        shares = {}
        with torch.autocast(logits_BKHW.device.type, enabled=False):
            if self.term_names[0] != "dice":
                gamma = self._loss.focal_gamma if self.term_names[0] == "focal" else 0.0
                total = focal_cross_entropy(logits_BKHW, labels_BHW, gamma)
                shares[self.term_names[0]] = total / totals[0].clamp(min=1).to(total.dtype)
            if "dice" in self.term_names:
                true_K, intersection_K, predicted_K = totals[1:].view(3, self._num_classes)
                dice = DiceTotals(intersection_K, predicted_K, true_K)
                share = dice_share(logits_BKHW, labels_BHW, assignment.counts_K, dice)
                shares["dice"] = share * self._loss.dice_weight
        return shares

"""The segmentation task: a class for each pixel.

Shapes: ``B`` images, ``K`` classes, ``H`` rows and ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import IGNORED_PIXEL, Microbatch
from ziggurat.data.dataset import ImageRecord, SegmentationDataset
from ziggurat.data.extents import Extent, Region
from ziggurat.data.regions import mask_in
from ziggurat.data.views import View
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.base import Place, ResultTable, Task, Written
from ziggurat.tasks.class_weights import ClassWeights
from ziggurat.tasks.graph import Dialect, Difference, GraphOutput, LogitsDecoder, compare_logits
from ziggurat.tasks.own import own_part
from ziggurat.tasks.segmentation.bands import image_bands, write_bands
from ziggurat.tasks.segmentation.decoding import to_own_pixels, whole_labels
from ziggurat.tasks.segmentation.label_tiles import join_tiles
from ziggurat.tasks.segmentation.metric import SegmentationMetric
from ziggurat.tasks.segmentation.pixel_losses import DiceTotals, dice_share, focal_cross_entropy, overlap_sums
from ziggurat.tasks.segmentation.probabilities import labels_of, passing_probabilities, whole_sheets
from ziggurat.tasks.segmentation.settings import DEMO
from ziggurat.tasks.segmentation.targets import MaskKind, MaskTargets
from ziggurat.tasks.segmentation.writing import mask_table, middles, write_mask
from ziggurat.visualize.labels import draw_label_comparison, draw_labels


@dataclass(frozen=True)
class PixelTargets:
    """What the logits of a microbatch have to predict.

    Attributes:
        labels_BHW: The label of each pixel, uint8; `IGNORED_PIXEL` takes no part.
        counts_K: Pixels of each class, float64.
    """

    labels_BHW: Tensor
    counts_K: Tensor


class SegmentationTask(Task[Tensor, Tensor]):
    """Computes shares of the loss, and labels pixels.

    The terms are those that ``loss.segmentation`` names:

    - ``ce``: cross-entropy, summed over the valid pixels of the global batch, divided by their number; with ``loss.class_weights``
      each pixel has the weight of its class, and the sum is divided by that of the weights.
    - ``focal``: the same of the focal loss of the softmax, ``(1 - p)**gamma * -log(p)`` of the true class's
      probability (without alpha).
    - ``dice``: one minus the mean, over the classes that occur in the truth of the global batch, of
      ``2 * I / (P + T)``: of the global batch's valid pixels, the sum ``P`` of the class's probabilities, the number
      ``T`` of its pixels, and the sum ``I`` of its probabilities on its own pixels. It is not a mean of the Dices of
      images or microbatches. Times ``loss.dice_weight``.

    Args:
        model: Gives the number of classes; its weights are not used.
        config: ``loss``.

    Where several workers share each image, each has the masks of the pixels that it answers for.
    What is found in a tile, and predicted for an image, is the label of each pixel, uint8, shape ``(H, W)``; where probabilities are
    kept, a tile has sheets, the labels and those of each class, uint8, shape ``(1 + K, H, W)``.

    Attributes:
        normalizer_names: Valid pixels, or the sum of their weights; with Dice also the pixels of each class.
        output_sum_names: With Dice, ``I`` and ``P`` of each class; otherwise none.

    References:
        Lin et al., Focal Loss for Dense Object Detection, 2017, equation 4. https://arxiv.org/abs/1708.02002
        Milletari et al., V-Net, 2016, section 3. https://arxiv.org/abs/1606.04797 (there with squares)
    """

    name = "segment"
    main_metric = "miou"
    settings = (
        "loss.segmentation", "loss.dice_weight", "loss.focal_gamma", "loss.class_weights", "loss.effective_beta", "data.ignore", "data.tile_overlap",
        "data.rare_crops", "data.aspect_grouping",
    )  # fmt: skip
    annotations = ("masks", "outlines")
    default_model = "smp:unet/resnet34"
    usual_classes = 21
    targets = MaskKind()
    lies_on = "masks"
    legend = (
        "from the left: image, truth, prediction, errors (pale is right, red is wrong, grey takes no part)"
    )
    normalizers_are_parts = True
    has_probabilities = True
    joining_fault = ""

    def __init__(self, model: VisionModel, config: RunConfig) -> None:
        super().__init__(model, config)
        self._num_classes, self._loss = model.num_classes, config.loss
        self._weights = ClassWeights(config.loss, model.num_classes)
        self.term_names = tuple(config.loss.segmentation.split("+"))
        self.normalizer_names = ("pixels",)
        if "dice" in self.term_names:
            classes = range(self._num_classes)
            self.normalizer_names += tuple(f"pixels_{number}" for number in classes)
            self.output_sum_names = tuple(
                f"{name}_{c}" for name in ("intersection", "predicted") for c in classes
            )

    @classmethod
    def idle_settings(cls, config: RunConfig) -> dict[str, str]:
        """Return the settings of terms that the loss has not."""
        terms = config.loss.segmentation.split("+")
        needs = {"loss.dice_weight": "dice", "loss.focal_gamma": "focal"}
        idle = {key: f"loss.segmentation={term}" for key, term in needs.items() if term not in terms}
        if terms == ["dice"]:
            idle["loss.class_weights"] = "loss.segmentation=ce, focal, ce+dice or focal+dice"
        return idle

    @classmethod
    def demo(cls) -> RunConfig:
        """Return a run on scenes of one or two digits."""
        return DEMO

    def take_counts(self, counts: ClassCounts) -> None:
        """Make weights of classes of how many pixels, or images, have them, if the loss is to have such."""
        self._weights.take_counts(counts)

    @torch.no_grad()
    def assign(self, batch: Microbatch) -> PixelTargets:
        """Count the pixels of each class; needs no outputs of the model.

        Args:
            batch: Its masks are used.

        Raises:
            UserError: If a mask has a label that is not of a class.
        """
        targets: MaskTargets = batch.targets
        counts = torch.bincount(targets.labels_BHW.flatten(), minlength=IGNORED_PIXEL + 1)
        strange = counts[self._num_classes : IGNORED_PIXEL].nonzero().flatten() + self._num_classes
        if len(strange):
            raise UserError(
                f"masks must have the labels 0 to {self._num_classes - 1}, or {IGNORED_PIXEL} for no label: got "
                f"{', '.join(map(str, strange.tolist()[:8]))}; name all classes in data.classes"
            )
        return PixelTargets(targets.labels_BHW, counts[: self._num_classes].to(torch.float64))

    def normalizers(self, assignment: PixelTargets) -> Tensor:
        """Return the number of valid pixels (or the sum of their weights), and with Dice those of each class, float64, shape ``(1 [+ K],)``."""
        counts_K = assignment.counts_K
        pixels = (counts_K * self._weights.like(counts_K) if self._weights else counts_K).sum().view(1)
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
                weight_K = self._weights.like(totals) if self._weights else None
                total = focal_cross_entropy(logits_BKHW, labels_BHW, gamma, weight_K)
                divisor = torch.where(totals[0] > 0, totals[0], 1)  # a batch may have no valid pixel
                shares[self.term_names[0]] = total / divisor.to(total.dtype)
            if "dice" in self.term_names:
                true_K, intersection_K, predicted_K = totals[1:].view(3, self._num_classes)
                dice = DiceTotals(intersection_K, predicted_K, true_K)
                share = dice_share(logits_BKHW, labels_BHW, assignment.counts_K, dice)
                shares["dice"] = share * self._loss.dice_weight
        return shares

    def decode(self, outputs: dict[str, Tensor], sizes: Sequence[Extent]) -> list[Tensor]:
        """Return the label of each pixel of each tile, or the sheets of each tile, on the CPU."""
        whole = whole_sheets if self.keeps_probabilities else whole_labels
        found_B = whole(outputs["logits"]).cpu()
        return [found[..., :height, :width] for found, (height, width) in zip(found_B, sizes, strict=True)]

    def stitch(self, tiles: Sequence[tuple[Region, Tensor]], view: View, record: ImageRecord) -> Tensor:
        """Join the labels of an image's tiles; see `label_tiles`."""
        return to_own_pixels(join_tiles([(tile, labels_of(found)) for tile, found in tiles]), view, record)

    def seen_at(self, prediction: Tensor, extent: Extent, smaller: Extent) -> Tensor:
        """Return the labels of a smaller picture, each that of the pixel in its middle."""
        rows, columns = (middles(old, new) for old, new in zip(extent, smaller, strict=True))
        return prediction[rows][:, columns]

    def graph(self, dialect: Dialect) -> LogitsDecoder:
        """Return the logits as they are."""
        classes = self.model.num_classes
        return LogitsDecoder(
            (
                GraphOutput(
                    "logits",
                    ("batch", classes, "rows", "columns"),
                    "logits of the classes of each pixel; the best of them is its label",
                ),
            )
        )

    def join_outputs(self, outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the mean of the logits of each pixel."""
        return {"logits": torch.stack([one["logits"].float() for one in outputs]).mean(dim=0)}

    def compare_graph(
        self, outputs: dict[str, Tensor], graph: dict[str, Tensor], sizes: Sequence[Extent]
    ) -> list[Difference]:
        """Return how far the logits are apart; see `compare_logits`."""
        return compare_logits(outputs["logits"], graph["logits"], sizes)

    def pack(self, found: Sequence[Tensor]) -> list[Tensor]:
        """Return what was found, each tile without those beside it in memory."""
        return [one.clone() for one in found]

    def write(
        self,
        tiles: Iterable[tuple[Region, Tensor]],
        view: View,
        record: ImageRecord,
        place: Place,
        picture: Extent | None,
    ) -> Written[Tensor]:
        """Write the mask of an image row by row of its tiles: it need not be in memory."""
        if place.probabilities is not None:
            tiles = passing_probabilities(tiles, view, record.extent, place.probabilities)
        return write_bands(image_bands(tiles, view, record, place), record, place, picture)

    def metric(self, dataset: SegmentationDataset) -> SegmentationMetric:
        """Return the mean IoU and what else there is to count."""
        return SegmentationMetric(dataset)

    def draw(self, image_CHW: Tensor, prediction: Tensor, classes: Sequence[str]) -> Image.Image:
        """Draw the image with each class's colour on its pixels."""
        return draw_labels(image_CHW, prediction, classes)

    def draw_comparison(
        self, image_CHW: Tensor, prediction: Tensor, dataset: SegmentationDataset, index: int
    ) -> Image.Image:
        """Draw the image, its mask, the labels, and where they differ."""
        return draw_label_comparison(image_CHW, prediction, dataset.mask(index), dataset.classes)

    def draw_region(
        self, image_CHW: Tensor, prediction: Tensor, dataset: SegmentationDataset, index: int, region: Region
    ) -> Image.Image:
        """Draw a window of the image, its mask, the labels, and where they differ."""
        truth = mask_in(dataset, index, region)
        return draw_label_comparison(image_CHW, prediction[region.slices], truth, dataset.classes)

    def draw_target(self, image_CHW: Tensor, target: Tensor, classes: Sequence[str]) -> Image.Image:
        """Draw a training sample with each class's colour on its pixels."""
        return draw_labels(image_CHW, target, classes)

    def arrays(self, prediction: Tensor) -> dict[str, Tensor]:
        """Return the label of each pixel, and rows and columns of the image."""
        return {"labels": prediction, "extent": torch.tensor(prediction.shape, dtype=torch.int32)}

    def array_specs(self, classes: Sequence[str]) -> dict[str, tuple[str, Extent]]:
        """Return the types and shapes of `arrays`."""
        return {"labels": ("uint8", (-1, -1)), "extent": ("int32", (2,))}

    def rows(self, prediction: Tensor, place: Place) -> list[dict[str, Any]]:
        """Return the image's mask (a file) and its pixels by class."""
        return [write_mask([prediction], tuple(prediction.shape), place)]

    def table(self, rows: Sequence[dict[str, Any]]) -> ResultTable:
        """Return a line for each class of each image."""
        return mask_table(rows)

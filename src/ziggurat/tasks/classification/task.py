"""The classification task: one class for each image.

Shapes: ``B`` images of a microbatch, ``K`` classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ziggurat.config import RunConfig
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import Microbatch
from ziggurat.data.dataset import ClassificationDataset, ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.views import View, make_center_view
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.base import Place, ResultTable, Task
from ziggurat.tasks.class_weights import ClassWeights
from ziggurat.tasks.classification.metric import ClassificationMetric
from ziggurat.tasks.classification.pictures import draw_class
from ziggurat.tasks.classification.settings import DEMO, PRETRAINED_DATA
from ziggurat.tasks.classification.targets import LabelKind, LabelTargets
from ziggurat.tasks.classification.writing import class_row, class_table
from ziggurat.tasks.graph import Dialect, Difference, GraphOutput, LogitsDecoder, compare_logits
from ziggurat.tasks.own import whole_output
from ziggurat.visualize.boxes import draw_caption


class ClassificationTask(Task[Tensor, Tensor]):
    """Computes shares of the cross-entropy, of the joined prediction and of those of single levels.

    Args:
        model: Gives the names of its levels' predictions, if it has any; its weights are not used.
        config: ``loss``.

    Where several workers share each image, each has the logits, and takes an equal part of the loss.

    What is found in an image, and predicted for it, is the probability of each class, float32, shape ``(K,)``.
    """

    name = "classify"
    main_metric = "top1"
    settings = ("loss.smoothing", "loss.level_weight", "loss.class_weights", "loss.effective_beta")
    annotations = ("labels",)
    default_model = "timm:resnet50"
    usual_classes = 1000
    targets = LabelKind()
    legend = "in the corner: the predicted class and its probability"
    normalizer_names = ("images",)
    has_probabilities = True
    joining_fault = ""

    def __init__(self, model: VisionModel, config: RunConfig) -> None:
        super().__init__(model, config)
        self._loss = config.loss
        self._weights = ClassWeights(config.loss, model.num_classes)
        self._level_names = model.level_names
        self.term_names = ("classes", "levels") if self._level_names else ("classes",)

    @classmethod
    def natural_settings(cls, config: RunConfig) -> dict[str, Any]:
        """Return that whole images are seen, each as large as the network takes them."""
        data = config.data
        return {} if data.resize or data.gsd or data.mpp else {"data.resize": data.crop}

    @classmethod
    def demo(cls) -> RunConfig:
        """Return a run on scenes of one digit."""
        return DEMO

    @classmethod
    def pretrained_settings(cls, name: str) -> RunConfig:
        """Return what is usual for weights that were trained on ImageNet."""
        return RunConfig(data=PRETRAINED_DATA)

    def take_counts(self, counts: ClassCounts) -> None:
        """Make weights of classes of how many images have them, if the loss is to have such."""
        self._weights.take_counts(counts)

    def assign(self, batch: Microbatch) -> Tensor:
        """Return the label of each image, int64, shape ``(B,)``."""
        targets: LabelTargets = batch.targets
        return targets.labels_B

    def normalizers(self, assignment: Tensor) -> Tensor:
        """Return the number of images, or the sum of the weights of their classes, float64, shape ``(1,)``."""
        if self._weights:
            return self._weights.weight_K.to(assignment.device)[assignment].sum().view(1)
        return torch.full((1,), len(assignment), dtype=torch.float64, device=assignment.device)

    def output_sums(self, outputs: dict[str, Tensor], assignment: Tensor) -> Tensor:
        """Return nothing, float64, shape ``(0,)``: the loss depends on no sums over outputs."""
        return torch.zeros(0, dtype=torch.float64, device=assignment.device)

    def loss_shares(
        self, outputs: dict[str, Tensor], assignment: Tensor, totals: Tensor
    ) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; summed over all microbatches they are the loss.

        Computed in float32 (or float64, if the outputs are), also under autocast. ``classes`` is the cross-entropy
        of the joined prediction, ``levels`` the mean of those of the levels times ``loss.level_weight``.

        Args:
            outputs: The model's: logits, shapes ``(B, K)``.
            assignment: Of the same microbatch.
            totals: The number of images of the global batch, or the sum of their weights, float64, shape ``(1,)``.
        """
        with torch.autocast(assignment.device.type, enabled=False):
            shares = {"classes": self._share(outputs["logits"], assignment, totals)}
            if self._level_names:
                levels = [self._share(outputs[name], assignment, totals) for name in self._level_names]
                shares["levels"] = torch.stack(levels).mean() * self._loss.level_weight
        return shares

    def view(self, record: ImageRecord) -> View:
        """Say that the middle of an image is looked at."""
        return make_center_view(record, self.config.data)

    def decode(self, outputs: dict[str, Tensor], sizes: Sequence[Extent]) -> list[Tensor]:
        """Return the probabilities of each image's classes, float32, shapes ``(K,)``."""
        return list(whole_output(outputs["logits"])[0].float().softmax(dim=1).cpu())

    def stitch(self, tiles: Sequence[tuple[Region, Tensor]], view: View, record: ImageRecord) -> Tensor:
        """Return what was found in the one tile of an image."""
        ((_, probabilities_K),) = tiles
        return probabilities_K

    def graph(self, dialect: Dialect) -> LogitsDecoder:
        """Return the logits as they are."""
        classes = self.model.num_classes
        return LogitsDecoder(
            (
                GraphOutput(
                    "logits",
                    ("batch", classes),
                    "logits of the classes; their softmax is the probability of each",
                ),
            )
        )

    def join_outputs(self, outputs: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the logarithms of the mean of the probabilities: logits of which the softmax is this mean."""
        logs_NBK = torch.stack([one["logits"].float().log_softmax(dim=1) for one in outputs])
        return {"logits": logs_NBK.logsumexp(dim=0) - math.log(len(outputs))}

    def compare_graph(
        self, outputs: dict[str, Tensor], graph: dict[str, Tensor], sizes: Sequence[Extent]
    ) -> list[Difference]:
        """Return how far the logits are apart; see `compare_logits`."""
        return compare_logits(outputs["logits"], graph["logits"], sizes)

    def pack(self, found: Sequence[Tensor]) -> Tensor | None:
        """Return one tensor."""
        return torch.stack(list(found)) if found else None

    def unpack(self, packed: Tensor | None) -> list[Tensor]:
        """Undo `pack`."""
        return [] if packed is None else list(packed)

    def metric(self, dataset: ClassificationDataset) -> ClassificationMetric:
        """Return top-1 and what else there is to count."""
        return ClassificationMetric(dataset)

    def draw(self, image_CHW: Tensor, prediction: Tensor, classes: Sequence[str]) -> Image.Image:
        """Write the best class into the corner."""
        return draw_class(image_CHW, prediction, classes)

    def draw_comparison(
        self, image_CHW: Tensor, prediction: Tensor, dataset: ClassificationDataset, index: int
    ) -> Image.Image:
        """Write the best class into the corner, and the true one where it is another."""
        return draw_class(image_CHW, prediction, dataset.classes, dataset.label(index))

    def draw_target(self, image_CHW: Tensor, target: int, classes: Sequence[str]) -> Image.Image:
        """Write the class of a training sample into the corner."""
        return draw_caption(image_CHW, classes[target], target)

    def rows(self, prediction: Tensor, place: Place) -> list[dict[str, Any]]:
        """Return the best classes of an image; where probabilities are kept, those of all."""
        row = class_row(prediction, place)
        if self.keeps_probabilities:
            row["probabilities"] = dict(zip(place.classes, prediction.tolist(), strict=True))
        return [row]

    def arrays(self, prediction: Tensor) -> dict[str, Tensor]:
        """Return the probability of each class."""
        return {"probabilities": prediction}

    def array_specs(self, classes: Sequence[str]) -> dict[str, tuple[str, Extent]]:
        """Return the type and shape of `arrays`."""
        return {"probabilities": ("float32", (len(classes),))}

    def table(self, rows: Sequence[dict[str, Any]]) -> ResultTable:
        """Return the best class of each image."""
        return class_table(rows)

    def _share(self, logits_BK: Tensor, labels_B: Tensor, totals: Tensor) -> Tensor:
        logits_BK, num_workers = whole_output(logits_BK)
        logits_BK = _widen(logits_BK)
        weight_K = self._weights.like(logits_BK) if self._weights else None
        losses = functional.cross_entropy(
            logits_BK, labels_B, weight_K, reduction="sum", label_smoothing=self._loss.smoothing
        )
        total = totals[0] if self._weights else totals[0].clamp(min=1)
        return losses / (total.to(device=losses.device, dtype=losses.dtype) * num_workers)


def _widen(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

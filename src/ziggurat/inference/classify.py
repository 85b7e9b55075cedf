"""Classifying images of any size, on all workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.views import make_center_view
from ziggurat.inference.tiles import Compute, Images, run_tiles
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.own import whole_output


def classify_images(model: VisionModel, images: Images, config: DataConfig, compute: Compute) -> Tensor:
    """Return the probability of each class for each image, together with the other workers.

    Args:
        model: On the worker's device; its mode (training or evaluation) is restored.
        images: The same on every worker.
        config: Resizing and crop: the middle of an image is looked at.
        compute: How the model is run.

    Returns:
        float32, shape ``(images, num_classes)``, on the CPU of every worker.

    Raises:
        UserError: On every worker, listing each image that cannot be decoded.

    Communication:
        One gather of the probabilities, after the computation.
    """

    def finish(outputs: dict[str, Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        logits_BK, _ = whole_output(outputs["logits"])
        return list(logits_BK.float().softmax(dim=1).cpu())

    views = [make_center_view(images.record(index), config) for index in range(len(images))]
    tiled = run_tiles(model, images, views, finish, compute)
    empty = torch.zeros((0, model.num_classes))
    own = torch.stack(tiled.results) if tiled.results else empty
    in_order = torch.cat(compute.mesh.dp.gather(own))
    result = torch.empty_like(in_order)
    result[torch.tensor([piece.image for piece in tiled.pieces], dtype=torch.int64)] = in_order
    return result

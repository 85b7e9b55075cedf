"""Trying a model before a run starts, on shapes alone."""

from __future__ import annotations

import copy
import itertools

import torch

from ziggurat.errors import UserError
from ziggurat.models.backbone import TIMM_ERRORS
from ziggurat.models.vision import ONE_VALUE, VisionModel
from ziggurat.torch_internals.hollow_results import HollowResults


@torch.no_grad()
def takes_one_image(model: VisionModel, side: int, bands: int = 3) -> bool:
    """Whether the model can be trained on a microbatch of one image: each batch norm gets more than one value.

    A batch norm that follows a pooling to one position has one value of each channel, as has one on a level that is
    coarser than half the image. A copy of the model is run; its running statistics stay as they are.

    Args:
        model: On the CPU, or without memory.
        side: Rows and columns of the image.
        bands: Of the image.
    """
    for device in ("meta", "cpu"):  # shapes alone cost nothing; a few networks cannot run without values
        trial = _on(device, model).train()
        try:
            with HollowResults():
                trial(torch.zeros(1, bands, side, side, device=device))
        except TIMM_ERRORS as error:
            if isinstance(error, UserError) or str(error).startswith(ONE_VALUE):
                return False
            continue
        return True
    return True  # what cannot be run at all says so itself


def _on(device: str, model: VisionModel) -> VisionModel:
    """Return a copy of a model on a device; what has no memory gets zeros."""
    trial = copy.deepcopy(model)
    if device == "meta" or not any(value.is_meta for value in trial.state_dict().values()):
        return trial.to(device)
    trial = trial.to_empty(device=device)
    for value in itertools.chain(trial.parameters(), trial.buffers()):
        value.zero_()
    return trial

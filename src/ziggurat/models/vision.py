"""What every model declares, whatever its task: facts that data, tasks and inference need."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

ONE_VALUE = "Expected more than 1 value per channel"  # how PyTorch's batch norms complain in training
Model = TypeVar("Model", bound=nn.Module)


class VisionModel(nn.Module):
    """A model of images.

    Its ``forward`` takes normalized images, shape ``(B, C, H, W)``, of any size: it pads them with zeros below and to
    the right to multiples of `size_multiple` where it needs that.

    Attributes:
        task: The name of the task that it is for.
        num_classes: Classes (a detector's without a background).
        mean: Mean of each channel, in [0, 1], that images are normalized by.
        std: Deviation of each channel, in [0, 1].
        size_multiple: Images are padded to multiples of this number.
        class_layers: Names of the layers whose outputs are the classes: weights of another number of classes leave
            them as they are.
        level_names: Outputs of single levels that a loss may supervise besides the joined one; mostly none.
        takes_samples: Whether it takes `models.images.Samples` in the place of normalized images, as an export does.
    """

    task: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size_multiple: int
    class_layers: tuple[str, ...]
    level_names: tuple[str, ...] = ()
    takes_samples: bool = False

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the model and its hooks."""
        return super().__call__(*args, **named)


def takes_samples(model: nn.Module) -> bool:
    """Return whether a model takes samples in the place of normalized images; one that says nothing of it does not."""
    return getattr(model, "takes_samples", False)


def place_model(model: Model, device: torch.device, channels_last: bool) -> Model:
    """Move a model's weights to a device and lay them out in a memory format; return the model itself."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    # PyTorch's stubs know no call with both; at run time it is one pass over the weights
    return model.to(device=device, memory_format=memory_format)  # type: ignore[call-overload, no-any-return]

"""A model of your own: python examples/own_model.py train digits --model tiny-16 --plan sp=2; also models and verify."""

import itertools

import torch
from torch import nn

from ziggurat import Family, UserError, main, register_family
from ziggurat.models.vision import VisionModel


class Tiny(VisionModel):
    """A classifier that declares the facts that its task needs, and knows of no worker."""

    task = "classify"
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    size_multiple = 1
    class_layers = ("head",)  # weights of another number of classes leave these as they are

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [3, channels, 2 * channels, 4 * channels]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1), nn.GroupNorm(4, o), nn.ReLU())
            for i, o in itertools.pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of each image's classes."""
        x = images_BCHW
        for stage in self.stages:
            x = stage(x)
        return {"logits": self.head(x.mean(dim=(2, 3)))}


def build_tiny(config, num_classes: int) -> Tiny:
    """Build ``tiny-CHANNELS``."""
    channels = config.name.removeprefix("tiny-")
    if not channels.isdecimal() or int(channels) % 4 or not int(channels):
        raise UserError(f"the channels of tiny-CHANNELS must be a multiple of 4: got '{config.name}'")
    return Tiny(int(channels), num_classes)


register_family(
    "tiny",
    Family(
        task="classify",
        recognises=lambda name: name.startswith("tiny-"),
        build=build_tiny,
        names=lambda: ["tiny-16", "tiny-32"],
    ),
)

if __name__ == "__main__":
    raise SystemExit(main())

"""What pictures show of images whose bands are not red, green and blue of 8 bits: some bands, stretched alike in all images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.config import DataConfig
from ziggurat.data.readers.layout import read_bands
from ziggurat.errors import UserError


@dataclass(frozen=True)
class Composite:
    """A picture of an image's samples.

    Attributes:
        bands: The numbers in the files, from 1, of the bands that are red, green and blue; or of the one that is grey.
        places: Their places among the bands that the network sees.
        limits: The samples of each that are black and white.
    """

    bands: tuple[int, ...] = ()
    places: tuple[int, ...] = ()
    limits: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, config: DataConfig) -> Composite:
        """Return that of a run, which its training has chosen; of runs with red, green and blue it changes nothing."""
        seen = read_bands(config.bands)
        if not seen or not config.shown or not config.stretch:
            return cls()
        bands = read_bands(config.shown) or ()
        pairs = [part.split(":") for part in config.stretch.split(",")]
        return cls(
            bands,
            tuple(seen.index(number) for number in bands),
            tuple((float(low), float(high)) for low, high in pairs),
        )

    def __call__(self, image_CHW: Tensor) -> Tensor:
        """Return the picture of an image: RGB, uint8, shape ``(3, H, W)``; what is of 8 bits already is returned as it is.

        What lies beyond the limits is black or white; where a band holds nothing, it is black.

        Args:
            image_CHW: The bands that the network sees, float32, or RGB, uint8.

        Raises:
            UserError: If nobody has said which bands are shown.

        Example:
            >>> grey = Composite((2,), (1,), ((0.0, 1000.0),))
            >>> grey(torch.tensor([[[0.0, 0.0]], [[500.0, torch.nan]]])).tolist()
            [[[128, 0]], [[128, 0]], [[128, 0]]]
        """
        if not image_CHW.is_floating_point():
            return image_CHW
        if not self.places:
            raise UserError(
                "pictures of bands in their own type need data.shown and data.stretch, which training sets: give them"
            )
        picture = torch.empty((3, *image_CHW.shape[1:]), dtype=torch.uint8)
        for channel, (place, (low, high)) in enumerate(zip(self.places, self.limits, strict=True)):
            share = (image_CHW[place] - low) / (high - low)
            picture[channel] = share.nan_to_num_(nan=0.0).clamp_(0, 1).mul_(255).round_()
        if len(self.places) == 1:
            picture[1:] = picture[0]
        return picture

    @property
    def described(self) -> str:
        """What is shown, in words; empty where images are shown as they are."""
        if not self.bands:
            return ""
        numbers = ", ".join(map(str, self.bands))
        ranges = ", ".join(f"{low:.5g} to {high:.5g}" for low, high in self.limits)
        names = "band {} as grey" if len(self.bands) == 1 else "bands {} as red, green and blue"
        return f"{names.format(numbers)}, stretched from {ranges}"


SHOWN_AS_THEY_ARE = Composite()

"""How image files are read: the same for all images of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ziggurat.config import DataConfig
from ziggurat.config.fields import BANDS
from ziggurat.data.readers.sample_range import SampleRange, read_range
from ziggurat.errors import UserError


@dataclass(frozen=True)
class Reading:
    """How image files are read: the same for all images of a data set.

    Attributes:
        samples: The range of samples of more than 8 bits; None stands for the natural one.
        extra: What becomes of bands beside colour and transparency, and of pages and frames beside the first.
        bands: The numbers, from 1, of the bands that are read in their own type; empty are all but transparency, and None stands for
            red, green and blue of 8 bits.
        layout: Of bands of their own type: how many bands without transparency each file has, 0 for any number, and the type of its samples,
            empty for any.
    """

    samples: SampleRange | None = None
    extra: Literal["refuse", "drop"] = "refuse"
    bands: tuple[int, ...] | None = None
    layout: tuple[int, str] = (0, "")

    @property
    def num_bands(self) -> int:
        """Bands of an image that is read; 0 where each has its own number."""
        return 3 if self.bands is None else len(self.bands)

    @classmethod
    def of(cls, config: DataConfig) -> Reading:
        """Return what a config says.

        Raises:
            UserError: If ``data.range`` or ``data.bands`` is none.
        """
        count, _, dtype = config.layout.rpartition(" ")
        return cls(read_range(config.range), config.extra, read_bands(config.bands), (int(count or 0), dtype))


def read_bands(text: str) -> tuple[int, ...] | None:
    """Read the setting ``data.bands``; None stands for red, green and blue of 8 bits, and empty for all.

    What is ``auto`` still has not been looked at by training, and is ``rgb``.

    Raises:
        UserError: If it is neither a word that is known nor numbers.

    Example:
        >>> read_bands("4,3,2"), read_bands("all"), read_bands("rgb")
        ((4, 3, 2), (), None)
    """
    if not BANDS.holds(text):
        raise UserError(f"data.bands must {BANDS.words}: got {text}")
    if text in ("auto", "rgb"):
        return None
    return () if text == "all" else tuple(int(part) for part in text.split(","))


AS_THEY_ARE = Reading()

"""How image files are read: the same for all images of a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ziggurat.config import DataConfig
from ziggurat.data.readers.sample_range import SampleRange, read_range


@dataclass(frozen=True)
class Reading:
    """How image files are read: the same for all images of a data set.

    Attributes:
        samples: The range of samples of more than 8 bits; None stands for the natural one.
        extra: What becomes of bands beside colour and transparency, and of pages and frames beside the first.
    """

    samples: SampleRange | None = None
    extra: Literal["refuse", "drop"] = "refuse"

    @classmethod
    def of(cls, config: DataConfig) -> Reading:
        """Return what a config says.

        Raises:
            UserError: If ``data.range`` is none.
        """
        return cls(read_range(config.range), config.extra)


AS_THEY_ARE = Reading()

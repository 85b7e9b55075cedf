"""Multi-scale training: the side of the crops changes from step to step, the same on every worker."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ziggurat.config import DataConfig
from ziggurat.data.extents import Extent
from ziggurat.data.randomness import Purpose, keyed_generator


@dataclass(frozen=True)
class CropShape:
    """The shape of a step's crops.

    Attributes:
        side: As if they were square: images are scaled along with it.
        canvas: Rows and columns, where they are not square; none is more than `side`.
    """

    side: int
    canvas: Extent | None = None

    @property
    def extent(self) -> Extent:
        """Rows and columns."""
        return (self.side, self.side) if self.canvas is None else self.canvas


def crop_sizes(config: DataConfig) -> tuple[int, ...]:
    """Return the sides that crops may have.

    Example:
        >>> crop_sizes(DataConfig(crops="48, 64")), crop_sizes(DataConfig(crop=96))
        ((48, 64), (96,))
    """
    return tuple(int(side) for side in config.crops.split(",") if side.strip()) or (config.crop,)


def crop_size(config: DataConfig, seed: int, step: int) -> int:
    """Return the rows and columns of a step's crops: one of ``crops``, as likely as any other; a pure function.

    Example:
        >>> config = DataConfig(crops="48,64,80")
        >>> [crop_size(config, 0, step) for step in range(6)] == [crop_size(config, 0, step) for step in range(6)]
        True
        >>> crop_size(DataConfig(crop=96), 0, 3)
        96
    """
    sides = crop_sizes(config)
    return sides[int(keyed_generator(seed, Purpose.SIDE, step).integers(len(sides)))]


def at_crop_size(config: DataConfig, side: int) -> DataConfig:
    """Return a config whose crops have another side, and show what they would show else: images are scaled along.

    Example:
        >>> config = at_crop_size(DataConfig(crop=64, scale_min=0.5, scale_max=1.0), 96)
        >>> config.crop, config.scale_min, config.scale_max
        (96, 0.75, 1.5)
    """
    factor = side / config.crop
    return replace(
        config, crop=side, scale_min=config.scale_min * factor, scale_max=config.scale_max * factor
    )

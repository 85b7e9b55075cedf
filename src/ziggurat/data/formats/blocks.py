"""Divides the images of a data set without a validation split into blocks for training and for validation (``data.split=blocks``)."""

from __future__ import annotations

from typing import Any

from ziggurat.config import DataConfig
from ziggurat.data.blocks import MOST_BLOCKS, Which, count_blocks, divide, natural_block
from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import Extent
from ziggurat.data.regions import MaskRegions, ObjectRegions, RegionDataset
from ziggurat.data.transforms import resize_factors
from ziggurat.errors import UserError

FEW = 8  # images, of which training says that blocks would divide them


def part_of(dataset: Dataset, part: Which, path: str, config: DataConfig) -> RegionDataset:
    """Return one of the two parts of a data set.

    Args:
        dataset: All images, with boxes or masks.
        part: Which one.
        path: Of the data set.
        config: How they are divided.

    Raises:
        UserError: If its images cannot be divided.
    """
    kind = _kind_of(dataset)
    if kind is None:
        raise UserError(
            f"data.split=blocks needs boxes or masks, which can be cut as their images are: {path} has labels of whole images, "
            "and a part of an image may not show what it is named for; put some images into a val split, or name them with "
            "data.val"
        )
    if config.resize:
        raise UserError(
            f"data.split=blocks needs images at one scale, which regions of different sizes would not have: got data.resize="
            f"{config.resize}; give data.resize=0, or data.gsd or data.mpp in its place"
        )
    extents, crop = _sizes(dataset, config)
    block = config.block or natural_block(extents, crop, config.val_share)
    count = count_blocks(extents, block)
    if not 2 <= count <= MOST_BLOCKS:
        remedy = "lower data.block" if count < 2 else "raise data.block"
        if count < 2 and not config.block:
            remedy += f" (it follows data.crop={config.crop} now)"
        raise UserError(
            f"data.split=blocks needs from 2 to {MOST_BLOCKS} blocks: the {_images(extents)} of {path} {'makes' if len(extents) == 1 else 'make'} {count} of "
            f"{block} pixels a side; {remedy}, or name validation data with data.val"
        )
    return kind(dataset, divide(extents, block, config.val_share, config.split_seed), part, config)


def divided(dataset: Dataset | None, path: str) -> RegionDataset:
    """Return a data set that was opened with ``data.split=blocks``.

    Raises:
        UserError: If the setting had no effect.
    """
    if not isinstance(dataset, RegionDataset):
        raise UserError(
            f"data.split=blocks has no effect on {path}, which has a validation split of its own; leave it out"
        )
    return dataset


def dividing_note(dataset: Dataset, path: str, config: DataConfig) -> str | None:
    """Return what is said of a data set without a validation split that blocks would give one; None of many or small images.

    Args:
        dataset: Trained on.
        path: Of the data set.
        config: How its images are seen.
    """
    if _kind_of(dataset) is None or len(dataset) > FEW or config.resize:
        return None
    extents, crop = _sizes(dataset, config)
    if count_blocks(extents, natural_block(extents, crop, config.val_share)) < 2 * len(dataset):
        return None
    return (
        f"{path} has no validation split, so nothing is measured: --set data.split=blocks evaluates on blocks of its images "
        f"({config.val_share:.0%} of their pixels) that are not trained on"
    )


def _sizes(dataset: Dataset, config: DataConfig) -> tuple[list[Extent], int]:
    """Return the extent of each image, and the side of a crop in pixels of the image in which it is largest."""
    records = [dataset.record(index) for index in range(len(dataset))]
    least = min((min(resize_factors(one.extent, config, one.spacing)) for one in records), default=1.0)
    return [one.extent for one in records], max(1, round(config.crop / least))


def _kind_of(dataset: Any) -> type[RegionDataset] | None:
    if hasattr(dataset, "objects"):
        return ObjectRegions
    return MaskRegions if hasattr(dataset, "mask") else None


def _images(extents: list[Extent]) -> str:
    sides = " x ".join(map(str, reversed(extents[0]))) if extents else ""
    return f"image of {sides} pixels" if len(extents) == 1 else f"{len(extents)} images"

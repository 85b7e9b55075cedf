"""Sets of images of other bands than red, green and blue of 8 bits, in which squares are to be found, for every task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

SIDE = 64
NEAR_INFRARED, BELOW_8_BITS = "near infrared", "below 8 bits"


def scene(shows: str, seed: int, bands: int = 4) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Return uint16 samples, shape ``(bands, SIDE, SIDE)``, the mask of squares, and their boxes ``x, y, w, h``.

    Args:
        shows: ``NEAR_INFRARED``: the last band alone shows squares; ``BELOW_8_BITS``: all bands do, by less than the upper
            8 bits of a sample tell apart.
        seed: Of the scene.
        bands: Of the image.
    """
    rng = np.random.default_rng(seed)
    samples = rng.normal(20050, 15, (bands, SIDE, SIDE))
    mask, boxes = np.zeros((SIDE, SIDE), np.uint8), []
    for _ in range(2):
        y, x = rng.integers(0, SIDE - 24, 2).tolist()
        side = int(rng.integers(16, 24))
        box = (slice(y, y + side), slice(x, x + side))
        if shows == NEAR_INFRARED:
            samples[(-1, *box)] += 3000
        else:
            samples[(slice(None), *box)] += 90
        mask[box] = 1
        boxes.append([x, y, side, side])
    return samples.round().astype(np.uint16), mask, boxes


def write_bands(path: Path, samples: np.ndarray, **options: object) -> Path:
    """Write samples, shape ``(C, H, W)``, as a TIFF whose bands have no meaning."""
    named = {"compression": "lzw", "photometric": "minisblack", "planarconfig": "contig", "metadata": None}
    if len(samples) > 1:
        named["extrasamples"] = [0] * (len(samples) - 1)
    tifffile.imwrite(path, np.moveaxis(samples, 0, -1).squeeze(), **(named | options))
    return path


def write_masks(folder: Path, shows: str, num_train: int = 8, num_val: int = 2, bands: int = 4) -> Path:
    """Write a segmentation set: images and masks of two splits."""
    for split, first, count in (("train", 0, num_train), ("val", 100, num_val)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for seed in range(first, first + count):
            samples, mask, _ = scene(shows, seed, bands)
            write_bands(folder / "images" / split / f"{seed}.tif", samples)
            Image.fromarray(mask).save(folder / "masks" / split / f"{seed}.png")
    return folder


def write_coco(folder: Path, shows: str, num_train: int = 8, num_val: int = 2, bands: int = 4) -> Path:
    """Write a detection set: one annotation file for each split."""
    (folder / "images").mkdir(parents=True)
    for split, first, count in (("train", 0, num_train), ("val", 100, num_val)):
        images, annotations = [], []
        for seed in range(first, first + count):
            samples, _, boxes = scene(shows, seed, bands)
            write_bands(folder / "images" / f"{seed}.tif", samples)
            images.append({"id": seed + 1, "file_name": f"images/{seed}.tif", "height": SIDE, "width": SIDE})
            for box in boxes:
                one = {"id": len(annotations) + 1, "image_id": seed + 1, "category_id": 1, "iscrowd": 0}
                annotations.append(one | {"bbox": box, "area": box[2] * box[3]})
        categories = [{"id": 1, "name": "square"}]
        table = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(table))
    return folder


def write_classes(folder: Path, num: int = 4, bands: int = 4) -> Path:
    """Write a classification set: images with squares in the last band, and without."""
    for split, first in (("train", 0), ("val", 100)):
        for name in ("empty", "square"):
            (folder / split / name).mkdir(parents=True)
        for seed in range(first, first + num):
            samples, _, _ = scene(NEAR_INFRARED, seed, bands)
            write_bands(folder / split / "square" / f"{seed}.tif", samples)
            samples[-1] = samples[0]
            write_bands(folder / split / "empty" / f"{seed}.tif", samples)
    return folder

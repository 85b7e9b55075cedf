"""Finding objects in the user's images: COCO results as JSON, and a picture for each image."""

from __future__ import annotations

import glob
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.images import SUFFIXES, image_size, read_image
from ziggurat.errors import UserError
from ziggurat.inference import ProgressCallback, detect_as_configured
from ziggurat.models.detector import Detector, place_model
from ziggurat.parallel.workers import Workers
from ziggurat.tasks.detection import DetectionTask, make_task
from ziggurat.tasks.detections import Detections
from ziggurat.tasks.drawing import draw_detections

RESULTS = "predictions.json"

PNG_PIXELS = 1 << 20  # larger pictures are written as JPEG: a tenth of the bytes
JPEG_QUALITY = 90
JPEG_SIDE = 65500  # the format's largest


@dataclass(frozen=True)
class ImageFiles:
    """Image files with known sizes.

    Attributes:
        paths: The files.
        sizes: Rows and columns of each, upright.
        max_pixels: Larger images are refused.
    """

    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    max_pixels: int

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image; ids count from 1."""
        return ImageRecord(self.paths[index].as_posix(), index + 1, *self.sizes[index])

    def image(self, index: int) -> Tensor:
        """Decode an image, RGB, uint8, shape ``(3, H, W)``."""
        return read_image(self.paths[index], self.max_pixels)


def predict_files(
    model: Detector,
    task: DetectionTask | None,
    classes: Sequence[str],
    category_ids: Sequence[int],
    paths: Sequence[str],
    config: RunConfig,
    workers: Workers,
    out: Path,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Find the objects of images, and write them.

    Args:
        model: Is moved to the worker's device.
        task: Decodes the model's outputs; None makes the one of the config.
        classes: The name of each label.
        category_ids: The COCO category id of each label.
        paths: Files, folders (their images, not those of folders in them) and globs.
        config: Of the run.
        workers: All of them call this.
        out: Folder of ``predictions.json`` (a list of COCO results) and of the pictures.
        progress: Called after each batch of this worker.

    Returns:
        The fields of the command's JSON object: ``images``, ``seconds``, ``images_per_second``, ``detections``,
        ``predictions`` (the file), ``pictures`` (the folder); on every worker.

    Raises:
        UserError: On every worker: nothing is found under a path, images cannot be decoded (each is listed), or
            `out` cannot be written or would overwrite an image.
    """
    begin = time.perf_counter()
    images, pictures = _agreed_input(paths, config.data.max_pixels, out, workers)
    model = place_model(model, workers.device, config.train.channels_last)
    task = task or make_task(model, config)
    found = detect_as_configured(model, task, images, config, workers, progress)
    for index in range(workers.rank, len(images), workers.size):
        save_picture(images.image(index), found[index], classes, pictures[index])
    if workers.is_first:
        results = coco_results(images, found, classes, category_ids)
        (out / RESULTS).write_text(json.dumps(results), encoding="utf-8")
    workers.barrier()
    seconds = time.perf_counter() - begin
    return {
        "images": len(images),
        "seconds": seconds,
        "images_per_second": len(images) / seconds,
        "detections": sum(len(detections) for detections in found),
        "predictions": str(out / RESULTS),
        "pictures": str(out),
    }


def expand_paths(paths: Sequence[str]) -> list[Path]:
    """Return the image files that are meant, each once, in natural order within a folder or glob.

    Args:
        paths: Files (whatever their suffix), folders and globs (``**`` stands for folders in folders).

    Raises:
        UserError: Listing every path under which there is no image.
    """
    found: dict[Path, Path] = {}  # by where it really is
    faults = []
    for path in paths:
        here = Path(path)
        if here.is_file():
            found.setdefault(here.resolve(), here)
            continue
        entries = here.iterdir() if here.is_dir() else map(Path, glob.glob(path, recursive=True))
        images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
        if not images:
            faults.append(_nothing_found(path))
        for image in sorted(images, key=natural_key):
            found.setdefault(image.resolve(), image)
    if not found and not faults:
        faults.append("no images are given: name files, folders or globs")
    if faults:
        raise UserError(faults)
    return list(found.values())


def _nothing_found(path: str) -> str:
    if Path(path).is_dir():
        return f"the folder {path} holds no images ({', '.join(SUFFIXES)}): for those of its folders, give '{path}/**/*'"
    if glob.has_magic(path):
        return f"no image matches {path}: give a file, a folder or another glob ({', '.join(SUFFIXES)})"
    return f"there is no file or folder {path}: correct the path"


def natural_key(path: Path) -> list[tuple[int, str | int]]:
    """Order names as people do.

    Example:
        >>> sorted([Path("a10.png"), Path("a9.png")], key=natural_key)[0].name
        'a9.png'
    """
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts]


def picture_names(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Return the file name of each image's picture.

    It is the image's, with the folders that tell it from others of its name, and a number if that is not enough.

    Example:
        >>> picture_names([Path("day/1.tif"), Path("night/1.tif"), Path("2.bmp")], [(8, 8)] * 3)
        ['day_1.png', 'night_1.png', '2.png']
    """
    stems = Counter(path.stem.lower() for path in paths)
    parents = [str(path.resolve().parent) for path in paths]
    common = os.path.commonpath(parents)
    taken: set[str] = set()
    names = []
    for path, parent, size in zip(paths, parents, sizes, strict=True):
        folders = Path(parent).relative_to(common).parts
        stem = path.stem if stems[path.stem.lower()] == 1 else "_".join([*folders, path.stem])
        name = next(
            n for n in (stem, *(f"{stem}-{k}" for k in range(2, len(paths) + 2))) if n.lower() not in taken
        )
        taken.add(name.lower())
        names.append(name + picture_suffix(*size))
    return names


def picture_suffix(height: int, width: int) -> str:
    """Return the format of a picture: PNG for small ones, JPEG for large ones, PNG for what JPEG cannot hold."""
    return ".jpg" if height * width > PNG_PIXELS and max(height, width) <= JPEG_SIDE else ".png"


def save_picture(image_CHW: Tensor, detections: Detections, classes: Sequence[str], path: Path) -> None:
    """Draw what was found in an image, and write it.

    Args:
        image_CHW: RGB, uint8, shape ``(3, H, W)``.
        detections: In pixels of the image.
        classes: The name of each label.
        path: Its suffix says the format.
    """
    picture = draw_detections(image_CHW, detections, classes)
    picture.save(path, quality=JPEG_QUALITY, compress_level=1)  # JPEG's and PNG's: each ignores the other's


def coco_results(
    images: ImageFiles, found: Sequence[Detections], classes: Sequence[str], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Return every detection as COCO's results have it, with the names of its image and class.

    Boxes are left, top, width and height in pixels; numbers are the shortest that read back as the same float32.
    """
    results = []
    for index, detections in enumerate(found):
        record = images.record(index)
        boxes = detections.boxes_xyxy.clone()
        boxes[:, 2:] -= boxes[:, :2]
        columns = (boxes.numpy(), detections.scores.numpy(), detections.labels.tolist())
        for box, score, label in zip(*columns, strict=True):
            results.append(
                {
                    "image_id": record.image_id,
                    "file_name": record.name,
                    "category_id": category_ids[label],
                    "category": classes[label],
                    "bbox": [float(str(value)) for value in box],
                    "score": float(str(score)),
                }
            )
    return results


def _agreed_input(
    paths: Sequence[str], max_pixels: int, out: Path, workers: Workers
) -> tuple[ImageFiles, list[Path]]:
    """Return the images, and the picture of each, as the first worker finds them; all fail together.

    Communication: one broadcast of the paths and sizes.
    """
    agreed: tuple[ImageFiles, list[Path]] | UserError | None = None
    if workers.is_first:
        try:
            images = _inspect(expand_paths(paths), max_pixels)
            agreed = images, _prepare(out, images)
        except UserError as error:
            agreed = error
    agreed = workers.share_of_first(agreed)
    if isinstance(agreed, UserError):
        raise agreed
    assert agreed is not None  # the first worker always has something to say
    return agreed


def _inspect(paths: Sequence[Path], max_pixels: int) -> ImageFiles:
    """Read the headers of all images; UserError lists every one that is not readable."""
    sizes, faults = [], []
    for path in paths:
        try:
            sizes.append(image_size(path, max_pixels))
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return ImageFiles(tuple(paths), tuple(sizes), max_pixels)


def _prepare(out: Path, images: ImageFiles) -> list[Path]:
    """Make the folder and return the file of each picture; no image may be overwritten."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the folder {out}: {error.strerror}; choose another --out") from None
    if not os.access(out, os.W_OK):
        raise UserError(f"cannot write the folder {out}: permission denied; choose another --out")
    pictures = [out / name for name in picture_names(images.paths, images.sizes)]
    inputs = {path.resolve() for path in images.paths}
    if any(picture.resolve() in inputs for picture in pictures):
        raise UserError(f"pictures in {out} would overwrite the images: choose another --out")
    return pictures

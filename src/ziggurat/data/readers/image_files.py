"""Image files that the user names: found by path, folder or glob, with a name for what is written of each."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.files import LEFT_BEHIND, walk_files
from ziggurat.data.readers.images import blank_pixels, inspect_image, read_image, read_levels, read_window
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.data.readers.pages import is_image_there, stem_of
from ziggurat.data.readers.registry import image_suffixes, is_image_folder
from ziggurat.data.readers.spacing import Scaling, Spacing, UnscaledError
from ziggurat.errors import UserError

PNG_PIXELS = 1 << 20  # larger pictures are written as JPEG: a tenth of the bytes
# in a prediction's folder, in that of one that has not ended, in a run's
_WRITTEN = (("predictions.json",), (".unfinished/request.json",), ("config.yaml", "classes.json"))
JPEG_SIDE = 65500  # the format's largest


@dataclass(frozen=True)
class ImageFiles:
    """Image files with known sizes.

    Attributes:
        paths: The files.
        sizes: Rows and columns of each, upright.
        max_pixels: Larger images are refused.
        reading: How samples become pixels.
        spacings: Distance of rows and of columns of each, as `ImageRecord` has it; empty where no setting asks for it.
    """

    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    max_pixels: int
    reading: Reading = AS_THEY_ARE
    spacings: tuple[Spacing | None, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image; ids count from 1."""
        spacing = self.spacings[index] if self.spacings else None
        return ImageRecord(self.paths[index].as_posix(), index + 1, *self.sizes[index], spacing)

    def path(self, index: int) -> Path:
        """Return the file of an image."""
        return self.paths[index]

    def image(self, index: int) -> Tensor:
        """Decode an image, RGB, uint8, shape ``(3, H, W)``."""
        return read_image(self.paths[index], self.max_pixels, self.reading)

    def levels(self, index: int) -> tuple[Extent, ...]:
        """Return the rows and columns of each level of resolution of an image, the finest first."""
        return read_levels(self.paths[index], self.sizes[index])

    def window(self, index: int, region: Region, level: int = 0) -> Tensor | None:
        """Read a window of a level of an image without the rest of its file; None where that is not possible."""
        return read_window(self.paths[index], self.max_pixels, self.sizes[index], region, self.reading, level)

    def blank(self, index: int, region: Region) -> Tensor | None:
        """Return where in a region of an image no band that is read holds anything; None if that is nowhere by its header."""
        return blank_pixels(self.paths[index], self.max_pixels, self.reading, region)


def scaled(
    images: ImageFiles,
    scaling: Scaling | None,
    spoiled: dict[str, str] | None = None,
    notes: list[str] | None = None,
) -> ImageFiles:
    """Read how far the pixels of images lie apart, where a setting asks for it.

    Args:
        images: Those whose headers are sound.
        scaling: What is asked for; None for nothing.
        spoiled: Takes what is wrong with each image that is left out, as it does not say it, by its path; None makes it an error.
        notes: Takes what is said of images that are taken as they are.

    Raises:
        UserError: Naming every image that does not say it, if `spoiled` is None.
    """
    if scaling is None:
        return images
    found: list[Spacing | None] = []
    unscaled: dict[int, str] = {}
    for index, path in enumerate(images.paths):
        try:
            found.append(scaling.spacing(path))
        except UnscaledError as error:
            unscaled[index] = str(error)
            found.append(None)
    images = replace(images, spacings=tuple(found))
    if not unscaled:
        return images
    names = {index: images.paths[index].as_posix() for index in unscaled}
    if scaling.keeps_unscaled:
        if notes is not None:
            notes.append(scaling.kept(list(names.values())))
        return images
    if spoiled is None:
        raise UserError(scaling.unscaled_images({names[index]: why for index, why in unscaled.items()}))
    spoiled |= {names[index]: f"{names[index]}: {scaling.unscaled(why)}" for index, why in unscaled.items()}
    sound = [index for index in range(len(found)) if index not in unscaled]
    return replace(
        images,
        paths=tuple(images.paths[index] for index in sound),
        sizes=tuple(images.sizes[index] for index in sound),
        spacings=tuple(found[index] for index in sound),
    )


def expand_paths(paths: Sequence[str | os.PathLike[str]], notes: list[str] | None = None) -> list[Path]:
    """Return the image files that are meant, each once, in natural order within a folder or glob.

    Args:
        paths: Files (whatever their suffix) and pages of them, folders with the folders in them, and globs (``**`` stands for folders in folders).
            Folders in a folder that a run or a prediction has written are passed over.
        notes: Takes what there is to say of the folders that were passed over.

    Raises:
        UserError: Listing every path under which there is no image.
    """
    found: dict[Path, Path] = {}  # by where it really is
    faults = []
    image_folders: list[Path] = []  # of the folder that is looked through

    def is_passed_over(folder: Path) -> bool:
        if is_image_folder(folder):
            image_folders.append(folder)
            return True
        return is_written(folder)

    def is_written(folder: Path) -> bool:
        names = next((group for group in _WRITTEN if all((folder / name).is_file() for name in group)), None)
        if names is not None and notes is not None:
            notes.append(f"the folder {folder} is passed over: ziggurat has written it ({', '.join(names)})")
        return names is not None

    for path in [os.fspath(path) for path in paths]:
        here = Path(path)
        if is_image_there(here) or is_image_folder(here):
            found.setdefault(here.resolve(), here)
            continue
        if here.is_dir():
            image_folders.clear()
            images = list(walk_files(here, image_suffixes(), is_passed_over)) + image_folders
        else:
            named = [one for one in _matches(path) if one.name.lower().endswith(image_suffixes())]
            images = [one for one in named if one.is_file() or is_image_folder(one)]
        if not images:
            faults.append(_nothing_found(path))
        for image in sorted(images, key=natural_key):
            found.setdefault(image.resolve(), image)
    if not found and not faults:
        faults.append("no images are given: name files, folders or globs")
    if faults:
        raise UserError(faults)
    return list(found.values())


def _matches(pattern: str) -> list[Path]:
    """Return what a glob means; it passes over names with a dot by itself, unless it has the dot."""
    meant = {part.lower() for part in Path(pattern).parts}
    found = map(Path, glob.glob(pattern, recursive=True))
    return [path for path in found if not LEFT_BEHIND.intersection({p.lower() for p in path.parts} - meant)]


def _nothing_found(path: str) -> str:
    if Path(path).is_dir():
        return f"the folder {path} holds no images ({', '.join(image_suffixes())}), nor do the folders in it"
    if glob.has_magic(path):
        return (
            f"no image matches {path}: give a file, a folder or another glob ({', '.join(image_suffixes())})"
        )
    return f"there is no file or folder {path}: correct the path"


def natural_key(path: Path) -> list[tuple[int, str | int]]:
    """Order names as people do.

    Example:
        >>> sorted([Path("a10.png"), Path("a9.png")], key=natural_key)[0].name
        'a9.png'
    """
    parts = re.split(r"(\d+)", path.as_posix())
    return [(0, int(part)) if part.isdecimal() and part.isascii() else (1, part) for part in parts]


def picture_names(paths: Sequence[Path], sizes: Sequence[Extent]) -> list[str]:
    """Return the file name of each image's picture.

    It is the image's, with the folders that tell it from others of its name, and a number if that is not enough.

    Example:
        >>> picture_names([Path("day/1.tif"), Path("night/1.tif"), Path("2.bmp")], [(8, 8)] * 3)
        ['day_1.png', 'night_1.png', '2.png']
    """
    stems = Counter(stem_of(path).lower() for path in paths)
    parents = [str(path.resolve().parent) for path in paths]
    common = os.path.commonpath(parents) if parents else ""
    taken: set[str] = set()
    names = []
    for path, parent, size in zip(paths, parents, sizes, strict=True):
        folders = Path(parent).relative_to(common).parts
        own = stem_of(path)
        stem = own if stems[own.lower()] == 1 else "_".join([*folders, own])
        name = next(
            n for n in (stem, *(f"{stem}-{k}" for k in range(2, len(paths) + 2))) if n.lower() not in taken
        )
        taken.add(name.lower())
        names.append(name + picture_suffix(*size))
    return names


def picture_suffix(height: int, width: int) -> str:
    """Return the format of a picture: PNG for small ones, JPEG for large ones, PNG for what JPEG cannot hold."""
    return ".jpg" if height * width > PNG_PIXELS and max(height, width) <= JPEG_SIDE else ".png"


def inspect_images(
    paths: Sequence[Path],
    max_pixels: int,
    reading: Reading = AS_THEY_ARE,
    spoiled: dict[str, str] | None = None,
) -> ImageFiles:
    """Read the headers of all images.

    Args:
        paths: The files.
        max_pixels: Larger images are refused.
        reading: How samples become pixels.
        spoiled: Takes what is wrong with each file that is left out, by its path; None makes it an error.

    Raises:
        UserError: If `spoiled` is None, listing every image that is not readable, or has no range of samples.
    """
    sound, sizes, faults = [], [], []
    for path in paths:
        try:
            sizes.append(inspect_image(path, max_pixels, reading))
            sound.append(path)
        except UserError as error:
            if spoiled is not None:
                spoiled[path.as_posix()] = str(error)
            faults += error.faults
    if faults and spoiled is None:
        raise UserError(faults)
    return ImageFiles(tuple(sound), tuple(sizes), max_pixels, reading)

"""A folder of images for each class, as torchvision's ImageFolder sees it: same classes, order and samples."""

from __future__ import annotations

from pathlib import Path

from ziggurat.data.files import entries_of, folders_of, walk_files
from ziggurat.data.formats.table import (
    SPLIT_NAMES,
    ImageRow,
    LabelRow,
    Source,
    Split,
    Table,
    relative_name,
)
from ziggurat.data.readers.registry import readers_from_outside

# Those of torchvision.datasets.folder.IMG_EXTENSIONS.
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_OF_OTHER_FORMATS = {"images", "labels", "masks", "annotations", "imagesets", "jpegimages"}


def find_class_folders(folder: Path) -> dict[Split, Source]:
    """Find ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, or ``CLASS/*.jpg``, which is the train split."""
    splits: dict[Split, Source] = {}
    for split, names in SPLIT_NAMES.items():
        inner = next((folder / name for name in names if (folder / name).is_dir()), None)
        # images without classes are a fault of a split that is trained on, and no test split
        if inner is not None and (class_names(inner) or (split != "test" and _has_images(inner))):
            splits[split] = Source("imagefolder", "labels", folder, (), (folder,), (inner,))
    if splits:
        return splits
    names_here = class_names(folder)
    if len(names_here) < 2 or _OF_OTHER_FORMATS & {name.lower() for name in names_here}:
        return {}
    if not any(_has_images(folder / name) for name in names_here):
        return {}
    return {"train": Source("imagefolder", "labels", folder, (), (folder,), (folder,))}


def read_class_folders(source: Source) -> Table:
    """List the images of each class of a split; whatever is wrong with them stands in the table's faults."""
    table = Table(source)
    (folder,) = source.listed
    names = class_names(folder)
    if not names:
        table.add_fault(folder, None, "no class folders: each class needs a folder with its images")
    for number, name in enumerate(names, start=1):
        table.categories[name] = number
        before = len(table.images)
        for path in _images_of(folder / name):
            table.labels.append(LabelRow(len(table.images), name))
            table.images.append(ImageRow(relative_name(path, source.root), None, None, path))
        if len(table.images) == before:
            fault = (
                f"empty class folder: {name!r} holds no images ({', '.join(SUFFIXES)}); add some or remove it"
            )
            table.add_fault(folder / name, None, fault)
    return table


def class_names(folder: Path) -> list[str]:
    """Return the names of the folders of a folder, as torchvision orders them."""
    return [entry.name for entry in folders_of(folder)]


def _images_of(folder: Path) -> list[Path]:
    """Return the images of a class in torchvision's order, which is that of their folders' whole names."""
    return sorted(walk_files(folder, _suffixes()), key=lambda path: (str(path.parent), path.name))


def _suffixes() -> tuple[str, ...]:
    return (*SUFFIXES, *(suffix for reader in readers_from_outside() for suffix in reader.suffixes))


def _has_images(folder: Path) -> bool:
    return any(entry.name.lower().endswith(_suffixes()) for entry in entries_of(folder))

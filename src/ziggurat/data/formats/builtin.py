"""The formats of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ziggurat.data.dataset import ClassificationDataset
from ziggurat.data.formats import writers
from ziggurat.data.formats.coco import read_coco
from ziggurat.data.formats.csv import read_csv, read_label_csv
from ziggurat.data.formats.imagefolder import read_class_folders
from ziggurat.data.formats.labelme import find_labelme, read_labelme
from ziggurat.data.formats.mask_folders import read_mask_folders
from ziggurat.data.formats.registry import Format, Write, register_format
from ziggurat.data.formats.table import Split
from ziggurat.data.formats.vectors import find_vectors, read_vectors
from ziggurat.data.formats.voc import read_voc
from ziggurat.data.formats.yolo import read_yolo


def _into(folder: str, write: Callable[[Any, Split, Sequence[str], Path], None]) -> Write:
    """Return a writer of a format whose images of a split lie in one folder."""

    def write_split(dataset: Any, split: Split, names: Sequence[str], out: Path) -> list[str]:
        write(dataset, split, names, out)
        return [folder.format(split=split)] * len(names)

    return write_split


def _class_folders(
    dataset: ClassificationDataset, split: Split, names: Sequence[str], out: Path
) -> list[str]:
    """Return the folder of each image's class, which says all."""
    return [f"{split}/{dataset.classes[dataset.label(index)]}" for index in range(len(names))]


register_format(
    Format(
        "coco",
        read={"boxes": read_coco, "outlines": read_coco},
        write={"boxes": _into("{split}", writers.write_coco)},
    )
)
register_format(
    Format(
        "csv",
        read={"boxes": read_csv, "labels": read_label_csv},
        write={
            "boxes": _into("{split}", writers.write_csv),
            "labels": _into("{split}", writers.write_label_csv),
        },
    )
)
register_format(Format("imagefolder", read={"labels": read_class_folders}, write={"labels": _class_folders}))
register_format(
    Format("labelme", read={"boxes": read_labelme, "outlines": read_labelme}, recognise=find_labelme)
)
register_format(
    Format(
        "masks",
        read={"masks": read_mask_folders},
        write=dict.fromkeys(("masks", "outlines"), _into("images/{split}", writers.write_masks)),
    )
)
register_format(
    Format("vectors", read={"boxes": read_vectors, "outlines": read_vectors}, recognise=find_vectors)
)
register_format(
    Format(
        "voc",
        read={"boxes": read_voc, "masks": read_mask_folders},
        write={"boxes": _into("JPEGImages", writers.write_voc)},
    )
)
register_format(
    Format(
        "yolo",
        read={"boxes": read_yolo, "outlines": read_yolo},
        write={"boxes": _into("images/{split}", writers.write_yolo)},
    )
)

"""Masks as labels of OME-Zarr 0.4: levels, each half the size of the one before, with the colours and names of the classes.

    ome-zarr/slide.zarr/labels/classes/0, 1, 2 ...

The image itself is not copied: labels are shown over it by napari and others, as the metadata tell the size of a pixel where the image does. Version 0.4
(Zarr of version 2) is what all of them read.

References:
    https://ngff.openmicroscopy.org/0.4/#labels-md
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ziggurat.data.readers.opened import ImageInfo
from ziggurat.inference.outputs.base import ImageResults, Output, Source
from ziggurat.inference.outputs.label_files import open_labels
from ziggurat.inference.outputs.mask_rasters import partial_folder
from ziggurat.system.packages import extra_package
from ziggurat.visualize.colors import class_color

FOLDER, LABELS = "ome-zarr", "classes"
CHUNK = 512
_VERSION = "0.4"


class OmeZarr(Output):
    """A folder for each image, in the folder ``ome-zarr``."""

    name = "ome-zarr"
    takes = ("masks",)

    def fault(self, source: Source) -> str:
        """See `Output`."""
        extra_package("zarr", "zarr", f"--format {self.name}")
        extra_package("rasterio", "geo", f"--format {self.name}")
        return ""

    def image(self, results: ImageResults) -> None:
        """See `Output`."""
        import zarr

        for row in results.rows:
            folder = self.target.folder / FOLDER / f"{results.stem}.zarr"
            with partial_folder(folder) as partial:
                root = zarr.open_group(partial / folder.name, mode="w", zarr_format=2)
                labels = root.create_group("labels")
                labels.attrs["labels"] = [LABELS]
                group = labels.create_group(LABELS)
                num_levels = _write_levels(group, row["mask"])
                group.attrs.update(self._metadata(results.info, num_levels))
                shutil.rmtree(folder, ignore_errors=True)  # that of an earlier prediction
                (partial / folder.name).replace(folder)

    def close(self) -> list[Path]:
        """See `Output`."""
        return [self.target.folder / FOLDER]

    def _metadata(self, info: ImageInfo | None, num_levels: int) -> dict[str, Any]:
        microns = None if info is None else info.microns_per_pixel
        unit = {} if microns is None else {"unit": "micrometer"}
        datasets = [
            {"path": str(level), "coordinateTransformations": _transformations(microns or (1.0, 1.0), level)}
            for level in range(num_levels)
        ]
        axes = [{"name": name, "type": "space", **unit} for name in "yx"]
        colours = [
            {"label-value": label, "rgba": [*class_color(label), 255]}
            for label in range(len(self.target.classes))
        ]
        names = [{"label-value": label, "class": name} for label, name in enumerate(self.target.classes)]
        return {
            "multiscales": [{"version": _VERSION, "name": LABELS, "axes": axes, "datasets": datasets}],
            "image-label": {"version": _VERSION, "colors": colours, "properties": names},
        }


def _transformations(microns: tuple[float, ...], level: int) -> list[dict[str, Any]]:
    """Return the scale of a level."""
    return [{"type": "scale", "scale": [size * 2**level for size in microns]}]


def _write_levels(group: Any, mask: str) -> int:
    """Write the labels of a mask at all levels, some rows at a time, and return how many levels there are."""
    from rasterio.windows import Window

    with open_labels(mask) as labels:
        rows, columns = labels.height, labels.width
        finer = _array(group, 0, rows, columns)
        for top in range(0, rows, CHUNK):
            window = Window(0, top, columns, min(CHUNK, rows - top))
            finer[top : top + CHUNK] = labels.read(1, window=window)
    level = 0
    while max(finer.shape) > CHUNK:
        level += 1
        rows, columns = (-(-size // 2) for size in finer.shape)
        coarser = _array(group, level, rows, columns)
        for top in range(0, rows, CHUNK):
            coarser[top : top + CHUNK] = finer[2 * top : 2 * (top + CHUNK)][::2, ::2]
        finer = coarser
    return level + 1


def _array(group: Any, level: int, rows: int, columns: int) -> Any:
    return group.create_array(
        str(level), shape=(rows, columns), chunks=(CHUNK, CHUNK), dtype="uint8", fill_value=0
    )

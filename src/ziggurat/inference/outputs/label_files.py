"""Reading a mask that `predict` has written, a few rows at a time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ziggurat.data.readers.gdal import OPTIONS


@contextmanager
def open_labels(file: str | Path) -> Iterator[Any]:
    """Open a file of labels (a PNG, a GeoTIFF) for the body of a ``with``, as rasterio's dataset of one band.

    GDAL decodes a PNG row by row, so that memory is that of some rows, whatever the size.
    """
    import rasterio

    with rasterio.Env(**OPTIONS):
        with quiet_places():
            dataset = rasterio.open(file)
        with dataset:
            yield dataset


@contextmanager
def quiet_places() -> Iterator[None]:
    """Let rasterio not warn of images without a georeference in the body."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield

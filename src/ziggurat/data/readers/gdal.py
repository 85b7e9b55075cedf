"""What GDAL reads: VRT, JPEG 2000 with a georeference, and rasters of its own kind; by rasterio.

TIFFs are tifffile's, which needs no GDAL, reads any number of bands and pages, and knows the georeference by the file's tags; this reader opens
them where it is asked to (GeoTIFF, COG: overviews are levels). GDAL gets one driver, by the file's kind, no network, no Python in a VRT and no
files beside the image (``.aux.xml``, ``.ovr``, world files): an image says the same wherever it is copied to. Sources of a VRT are opened, after
`vrt_sources` has seen that they are files.

A dataset of GDAL serves one thread at a time: each read borrows a handle of its own, also of each level.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.extents import Region, largest
from ziggurat.data.readers.extras import import_extra
from ziggurat.data.readers.handles import Handles
from ziggurat.data.readers.jp2_boxes import SIGNATURES, is_georeferenced
from ziggurat.data.readers.naming import naming
from ziggurat.data.readers.opened import Georeference, ImageInfo, Role
from ziggurat.data.readers.vrt_sources import HEAD, check_sources
from ziggurat.errors import UserError

# Of each kind of file GDAL's driver, by suffix.
DRIVERS = {
    ".vrt": "VRT", ".jp2": "JP2OpenJPEG", ".j2k": "JP2OpenJPEG", ".jpx": "JP2OpenJPEG", ".img": "HFA", ".asc": "AAIGrid",
    ".ntf": "NITF", ".nitf": "NITF", ".dt0": "DTED", ".dt1": "DTED", ".dt2": "DTED", ".hgt": "SRTMHGT", ".dem": "USGSDEM",
}  # fmt: skip
NAMED_ONLY = (
    ".asc",
    ".dem",
    ".dt0",
    ".dt1",
    ".dt2",
    ".hgt",
)  # elevations, and signatures: no pictures of a folder
OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "YES",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": "{none}",
    "GDAL_HTTP_MAX_RETRY": "0",
    "GDAL_HTTP_CONNECTTIMEOUT": "1",
    "GDAL_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 64 << 20,  # bytes of decoded blocks, in a process
}
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ROLES: dict[str, Role] = {"gray": "grey", "red": "red", "green": "green", "blue": "blue", "alpha": "alpha"}
_COLOURS: tuple[Role, ...] = ("red", "green", "blue", "alpha")
_opening = threading.Lock()  # filters of warnings are the process's


class GdalReader:
    """Opens rasters that GDAL knows."""

    suffixes: Sequence[str] = tuple(suffix for suffix in DRIVERS if suffix not in NAMED_ONLY)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether it is for this reader; JPEG 2000 without a georeference is others', and so are TIFFs."""
        if head.startswith(SIGNATURES):
            return find_spec("rasterio") is not None and is_georeferenced(path)
        return head.lstrip().startswith(HEAD) or (
            path.suffix.lower() in DRIVERS and not head.startswith(TIFF_HEADS)
        )

    @contextmanager
    def open(self, path: Path, page: int | None) -> Iterator[GdalImage]:
        """Open an image; see `ImageReader`."""
        if page:
            raise UserError(f"the image {path} has one page: got page {page}; leave the page away")
        rasterio = import_extra("rasterio", "geo", path)
        with path.open("rb") as file:
            head = file.read(64)
        driver = "GTiff" if head.startswith(TIFF_HEADS) else DRIVERS.get(path.suffix.lower(), "VRT")
        if head.lstrip().startswith(HEAD):
            driver = "VRT"
        if driver == "VRT":
            check_sources(path)
        with naming(path, _reason), rasterio.Env(**OPTIONS):
            image = GdalImage(path, driver)
        try:
            yield image
        finally:
            image.close()


class GdalImage:
    """An opened raster.

    Args:
        path: The file.
        driver: GDAL's.
    """

    def __init__(self, path: Path, driver: str) -> None:
        self._path, self._driver = path, driver
        self._handles = Handles(self._open)
        with self._handles.lend(0) as dataset:
            self._check(dataset)
            self._palette = _palette(dataset)
            self._has_mask = _has_mask(dataset)
            self._info = self._read_info(dataset)

    @property
    def info(self) -> ImageInfo:
        """What the header says."""
        return self._info

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return the samples of a region of a level; see `OpenedImage`."""
        import rasterio
        from rasterio.windows import Window

        window = Window(region.left, region.top, region.width, region.height)
        if not region.volume:
            return np.empty((self._info.bands, *region.size), self._info.dtype)
        with naming(self._path, _reason), rasterio.Env(**OPTIONS), self._handles.lend(level) as dataset:
            if self._palette is not None:
                return np.ascontiguousarray(self._palette[:, dataset.read(1, window=window)])
            samples: np.ndarray = dataset.read(window=window, out_dtype=self._info.dtype)
            if self._has_mask:
                mask = dataset.dataset_mask(window=window)[None] != 0
                samples = np.concatenate([samples, mask * _top(samples.dtype)]).astype(samples.dtype)
            return samples

    def close(self) -> None:
        """Close all handles."""
        self._handles.close()

    def _open(self, level: int) -> Any:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

        more = {} if level == 0 else {"overview_level": level - 1}
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(self._path, driver=self._driver, sharing=False, **more)

    def _check(self, dataset: Any) -> None:
        """Refuse what cannot be read as one picture, before anything is decoded."""
        if not dataset.count:
            raise UserError(
                f"the image {self._path} holds several rasters, and none of its own: save the one that is meant"
            )
        if any(name.startswith("complex") for name in dataset.dtypes):
            raise UserError(f"the image {self._path} has complex samples: save amplitude and phase as bands")

    def _read_info(self, dataset: Any) -> ImageInfo:
        counts = {len(dataset.overviews(number)) for number in dataset.indexes}
        levels = [(dataset.height, dataset.width)]
        for level in range(1, 1 + min(counts)):
            with self._handles.lend(level) as smaller:
                levels.append((smaller.height, smaller.width))
        dtype = np.result_type(*dataset.dtypes)
        known = set(dataset.nodatavals)
        bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
        return ImageInfo(
            tuple(levels),
            dtype.name,
            self._roles(dataset),
            int(bits) if bits else 8 * dtype.itemsize,
            known.pop() if len(known) == 1 and self._palette is None else None,
            _georeference(dataset),
            names=_names(dataset),
            block=largest(dataset.block_shapes),
        )

    def _roles(self, dataset: Any) -> tuple[Role, ...]:
        if self._palette is not None:
            return _COLOURS[: len(self._palette)]
        roles: tuple[Role, ...] = tuple(_ROLES.get(one.name, "other") for one in dataset.colorinterp)
        return (*roles, "alpha") if self._has_mask else roles


def _palette(dataset: Any) -> np.ndarray | None:
    """Return the colours of an image of indices, shape ``(3 or 4, colours)``; None of others."""
    if (
        dataset.count != 1
        or dataset.colorinterp[0].name != "palette"
        or dataset.dtypes[0] not in ("uint8", "uint16")
    ):
        return None
    colours = np.zeros((4, 1 << 8 * np.dtype(dataset.dtypes[0]).itemsize), np.uint8)
    colours[3] = 255
    for index, colour in dataset.colormap(1).items():
        colours[:, index] = colour
    return colours if (colours[3] < 255).any() else colours[:3]


def _names(dataset: Any) -> tuple[str, ...]:
    """Return what the file calls its bands; nothing where it names none."""
    names = tuple(name or "" for name in dataset.descriptions)
    return names if any(names) else ()


def _has_mask(dataset: Any) -> bool:
    """Whether an image has a mask that is neither a band of it nor its nodata."""
    flags = {flag.name for flag in dataset.mask_flag_enums[0]}
    return "per_dataset" in flags and "alpha" not in flags


def _top(dtype: np.dtype[Any]) -> int:
    """Return the sample of what is opaque."""
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1


def _georeference(dataset: Any) -> Georeference | None:
    """Return where the image lies; GCPs and RPCs, which are no transform, are not taken."""
    if dataset.transform.is_identity:
        return None
    return Georeference(tuple(dataset.transform)[:6], dataset.crs.to_wkt() if dataset.crs else "")


def _reason(error: Exception) -> str:
    """Return why GDAL cannot read: rasterio says "see previous exception" where GDAL has said it."""
    return str(error.__cause__ or error)

"""Zarr: arrays in chunks, of version 2 and 3, and OME-Zarr (0.1 to 0.5), whose levels, axes and pixel sizes its metadata tell.

An image has the axes y and x, and may have c, its bands. Others (time, depth) must have one place: which of several is meant, nobody says. Only
codecs that compress or rearrange are run: Zarr of version 2 can also name ``pickle``, which runs what a file says.

References:
    https://ngff.openmicroscopy.org/0.5/ (multiscales, axes, coordinateTransformations, omero)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ziggurat.data.extents import Region
from ziggurat.data.readers.extras import import_extra
from ziggurat.data.readers.naming import naming
from ziggurat.data.readers.opened import ImageInfo, Role
from ziggurat.errors import UserError

MARKS = ("zarr.json", ".zgroup", ".zarray")
_OLD_AXES = ("t", "c", "z", "y", "x")  # of OME-Zarr before 0.3
_MICRONS = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
}
_CODECS = {
    "blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "lzf", "delta", "fixedscaleoffset", "packbits", "shuffle", "bitround", "quantize", "crc32",
    "crc32c", "adler32", "fletcher32", "jenkins_lookup3", "bytes", "transpose", "sharding_indexed", "endian",
}  # fmt: skip
_PRIMARY = ("FF0000", "00FF00", "0000FF")
_COLOURS: tuple[Role, ...] = ("red", "green", "blue", "alpha")
_OTHER: Role = "other"


class ZarrReader:
    """Opens folders that are Zarr arrays, or groups with the levels of an image."""

    suffixes: Sequence[str] = (".zarr",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """Whether a folder is Zarr's."""
        return path.is_dir() and any((path / mark).is_file() for mark in MARKS)

    @contextmanager
    def open(self, path: Path, page: int | None) -> Iterator[ZarrImage]:
        """Open an image; see `ImageReader`."""
        import_extra("zarr", "zarr", path)
        if page:
            raise UserError(f"the image {path} has one page: got page {page}; leave the page away")
        with naming(path):
            image = _opened(path)
        yield image


class ZarrImage:
    """An opened image.

    Args:
        path: The folder.
        arrays: Of each level, the finest first.
        axes: The name of each dim.
        info: What the metadata say.
    """

    def __init__(self, path: Path, arrays: Sequence[Any], axes: Sequence[str], info: ImageInfo) -> None:
        self._path, self._arrays, self._axes, self._info = path, arrays, axes, info

    @property
    def info(self) -> ImageInfo:
        """What the metadata say."""
        return self._info

    def read(self, region: Region, level: int = 0) -> np.ndarray:
        """Return the samples of a region of a level; see `OpenedImage`."""
        rows, columns = region.slices
        index = {"y": rows, "x": columns, "c": slice(None)}
        with naming(self._path):
            samples = np.asarray(self._arrays[level][tuple(index.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in index]
        if "c" not in kept:
            samples, kept = samples[None], ["c", *kept]
        samples = samples.transpose([kept.index(axis) for axis in "cyx"])
        return np.ascontiguousarray(samples, dtype=self._info.dtype)


def _opened(path: Path) -> ZarrImage:
    import zarr
    from zarr.storage import LocalStore

    node = zarr.open(LocalStore(path, read_only=True), mode="r")
    if isinstance(node, zarr.Array):
        arrays, axes, attributes, scale = [node], _axes_of(node), {}, None
    else:
        attributes = dict(node.attrs)
        attributes = attributes.get("ome", attributes)
        arrays, axes, scale = _levels(path, node, attributes)
    for array in arrays:
        _check(path, array, axes)
    dtype = arrays[0].dtype.newbyteorder("=")
    sides = [axes.index("y"), axes.index("x")]
    bands = arrays[0].shape[axes.index("c")] if "c" in axes else 1
    roles, names = _roles(attributes, bands, dtype)
    info = ImageInfo(
        tuple(tuple(array.shape[side] for side in sides) for array in arrays),
        "uint8" if dtype.kind == "b" else dtype.name,
        roles,
        1 if dtype.kind == "b" else 8 * dtype.itemsize,
        microns_per_pixel=None if scale is None else tuple(scale[side] for side in sides),
        names=names,
        block=tuple(arrays[0].chunks[side] for side in sides),
    )
    return ZarrImage(path, arrays, axes, info)


def _levels(
    path: Path, group: Any, attributes: Mapping[str, Any]
) -> tuple[list[Any], list[str], list[float] | None]:
    """Return the arrays of an OME-Zarr image, the axes, and the microns of a pixel along each, if they are told."""
    multiscales = attributes.get("multiscales")
    if not multiscales:
        names = sorted(name for name, _ in group.arrays())
        if len(names) == 1:
            return [group[names[0]]], _axes_of(group[names[0]]), None
        raise UserError(
            f"the image {path} is a Zarr group without the metadata of an image (OME-Zarr's multiscales): name one of its arrays"
            f" ({', '.join(f'{path.name}/{name}' for name in names[:6]) or 'it has none'})"
        )
    first = multiscales[0]
    places = [str(one["path"]) for one in first["datasets"]]
    if any(".." in place.split("/") or place.startswith("/") for place in places):
        raise UserError(
            f"the image {path} names levels outside of it ({', '.join(places)}): make its metadata again"
        )
    arrays = [group[place] for place in places]
    told = first.get("axes") or _OLD_AXES[-len(arrays[0].shape) :]
    axes = [str(axis["name"] if isinstance(axis, Mapping) else axis).lower() for axis in told]
    return arrays, axes, _microns(first, told)


def _microns(image: Mapping[str, Any], axes: Sequence[Any]) -> list[float] | None:
    """Return the microns of a pixel along each axis at full resolution; None where rows' or columns' unit is not told."""
    scale = np.ones(len(axes))
    for one in (
        *image["datasets"][0].get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ):
        if one.get("type") == "scale" and len(one["scale"]) == len(axes):
            scale = scale * np.array(one["scale"], dtype=float)
    units = [_MICRONS.get(str(axis.get("unit"))) if isinstance(axis, Mapping) else None for axis in axes]
    known = {str(axis["name"]).lower() for axis, unit in zip(axes, units, strict=True) if unit is not None}
    if not {"y", "x"} <= known:
        return None
    return [float(size) * (unit or 1.0) for size, unit in zip(scale, units, strict=True)]


def _axes_of(array: Any) -> list[str]:
    """Return the axes of an array that says none: rows and columns, with bands behind them if there are four at most, else before."""
    named = getattr(array.metadata, "dimension_names", None)
    if named and all(named) and {"y", "x"} <= {str(name).lower() for name in named}:
        return [str(name).lower() for name in named]
    if array.ndim == 3 and array.shape[-1] <= 4 < array.shape[0]:
        return ["y", "x", "c"]
    return ["y", "x"] if array.ndim == 2 else [*("?" * (array.ndim - 3)), "c", "y", "x"][-array.ndim :]


def _check(path: Path, array: Any, axes: Sequence[str]) -> None:
    """Refuse what is no picture, or what would run more than decompression.

    Raises:
        UserError: Naming what it is.
    """
    if len(array.shape) != len(axes) or not {"y", "x"} <= set(axes):
        raise UserError(
            f"an image has the axes y and x, and may have c: {path} has {len(array.shape)} dims and the axes {', '.join(axes)}; "
            "save the image that is meant"
        )
    longer = [
        f"{axis} of {size}"
        for axis, size in zip(axes, array.shape, strict=True)
        if axis not in "cyx" and size != 1
    ]
    if longer:
        raise UserError(
            f"axes beside c, y and x must have one place: {path} has {', '.join(longer)}; save the one that is meant"
        )
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"the image {path} has samples of type {array.dtype}, which are no numbers of an image"
        )
    others = sorted(set(_codecs(array.metadata.to_dict())) - _CODECS)
    others = [name for name in others if not name.startswith("imagecodecs_")]
    if others:
        raise UserError(
            f"the image {path} is written by {', '.join(others)}, which is not run here: write it with zstd, blosc or gzip"
        )


def _codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs in an array's metadata, of shards too."""
    if isinstance(metadata, Mapping):
        for key, value in metadata.items():
            if key in ("codecs", "index_codecs", "filters", "compressor") and value:
                for one in value if isinstance(value, (list, tuple)) else [value]:
                    config = (
                        one
                        if isinstance(one, Mapping)
                        else one.to_dict()
                        if hasattr(one, "to_dict")
                        else one.get_config()
                    )
                    yield str(config.get("id") or config.get("name")).removeprefix("numcodecs.")
                    yield from _codecs(config)
            elif key == "configuration":
                yield from _codecs(value)


def _roles(
    attributes: Mapping[str, Any], bands: int, dtype: np.dtype[Any]
) -> tuple[tuple[Role, ...], tuple[str, ...]]:
    """Return what each band is, and what it is called."""
    channels = attributes.get("omero", {}).get("channels", ())
    told = [one if isinstance(one, Mapping) else {} for one in channels][:bands]
    names = tuple(str(one.get("label", "")) for one in told)
    colours = tuple(str(one.get("color", "")).upper() for one in told)
    is_colour = colours == _PRIMARY if any(colours) else dtype == np.uint8 and bands in (3, 4)
    if bands == 1:
        return ("grey",), names if any(names) else ()
    others = (_OTHER,) * bands
    return _COLOURS[:bands] if is_colour else others, names if any(names) else ()

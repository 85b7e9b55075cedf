"""A corpus of small image files of every kind, each with its samples as another library reads the whole of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageOps

from support.tiff_files import CMYK, DEFLATE, GREY, PALETTE, write_tiff

ROWS, COLUMNS = 61, 47


@dataclass(frozen=True)
class Case:
    """A file, and what is in it.

    Attributes:
        name: Of the file, with a page where one is named.
        levels: The samples of each level, as they are to be read, shape ``(C, H, W)``.
        facts: What the header must say: attributes of `ImageInfo`.
    """

    name: str
    levels: tuple[np.ndarray, ...]
    facts: dict[str, Any]


def samples_of(dtype: str, bands: int, seed: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> np.ndarray:
    """Return samples that compress a little, shape ``(H, W, bands)``, or ``(H, W)`` of one band."""
    rng = np.random.default_rng(seed)
    full = (*shape, bands) if bands > 1 else shape
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 300, full).astype(dtype)
    info = np.iinfo(dtype)
    noise = rng.integers(info.min, info.max, full, dtype=dtype, endpoint=True)
    noise[: shape[0] // 2] = rng.integers(0, 4, 1)  # flat
    return noise


def by_tifffile(path: Path, **options: Any) -> np.ndarray:
    """Return what tifffile reads of a whole page, shape ``(C, H, W)``."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[options.get("key", 0)]
        found = page.asarray()
        if found.ndim == 2:
            return found[None]
        return found if page.planarconfig == 2 else np.moveaxis(found, -1, 0)


def by_pillow(path: Path) -> np.ndarray:
    """Return what Pillow reads of a whole image, turned upright, shape ``(C, H, W)``."""
    with Image.open(path) as image:
        found = np.asarray(ImageOps.exif_transpose(image))
    return found[None] if found.ndim == 2 else np.moveaxis(found, -1, 0)


LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 7},
    "one strip": {"rowsperstrip": ROWS},
    "tiles": {"tile": (16, 32)},
}
COMPRESSIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deflate": {"compression": "zlib"},
    "lzw": {"compression": "lzw"},
    "zstd": {"compression": "zstd"},
    "packbits": {"compression": "packbits"},
    "lzma": {"compression": "lzma"},
}
# types, bands, in planes, order of bytes, predictor
SAMPLES = [
    ("uint8", 1, False, "<", 1), ("uint8", 3, False, "<", 2), ("uint16", 4, False, ">", 1), ("uint16", 12, True, "<", 2),
    ("uint32", 2, False, "<", 1), ("float32", 1, False, "<", 3), ("float32", 5, True, ">", 1), ("float16", 3, False, "<", 3),
    ("float64", 1, False, ">", 3), ("int16", 3, True, "<", 2), ("int8", 1, False, "<", 1), ("uint16", 3, False, ">", 2),
    ("uint8", 12, False, "<", 1), ("int32", 1, False, ">", 2), ("uint8", 4, True, "<", 1),
]  # fmt: skip


def tiff_cases(folder: Path) -> Iterator[Case]:
    """Write layouts x compressions, each with five of the kinds of samples, so that each kind meets each layout."""
    kinds = itertools.cycle(SAMPLES)
    for (layout, place), (compression, codec) in itertools.product(LAYOUTS.items(), COMPRESSIONS.items()):
        for _ in range(5):
            dtype, bands, is_planar, order, predictor = next(kinds)
            if compression in ("plain", "packbits"):  # they have none
                predictor = 1
            name = f"{layout} {compression} {dtype} {bands}{' planar' * is_planar} {order} {predictor}.tif"
            samples = samples_of(dtype, bands, len(name))
            if is_planar:
                samples = np.ascontiguousarray(np.moveaxis(samples, -1, 0))
            options = {"photometric": "minisblack", "metadata": None, "byteorder": order, **place, **codec}
            options |= {"planarconfig": "separate" if is_planar else "contig"} if bands > 1 else {}
            options |= {"predictor": predictor} if predictor > 1 else {}
            tifffile.imwrite(folder / name, samples, **options)
            facts = {"dtype": dtype, "bands": bands, "bits": np.dtype(dtype).itemsize * 8}
            yield Case(name, (by_tifffile(folder / name),), facts)
        next(kinds)  # 16 steps for 15 kinds: another five the next time


PICTURES: dict[str, tuple[int, dict[str, Any]]] = {
    "jpeg grey": (1, {"compression": "jpeg", "tile": (16, 32)}),
    "jpeg strips": (3, {"compression": "jpeg", "rowsperstrip": 16, "photometric": "ycbcr", "subsampling": (2, 2)}),
    "jpeg tiles": (3, {"compression": "jpeg", "tile": (32, 32), "photometric": "rgb"}),
    "jpeg planar": (3, {"compression": "jpeg", "tile": (16, 16), "photometric": "rgb", "planarconfig": "separate"}),
    "webp": (3, {"compression": "webp", "tile": (16, 32), "photometric": "rgb"}),
    "jpeg 2000": (3, {"compression": "jpeg2000", "tile": (32, 32), "photometric": "rgb"}),
    "jpeg xl": (3, {"compression": "jpegxl", "tile": (32, 32), "photometric": "rgb"}),
    "lerc": (1, {"compression": "lerc", "tile": (16, 16)}),
    "png": (3, {"compression": "png", "tile": (16, 16), "photometric": "rgb"}),
}  # fmt: skip


def picture_cases(folder: Path) -> Iterator[Case]:
    """Write TIFFs whose strips or tiles are pictures of other formats."""
    for name, (bands, options) in PICTURES.items():
        samples = samples_of("uint8", bands, 3)
        if options.get("planarconfig"):
            samples = np.ascontiguousarray(np.moveaxis(samples, -1, 0))
        tifffile.imwrite(
            folder / f"{name}.tif", samples, **{"photometric": "minisblack", "metadata": None, **options}
        )
        yield Case(f"{name}.tif", (by_tifffile(folder / f"{name}.tif"),), {"bands": bands})


def pyramid_cases(folder: Path) -> Iterator[Case]:
    """Write pyramids, by SubIFDs and by reduced pages, an OME-TIFF, stacks, and what says where it lies."""
    levels = [samples_of("uint16", 3, 4, (96 >> level, 80 >> level)) for level in range(3)]
    tiles = {"tile": (16, 16), "photometric": "rgb", "compression": "zlib"}
    extents = {"levels": ((96, 80), (48, 40), (24, 20))}
    expected = tuple(np.moveaxis(level, -1, 0) for level in levels)
    with tifffile.TiffWriter(folder / "subifds.ome.tif", ome=True) as tiff:
        metadata = {
            "axes": "YXS",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 250,
            "PhysicalSizeYUnit": "nm",
        }
        tiff.write(levels[0], subifds=2, metadata=metadata, **tiles)
        for level in levels[1:]:
            tiff.write(level, subfiletype=1, **tiles)
    yield Case("subifds.ome.tif", expected, {**extents, "microns_per_pixel": (0.25, 0.5), "pages": 1})
    with tifffile.TiffWriter(folder / "reduced.tif", bigtiff=True) as tiff:
        for level in levels:
            tiff.write(level, subfiletype=int(level is not levels[0]), metadata=None, **tiles)
    yield Case("reduced.tif", expected, {**extents, "pages": 1})
    stack = np.stack([samples_of("uint16", 1, seed) for seed in range(4)])
    tifffile.imwrite(folder / "stack.tif", stack, photometric="minisblack", metadata=None, compression="lzw")
    for page in (0, 3):
        yield Case(f"stack.tif#{page}", (by_tifffile(folder / "stack.tif", key=page),), {"pages": 4})
    options = {"imagej": True, "resolution": (4, 2), "metadata": {"unit": "um", "axes": "ZYX"}}
    for name, is_one_page in (("imagej.tif", False), ("imagej in one page.tif", True)):
        tifffile.imwrite(folder / name, stack, truncate=is_one_page, **options)
        for page in (0, 2):
            facts = {"pages": 4, "microns_per_pixel": (0.5, 0.25)}
            yield Case(f"{name}#{page}", (stack[page][None],), facts)
    places = {33550: (2.0, 4.0, 0.0), 33922: (0.0, 0.0, 0.0, 500.0, 9000.0, 0.0)}
    extratags = [(tag, 12, len(values), values, True) for tag, values in places.items()] + [
        (42113, 2, 5, "-999", True)
    ]
    tifffile.imwrite(folder / "place.tif", samples_of("int16", 1, 2), extratags=extratags, metadata=None)
    yield Case("place.tif", (by_tifffile(folder / "place.tif"),), {"nodata": -999.0, "bits": 16})


def odd_tiff_cases(folder: Path) -> Iterator[Case]:
    """Write TIFFs whose samples are packed, turned, or other than the colours that they mean."""
    for bits in (1, 2, 4, 12):
        samples = samples_of("uint16", 1, bits) % (1 << bits)
        for order, tile in (("<", 0), (">", 16)):
            name = f"{bits} bits {order}.tif"
            write_tiff(folder / name, samples, bits=bits, order=order, tile=tile, compression=DEFLATE)
            yield Case(name, (samples[None],), {"bits": bits, "dtype": "uint8" if bits < 9 else "uint16"})
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    table = tuple(int(value) * 257 for value in colours.T.reshape(-1))
    numbers = samples_of("uint8", 1, 5)
    write_tiff(folder / "palette.tif", numbers, photometric=PALETTE, tags={320: table}, rows_per_strip=9)
    yield Case("palette.tif", (np.moveaxis(colours[numbers], -1, 0),), {"roles": ("red", "green", "blue")})
    inks = samples_of("uint8", 4, 6)
    write_tiff(folder / "cmyk.tif", inks, photometric=CMYK, tile=16)
    found = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    yield Case("cmyk.tif", (np.moveaxis(found, -1, 0),), {"roles": ("red", "green", "blue")})
    write_tiff(folder / "inverted.tif", numbers, photometric=-1, rows_per_strip=9)
    yield Case("inverted.tif", (255 - numbers[None],), {"roles": ("grey",)})
    write_tiff(
        folder / "infrared.tif", samples_of("uint16", 4, 7), photometric=GREY, extra=(0, 0, 2), tile=16
    )
    yield Case(
        "infrared.tif",
        (by_tifffile(folder / "infrared.tif"),),
        {"roles": ("grey", "other", "other", "alpha")},
    )
    for options in ({"compression": "group4"}, {"compression": "group3"}, {"compression": "tiff_ccitt"}):
        name = f"{options['compression']}.tif"
        Image.fromarray(samples_of("uint8", 1, 8) > 99).save(folder / name, **options)
        yield Case(name, (by_pillow(folder / name).astype(np.uint8),), {"bits": 1})


def turned_cases(folder: Path) -> Iterator[Case]:
    """Write images that EXIF turns."""
    plain = Image.fromarray(
        np.kron(samples_of("uint8", 3, 9), np.ones((2, 2, 1), dtype=np.uint8))[:ROWS, :COLUMNS]
    )
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[274] = turn
        plain.save(folder / f"turned {turn}.jpg", exif=exif)
        plain.save(folder / f"turned {turn}.tif", compression="tiff_lzw", tiffinfo={274: turn, 278: 8})
        for suffix in ("jpg", "tif"):
            name = f"turned {turn}.{suffix}"
            yield Case(name, (by_pillow(folder / name),), {"orientation": turn})


def other_cases(folder: Path) -> Iterator[Case]:
    """Write images of all other formats."""
    colour, grey, deep = samples_of("uint8", 3, 10), samples_of("uint8", 1, 11), samples_of("uint16", 1, 12)
    writers: dict[str, Callable[[Path], object]] = {
        "colour.png": lambda path: Image.fromarray(colour).save(path),
        "grey.png": lambda path: Image.fromarray(grey).save(path),
        "deep.png": lambda path: Image.fromarray(deep).save(path),
        "alpha.png": lambda path: Image.fromarray(samples_of("uint8", 4, 13)).save(path),
        "colour.bmp": lambda path: Image.fromarray(colour).save(path),
        "grey.bmp": lambda path: Image.fromarray(grey).save(path),
        "colour.ppm": lambda path: Image.fromarray(colour).save(path),
        "grey.pgm": lambda path: Image.fromarray(grey).save(path),
        "colour.jpg": lambda path: Image.fromarray(colour).save(path),
        "grey.jpg": lambda path: Image.fromarray(grey).save(path),
        "colour.webp": lambda path: Image.fromarray(colour).save(path, lossless=True),
        "colour.jp2": lambda path: Image.fromarray(colour).save(path, irreversible=False),
        "deep.jp2": lambda path: Image.fromarray(deep).save(path, irreversible=False),
    }
    for name, write in writers.items():
        write(folder / name)
        yield Case(name, (by_pillow(folder / name),), {})
    for bands in (2, 3, 4):
        samples = samples_of("uint16", bands, 14)
        (folder / f"deep {bands}.png").write_bytes(imagecodecs.png_encode(samples))
        yield Case(f"deep {bands}.png", (np.moveaxis(samples, -1, 0),), {"bits": 16})
        (folder / f"deep {bands}.jp2").write_bytes(
            imagecodecs.jpeg2k_encode(samples >> 4, bitspersample=12, level=0)
        )
        yield Case(f"deep {bands}.jp2", (np.moveaxis(samples >> 4, -1, 0),), {"bits": 12})
    for name, image in (
        ("palette.png", Image.fromarray(colour).quantize(16)),
        ("palette.gif", Image.fromarray(colour).quantize(64)),
    ):
        image.save(folder / name)
        yield Case(
            name, (np.moveaxis(np.asarray(image.convert("RGB")), -1, 0),), {"roles": ("red", "green", "blue")}
        )
    inks = Image.fromarray(colour).convert("CMYK")
    inks.save(folder / "cmyk.jpg")
    with Image.open(folder / "cmyk.jpg") as opened:
        found = np.moveaxis(np.asarray(opened.convert("RGB")), -1, 0)
    yield Case("cmyk.jpg", (found,), {"bands": 3})


def write_corpus(folder: Path) -> list[Case]:
    """Write all files, and return what is in each."""
    parts = (tiff_cases, picture_cases, pyramid_cases, odd_tiff_cases, turned_cases, other_cases)
    return [case for part in parts for case in part(folder)]

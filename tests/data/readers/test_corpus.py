"""Every region of every file of the corpus is that of the whole, bit by bit, as another library reads the whole."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import tifffile

from support.image_corpus import Case, write_corpus
from ziggurat.data.extents import Extent, Region
from ziggurat.data.readers.opened import OpenedImage
from ziggurat.data.readers.registry import open_image_file
from ziggurat.data.readers.tiff.reader import TiffReader
from ziggurat.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Case]]:
    folder = tmp_path_factory.mktemp("corpus")
    return folder, write_corpus(folder)


def regions(extent: Extent, seed: int) -> list[Region]:
    """Return the whole, corners, an empty one, and odd ones."""
    rows, columns = extent
    rng = np.random.default_rng(seed)
    found = [
        Region.whole(extent),
        Region((0, 0), (1, 1)),
        Region((rows - 1, columns - 1), (1, 1)),
        Region((rows // 2, 0), (1, columns)),
        Region((0, columns // 2), (rows, 1)),
        Region((3, 2), (0, 5)),
    ]
    for _ in range(4):
        top, left = int(rng.integers(rows)), int(rng.integers(columns))
        size = int(rng.integers(1, rows - top + 1)), int(rng.integers(1, columns - left + 1))
        found.append(Region((top, left), size))
    return found


def faults_of(case: Case, opened: AbstractContextManager[OpenedImage]) -> list[str]:
    """Return what is wrong with how a file is read."""
    faults = []
    with opened as image:
        info = image.info
        extents = tuple(level.shape[1:] for level in case.levels)
        said = {name: getattr(info, name) for name in case.facts}
        if said != case.facts or info.levels != extents or info.bands != len(case.levels[0]):
            faults.append(f"{case.name}: {said} and {info.levels}, not {case.facts} and {extents}")
        for number, expected in enumerate(case.levels):
            for region in regions(extents[number], len(case.name)):
                found, part = image.read(region, number), expected[region.last_dims]
                # not a number is equal to none
                is_same = found.shape == part.shape and np.array_equal(
                    found, part, equal_nan=part.dtype.kind == "f"
                )
                if not is_same or found.dtype.name != info.dtype:
                    faults.append(f"{case.name}: level {number}, {region}")
    return faults


def test_every_region_is_that_of_the_whole(corpus: tuple[Path, list[Case]]) -> None:
    folder, cases = corpus
    faults = [fault for case in cases for fault in faults_of(case, open_image_file(folder / case.name))]
    assert not faults, "\n".join(faults)
    files = {case.name.partition("#")[0] for case in cases}
    assert len(files) >= 80
    print(f"{len(files)} files, {sum(len(case.levels) for case in cases)} pictures")


def test_strips_that_are_too_large_to_be_kept(corpus: tuple[Path, list[Case]]) -> None:
    """Of those that are not compressed, or by deflate, the rows of a region are decoded without the rows behind them."""
    folder, cases = corpus
    reader = TiffReader(kept_bytes=0, kept_alone=0)
    cases = [case for case in cases if "deflate" in case.name or "lzw" in case.name or "bits" in case.name]
    assert len(cases) > 30
    faults = [fault for case in cases for fault in faults_of(case, reader.open(folder / case.name, None))]
    assert not faults, "\n".join(faults)


def test_a_page_that_is_not_there(corpus: tuple[Path, list[Case]]) -> None:
    folder, _ = corpus
    for name, count in (("stack.tif", 4), ("imagej.tif", 4), ("grey.png", 1), ("palette.gif", 1)):
        with (
            pytest.raises(
                UserError,
                match=f"{name} has no page {count}: pages count from 0, and the last is {count - 1}",
            ),
            open_image_file(folder / f"{name}#{count}"),
        ):
            pass


def test_the_place_of_a_geotiff(corpus: tuple[Path, list[Case]]) -> None:
    folder, _ = corpus
    with open_image_file(folder / "place.tif") as image:
        place = image.info.georeference
    assert place is not None
    assert place.transform == (2.0, 0.0, 500.0, 0.0, -4.0, 9000.0)
    assert place.ground(1, 2) == (502.0, 8992.0)


def test_beyond_four_gibibytes(tmp_path: Path) -> None:
    """A file of tiles that were never written, but for the last, which lies behind 5 GiB of nothing."""
    path, edge = tmp_path / "a.tif", 256
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiles = (tile for tile in [b""] * 1024)
        tiff.write(
            tiles,
            shape=(8 * edge, 128 * edge),
            dtype="uint16",
            tile=(edge, edge),
            compression="zlib",
            metadata=None,
        )
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places, sizes = page.tags[324].valueoffset + 8 * 1023, page.tags[325].valueoffset
        width = page.tags[325].valuebytecount // 1024
    tile = np.random.default_rng(0).integers(0, 65535, (edge, edge), dtype="uint16")
    data = zlib.compress(tile.tobytes())
    with path.open("r+b") as file:
        try:
            file.truncate((5 << 30) + len(data))
        except OSError as error:
            pytest.skip(f"the file system cannot hold a sparse file: {error}")
        file.seek(5 << 30)
        file.write(data)
        file.seek(places)
        file.write((5 << 30).to_bytes(8, "little"))
        file.seek(sizes + width * 1023)
        file.write(len(data).to_bytes(width, "little"))
    if os.stat(path).st_blocks * 512 > 1 << 28:
        pytest.skip("the file system has no sparse files")
    with open_image_file(path) as image:
        found = image.read(Region((7 * edge - 2, 127 * edge - 3), (edge + 2, edge + 3)))
    np.testing.assert_array_equal(found[0, 2:, 3:], tile)
    assert not found[0, :2].any()
    assert not found[0, :, :3].any()


def test_threads_and_a_forked_process_read_one_opened_picture(corpus: tuple[Path, list[Case]]) -> None:
    folder, cases = corpus
    expected_of = {case.name: case.levels[0] for case in cases}
    for name in ("colour.png", "colour.bmp", "deep 3.png", "tiles deflate float16 3 < 3.tif", "turned 6.jpg"):
        with open_image_file(folder / name) as image, ThreadPoolExecutor(4) as threads:

            def is_same(region: Region, image: OpenedImage = image, name: str = name) -> bool:
                return np.array_equal(image.read(region), expected_of[name][region.last_dims])

            forked = os.fork()  # before anyone has read
            if not forked:
                os._exit(0 if all(map(is_same, regions(image.info.extent, 1))) else 1)
            assert all(threads.map(is_same, regions(image.info.extent, 2) * 2)), name
            assert os.waitpid(forked, 0)[1] == 0, name

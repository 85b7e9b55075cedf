"""Slides: each region is the crop of the level as OpenSlide's own full read has it."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from support.hostile_files import mutations
from support.ranks import run_ranks
from support.slides import write_slide
from ziggurat.data.extents import Region
from ziggurat.data.readers.registry import reader_of
from ziggurat.data.readers.slides import SlideReader, meeting_place
from ziggurat.errors import UserError

READER = SlideReader()


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("slides")
    return {
        "whole": write_slide(folder / "whole.svs", (640, 1024), (1, 4, 16)),
        "uneven": write_slide(folder / "uneven.svs", (633, 1021), (1, 3, 7)),
    }


def whole(path: Path, level: int) -> np.ndarray:
    """Return a level as OpenSlide reads it."""
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level])).transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["whole", "uneven"])
def test_regions_are_crops_of_the_whole_at_each_level(slides, name):
    with READER.open(slides[name], None) as slide:
        assert slide.info.roles == ("red", "green", "blue", "alpha")
        assert slide.info.microns_per_pixel == (0.499, 0.499)
        assert slide.info.block == (256, 256)
        for level, extent in enumerate(slide.info.levels):
            expected = whole(slides[name], level)
            assert expected.shape[1:] == extent
            for top, left, height, width in (
                (0, 0, *extent),
                (3, 7, 20, 30),
                (extent[0] - 9, extent[1] - 5, 9, 5),
                (21, 33, 1, 0),
            ):
                region = Region((top, left), (height, width))
                samples = slide.read(region, level)
                assert (samples.dtype, samples.shape) == (np.uint8, (4, height, width))
                assert samples.tobytes() == expected[region.last_dims].tobytes(), (level, region)


@pytest.mark.parametrize("factor", [1.0, 4.0, 3.0021, 15.9, 4.5, 2.0003])
def test_places_where_both_grids_meet_are_near(factor):
    for start in range(0, 5000, 37):
        place = meeting_place(start, factor)
        beside = abs(round(place * factor) - place * factor) / factor
        nearby = range(max(start - 512, 0), start + 1)
        assert place in nearby
        assert beside < 1 / 512 or beside == min(
            abs(round(one * factor) - one * factor) / factor for one in nearby
        )


def test_what_was_not_scanned_has_the_colour_of_the_background(slides, monkeypatch):
    with READER.open(slides["whole"], None) as slide:
        handle = slide._handles._free[0][1]
        monkeypatch.setattr(
            handle, "read_region", lambda place, level, size: np.zeros((*size[::-1], 4), np.uint8)
        )
        assert (slide.read(Region((0, 0), (2, 3)))[:3] == 255).all()


def test_threads_read_at_once(slides):
    expected, faults = whole(slides["whole"], 0), []

    def read(slide, number):
        for top in range(number, 500, 61):
            region = Region((top, number * 5), (40, 300))
            if not np.array_equal(slide.read(region), expected[region.last_dims]):
                faults.append(region)

    with READER.open(slides["whole"], None) as slide:
        threads = [threading.Thread(target=read, args=(slide, number)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not faults


def _read_inherited(workers, slide, expected):
    region = Region((100 + workers.rank, 50), (300, 400))
    return np.array_equal(slide.read(region), expected[region.last_dims])


def test_forked_processes_open_their_own(slides):
    with READER.open(slides["whole"], None) as slide:
        slide.read(Region((0, 0), (100, 100)))
        assert run_ranks(_read_inherited, 2, args=(slide, whole(slides["whole"], 0))) == [True, True]


def test_which_files_are_slides(slides, tmp_path, monkeypatch):
    assert isinstance(reader_of(slides["whole"]), SlideReader)
    assert not READER.recognises(tmp_path / "a.tif", b"II*\0")
    monkeypatch.setattr("ziggurat.data.readers.slides.find_spec", lambda name: None)
    assert not READER.recognises(slides["whole"], b"II*\0")
    assert READER.recognises(tmp_path / "a.mrxs", b"")


def test_tiles_that_are_larger_than_memory_are_refused(slides, tmp_path):
    content = bytearray(slides["whole"].read_bytes())
    with tifffile.TiffFile(slides["whole"]) as file:
        place = file.pages[0].tags["TileLength"].valueoffset
    content[place : place + 4] = (1 << 30).to_bytes(4, "little")
    path = tmp_path / "large.svs"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tiles of 256 x 1073741824 pixels"):
        READER.open(path, None).__enter__()


def _read_all(path: Path) -> UserError | None:
    try:
        with READER.open(path, None) as slide:
            for level, extent in enumerate(slide.info.levels):
                slide.read(Region((0, 0), tuple(min(size, 100) for size in extent)), level)
    except UserError as error:
        return error
    return None


def test_damaged_slides_give_one_message(slides, tmp_path):
    path, content = tmp_path / "half.svs", slides["whole"].read_bytes()
    messages = []
    for damaged in (content[:100_000], b"", b"II*\0" + bytes(60), *mutations(content, 1, 40)):
        path.write_bytes(damaged)
        messages.append(_read_all(path))
    assert all(messages[:3])
    for error in filter(None, messages):
        assert len(error.faults) == 1
        assert "cannot decode the slide" in str(error)
        assert "half.svs" in str(error)


def test_pages_of_slides_are_refused(slides):
    with pytest.raises(UserError, match="one page"):
        READER.open(slides["whole"], 1).__enter__()

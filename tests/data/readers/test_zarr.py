"""Zarr: each region is the crop of the array as zarr's own full read has it, whatever version, axes and codecs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr

from support.ranks import run_ranks
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.extents import Region
from ziggurat.data.formats.opening import open_split
from ziggurat.data.readers.image_files import expand_paths, inspect_images
from ziggurat.data.readers.layout import AS_THEY_ARE
from ziggurat.data.readers.registry import reader_of
from ziggurat.data.readers.zarr_arrays import ZarrReader
from ziggurat.errors import UserError

READER = ZarrReader()
CHANNELS = [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP", "color": "00FF00"}]


def samples(*shape: int, dtype: str = "uint16") -> np.ndarray:
    """Return noise."""
    return np.random.default_rng(2).integers(0, 200, shape).astype(dtype)


def write_image(
    path: Path, values: np.ndarray, axes: str, version: str = "0.5", levels: int = 1, **more: object
) -> Path:
    """Write an OME-Zarr image with levels half as large each."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level in range(levels):
        step = tuple(slice(None, None, 2**level) if axis in "yx" else slice(None) for axis in axes)
        small = np.ascontiguousarray(values[step])
        chunks = tuple(16 if axis in "yx" else 1 for axis in axes)
        group.create_array(str(level), data=small, chunks=chunks)
        scale = [0.25 * 2**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append(
            {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        )
    kinds = {"c": "channel", "t": "time"}
    told = [
        {"name": axis, "type": kinds.get(axis, "space")} | ({"unit": "micrometer"} if axis in "zyx" else {})
        for axis in axes
    ]
    meta = {"multiscales": [{"version": version, "axes": told, "datasets": datasets}], **more}
    group.attrs.update({"ome": {"version": version, **meta}} if version == "0.5" else meta)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zarr")
    omero = {"omero": {"channels": CHANNELS}}
    sharded = zarr.create_array(
        folder / "sharded.zarr", shape=(3, 60, 50), chunks=(1, 10, 10), shards=(3, 30, 50), dtype="uint8",
        dimension_names=("c", "y", "x"),
    )  # fmt: skip
    sharded[:] = samples(3, 60, 50, dtype="uint8")
    flat = zarr.create_array(
        folder / "flat.zarr", shape=(40, 50, 3), chunks=(16, 16, 3), dtype="uint8", zarr_format=2
    )
    flat[:] = samples(40, 50, 3, dtype="uint8")
    big = zarr.create_array(
        folder / "big.zarr",
        shape=(40, 50),
        chunks=(16, 16),
        dtype=">i4",
        zarr_format=2,
        compressors=numcodecs.Blosc(),
    )
    big[:] = samples(40, 50, dtype="int32")
    one = zarr.open_group(folder / "one.zarr", mode="w")
    one.create_array("data", data=samples(30, 20, dtype="float32"))
    return {
        "old": write_image(folder / "old.zarr", samples(1, 2, 1, 61, 83), "tczyx", "0.4", 3, **omero),
        "new": write_image(folder / "new.zarr", samples(2, 61, 83), "cyx", "0.5", 3, **omero),
        "rgb": write_image(folder / "rgb.zarr", samples(3, 33, 20, dtype="uint8"), "cyx"),
        "plane": write_image(folder / "plane.zarr", samples(33, 20, dtype="float32"), "yx"),
        "flags": write_image(folder / "flags.zarr", samples(33, 20, dtype="bool"), "yx"),
        **{name: folder / f"{name}.zarr" for name in ("sharded", "flat", "big", "one")},
    }


def whole(path: Path, level: int) -> np.ndarray:
    """Return a level as zarr reads it, bands first."""
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Group):
        node = node["data" if path.stem == "one" else str(level)]
    values = node[:]
    if path.stem == "flat":
        return values.transpose(2, 0, 1)
    return values.reshape(-1, *values.shape[-2:])


NAMES = ["old", "new", "rgb", "plane", "flags", "sharded", "flat", "big", "one"]


@pytest.mark.parametrize("name", NAMES)
def test_regions_are_crops_of_the_whole_at_each_level(images, name):
    assert isinstance(reader_of(images[name]), ZarrReader)
    with READER.open(images[name], None) as image:
        for level, extent in enumerate(image.info.levels):
            expected = whole(images[name], level)
            expected = expected.astype(
                expected.dtype.newbyteorder("=") if expected.dtype != bool else "uint8"
            )
            assert (image.info.bands, *extent) == expected.shape
            for top, left, height, width in (
                (0, 0, *extent),
                (3, 7, 9, 11),
                (extent[0] - 3, extent[1] - 1, 3, 1),
                (0, 2, 1, 0),
            ):
                region = Region((top, left), (height, width))
                found = image.read(region, level)
                assert found.dtype == image.info.dtype == expected.dtype
                assert found.tobytes() == expected[region.last_dims].tobytes()


def test_metadata(images):
    found = {}
    for name in NAMES:
        with READER.open(images[name], None) as image:
            found[name] = image.info
    for name in ("old", "new"):
        assert found[name].levels == ((61, 83), (31, 42), (16, 21))
        assert (found[name].names, found[name].roles) == (("DAPI", "GFP"), ("other", "other"))
        assert found[name].microns_per_pixel == (0.25, 0.25)
    assert found["rgb"].roles == found["flat"].roles == found["sharded"].roles == ("red", "green", "blue")
    assert (found["flags"].dtype, found["flags"].bits, found["big"].dtype) == ("uint8", 1, "int32")
    assert found["one"].microns_per_pixel is None
    assert found["new"].block == (16, 16)


def test_folders_are_images_of_paths_folders_and_globs(images, tmp_path):
    inner = write_image(tmp_path / "in" / "deep" / "b.zarr", samples(3, 30, 20, dtype="uint8"), "cyx")
    (tmp_path / "in" / "a.png").write_bytes(b"")
    for given in (inner, tmp_path / "in" / "deep", tmp_path / "in" / "*" / "*.zarr"):
        assert expand_paths([given]) == [inner]
    assert expand_paths([tmp_path / "in"]) == [tmp_path / "in" / "a.png", inner]
    files = inspect_images([images["rgb"]], 1 << 20, AS_THEY_ARE)
    assert files.image(0).numpy().tobytes() == whole(images["rgb"], 0).tobytes()
    region = Region((5, 6), (7, 8))
    assert files.window(0, region).numpy().tobytes() == whole(images["rgb"], 0)[region.last_dims].tobytes()


def test_annotations_name_pages_and_folders(tmp_path):
    write_image(tmp_path / "cells.zarr", samples(3, 30, 20, dtype="uint8"), "cyx")
    tifffile.imwrite(tmp_path / "stack.tif", samples(4, 30, 20, dtype="uint8"), photometric="minisblack")
    lines = ["image_path,xmin,ymin,xmax,ymax,label", "stack.tif#3,1,2,9,9,a", "cells.zarr,1,2,9,9,a"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    dataset = open_split(str(tmp_path), "train", ("boxes",), DataConfig(), DigitsConfig())
    assert [dataset.record(index).name for index in range(2)] == ["stack.tif#3", "cells.zarr"]
    assert (dataset.image(0)[0].numpy() == samples(4, 30, 20, dtype="uint8")[3]).all()
    assert (dataset.image(1).numpy() == samples(3, 30, 20, dtype="uint8")).all()


@pytest.mark.parametrize(
    ("axes", "shape", "said"),
    [
        ("zyx", (4, 20, 20), "z of 4"),
        ("tcyx", (3, 1, 20, 20), "t of 3"),
        ("cy", (4, 20), "must have c|may have c"),
    ],
)
def test_other_axes_are_refused_by_name(tmp_path, axes, shape, said):
    path = write_image(tmp_path / "a.zarr", samples(*shape), axes)
    with pytest.raises(UserError, match=said):
        READER.open(path, None).__enter__()


def _group(path: Path) -> Path:
    group = zarr.open_group(path, mode="w")
    group.create_array("a", data=samples(4, 4))
    group.create_array("b", data=samples(4, 4))
    return path


def _pickled(path: Path) -> Path:
    zarr.create_array(path, shape=(4, 4), dtype="uint8", zarr_format=2, filters=None)
    meta = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(meta | {"filters": [{"id": "pickle", "protocol": 5}]}))
    return path


def _elsewhere(path: Path) -> Path:
    write_image(path, samples(20, 20), "yx", "0.4")
    text = (path / ".zattrs").read_text()
    (path / ".zattrs").write_text(text.replace('"path": "0"', '"path": "../other/0"'))
    return path


def _complex(path: Path) -> Path:
    zarr.create_array(path, shape=(4, 4), dtype="complex64", zarr_format=2)
    return path


def _broken(path: Path) -> Path:
    path.mkdir()
    (path / "zarr.json").write_text("{")
    return path


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_group, "name one of its arrays"), (_pickled, "pickle"), (_elsewhere, "outside of it"), (_complex, "no numbers of an image"),
        (_broken, "cannot decode the image"),
    ],
)  # fmt: skip
def test_what_is_no_image_gives_one_message(tmp_path, write, said):
    with pytest.raises(UserError, match=said) as caught:
        READER.open(write(tmp_path / "a.zarr"), None).__enter__()
    assert len(caught.value.faults) == 1
    assert "a.zarr" in str(caught.value)


def test_a_damaged_chunk_gives_one_message(images, tmp_path):
    path = write_image(tmp_path / "a.zarr", samples(40, 40), "yx")
    (path / "0" / "c" / "1" / "1").write_bytes(b"no chunk")
    with READER.open(path, None) as image:
        image.read(Region((0, 0), (16, 16)))
        with pytest.raises(UserError, match=r"cannot decode the image .*a\.zarr"):
            image.read(Region((0, 0), (40, 40)))


def _read_inherited(workers, image, expected):
    region = Region((workers.rank, 3), (40, 50))
    return np.array_equal(image.read(region), expected[region.last_dims])


def test_threads_and_forked_processes_read_at_once(images):
    expected, faults = whole(images["new"], 0), []
    with READER.open(images["new"], None) as image:

        def read(number):
            region = Region((number, number), (50, 70))
            if not np.array_equal(image.read(region), expected[region.last_dims]):
                faults.append(region)

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not faults
        assert run_ranks(_read_inherited, 2, args=(image, expected)) == [True, True]

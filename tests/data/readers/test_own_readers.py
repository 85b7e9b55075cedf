"""An image reader from outside is asked before those of the house, by every function that reads images."""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.extents import Region
from ziggurat.data.readers.image_files import expand_paths
from ziggurat.data.readers.images import image_size, inspect_image, read_image, read_window
from ziggurat.data.readers.layout import AS_THEY_ARE, Reading
from ziggurat.data.readers.opened import ImageInfo
from ziggurat.data.readers.registry import register_reader
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset

COLOURS = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "other")}


class Opened:
    def __init__(self, array):
        self.array = array
        rows, columns, bands = array.shape
        bits = array.dtype.itemsize * 8
        self.info = ImageInfo(((rows, columns),), array.dtype.name, COLOURS[bands], bits=bits)

    def read(self, region, level=0):
        return np.moveaxis(self.array[region.slices], -1, 0).copy()


class NumpyReader:
    """Reads arrays that NumPy has saved."""

    suffixes = (".npy",)

    def recognises(self, path, head):
        return head.startswith(b"\x93NUMPY") or path.suffix == ".npy"

    @contextmanager
    def open(self, path, page):
        yield Opened(np.load(path, mmap_mode="r"))


@pytest.fixture(scope="module", autouse=True)
def reader():
    return register_reader("numpy", NumpyReader())


@pytest.fixture
def file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    return tmp_path / "a.npy"


def test_size_pixels_and_windows(file):
    assert image_size(file, 2000) == inspect_image(file, 2000, AS_THEY_ARE) == (30, 40)
    image = read_image(file, 2000)
    assert image.shape == (3, 30, 40)
    assert read_window(file, 2000, (30, 40), Region((3, 5), (7, 9))).equal(image[:, 3:10, 5:14])
    assert read_window(file, 2000, (31, 40), Region((3, 5), (7, 9))) is None


def test_faults_name_the_file(file, tmp_path):
    with pytest.raises(
        UserError, match=r"a\.npy has 1200 pixels \(40 x 30\), more than data.max_pixels=1199"
    ):
        read_image(file, 1199)
    with pytest.raises(UserError, match="there is no image"):
        image_size(tmp_path / "b.npy", 2000)
    file.write_bytes(b"no array")
    with pytest.raises(UserError, match=r"cannot decode the image .*a\.npy"):
        read_image(file, 2000)


def test_the_bound_is_on_what_is_decoded_at_once(file):
    """An image of which regions can be read may be larger."""
    assert image_size(file, 100) == (30, 40)
    assert read_window(file, 100, (30, 40), Region((3, 5), (10, 10))).shape == (3, 10, 10)
    with pytest.raises(UserError, match=r"110 pixels \(11 x 10\), more than data.max_pixels=100"):
        read_window(file, 100, (30, 40), Region((3, 5), (10, 11)))


def test_samples_become_pixels_by_the_rule_of_the_data_set(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65535, (5, 6, 4), dtype=np.uint16)
    np.save(tmp_path / "a.npy", deep)
    with pytest.raises(UserError, match="4 bands of 16 bits, of which 1 beside colour"):
        read_image(tmp_path / "a.npy", 2000)
    found = read_image(tmp_path / "a.npy", 2000, Reading(extra="drop"))
    assert np.array_equal(found.permute(1, 2, 0), deep[:, :, :3] >> 8)
    np.save(tmp_path / "b.npy", deep[:, :, :1].astype(np.float32))
    with pytest.raises(UserError, match="floating-point samples, which have no natural range"):
        inspect_image(tmp_path / "b.npy", 2000, AS_THEY_ARE)


def test_its_files_are_images_in_folders_and_data_sets(file, tmp_path):
    assert expand_paths([str(tmp_path)]) == [file]
    (tmp_path / "train.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\na.npy,1,2,9,9,oak\n")
    dataset = open_dataset(str(tmp_path), "train", "detect", DataConfig(), DigitsConfig())
    assert dataset.record(0).width == 40
    assert dataset.image(0).equal(read_image(file, 2000))


def test_a_file_with_the_name_of_a_page_wins(file):
    """Over a page of another file."""
    other = Path(f"{file}#0")
    np.save(file.with_name("b.npy"), np.zeros((2, 2, 3), np.uint8))
    file.with_name("b.npy").rename(other)
    assert image_size(other, 2000) == (2, 2)
    other.unlink()
    assert image_size(other, 2000) == (30, 40)

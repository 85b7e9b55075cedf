"""An image reader from outside is asked before Pillow, by every function that reads images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.extents import Region
from ziggurat.data.readers.image_files import expand_paths
from ziggurat.data.readers.images import image_size, inspect_image, read_image
from ziggurat.data.readers.layout import AS_THEY_ARE
from ziggurat.data.readers.registry import reader_of, register_reader
from ziggurat.data.readers.windows import read_window
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset


class NumpyReader:
    """Reads arrays that NumPy has saved."""

    suffixes = (".npy",)

    def size(self, path):
        return np.load(path, mmap_mode="r").shape[:2]

    def read(self, path):
        return torch.from_numpy(np.load(path)).permute(2, 0, 1)

    def window(self, path, region):
        rows, columns = region.slices
        return torch.from_numpy(np.load(path, mmap_mode="r")[rows, columns].copy()).permute(2, 0, 1)


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
    with pytest.raises(UserError, match=r"a\.npy has 40 x 30 pixels, more than data.max_pixels=1199"):
        read_image(file, 1199)
    with pytest.raises(UserError, match="there is no image"):
        image_size(tmp_path / "b.npy", 2000)
    file.write_bytes(b"no array")
    with pytest.raises(UserError, match=r"cannot decode the image .*a\.npy"):
        read_image(file, 2000)


def test_its_files_are_images_in_folders_and_data_sets(file, tmp_path):
    assert expand_paths([str(tmp_path)]) == [file]
    (tmp_path / "train.csv").write_text("image_path,xmin,ymin,xmax,ymax,label\na.npy,1,2,9,9,oak\n")
    dataset = open_dataset(str(tmp_path), "train", "detect", DataConfig(), DigitsConfig())
    assert dataset.record(0).width == 40
    assert dataset.image(0).equal(read_image(file, 2000))


def test_all_other_files_are_left_to_pillow():
    assert reader_of(Path("a.png")) is None

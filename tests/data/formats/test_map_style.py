"""PyTorch's map-style data sets are data sets of ours, or are refused with what helps."""

from functools import partial

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from ziggurat.config import DataConfig
from ziggurat.data.dataset import all_annotations
from ziggurat.data.formats.map_style import MapBoxes, MapLabels, MapMasks, adapt
from ziggurat.data.formats.own import register_data
from ziggurat.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
BOXES = [[0.0, 1.0, 4.0, 5.0], [2.0, 2.0, 8.0, 6.0]]


class Pairs(Dataset):
    """Items that a list has."""

    def __init__(self, items, classes=("cat", "dog")):
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


PLAIN = DataConfig()


def opened(dataset, config=PLAIN, classes=None):
    return adapt(dataset, "mine").configured(config, classes)


def with_targets(*targets, **given):
    return Pairs([(PIXELS[index], target) for index, target in enumerate(targets)], **given)


IMAGES = [
    Image.fromarray(PIXELS[0]),
    PIXELS[0],
    torch.tensor(PIXELS[0]).permute(2, 0, 1),
    functional.to_dtype(functional.to_image(PIXELS[0]), torch.float32, scale=True),
    tv_tensors.Image(torch.tensor(PIXELS[0]).permute(2, 0, 1)),
]


@pytest.mark.parametrize("image", IMAGES, ids=["pillow", "array", "tensor", "ToTensor", "tv_tensor"])
def test_an_image_in_each_form_is_the_same(image):
    data = opened(Pairs([(image, 1)]))
    assert torch.equal(data.image(0), torch.tensor(PIXELS[0]).permute(2, 0, 1))
    assert (data.record(0).extent, data.record(0).image_id) == ((6, 8), 1)


@pytest.mark.parametrize(
    "one", [1, True, np.int64(1), torch.tensor(1), np.array([1], np.uint8), torch.tensor([1])]
)
def test_a_label_in_each_form(one):
    data = opened(with_targets(one, one, one))
    assert isinstance(data, MapLabels)
    assert [data.label(index) for index in (2, 0, 1)] == [1, 1, 1]


MASK = np.array([[0, 1] * 4] * 5 + [[255] * 8], dtype=np.uint8)


@pytest.mark.parametrize(
    "one",
    [
        MASK,
        Image.fromarray(MASK),
        torch.tensor(MASK),
        torch.tensor(MASK)[None].long(),
        tv_tensors.Mask(MASK),
        MASK.astype(np.int32),
    ],
)
def test_a_mask_in_each_form(one):
    data = opened(with_targets(one))
    assert isinstance(data, MapMasks)
    assert torch.equal(data.mask(0), torch.tensor(MASK))


@pytest.mark.parametrize(
    "boxes",
    [
        torch.tensor(BOXES),
        np.array(BOXES),
        BOXES,
        tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(6, 8)),
        functional.convert_bounding_box_format(
            tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(6, 8)), new_format="CXCYWH"
        ),
        tv_tensors.BoundingBoxes([[0, 1, 4, 4], [2, 2, 6, 4]], format="XYWH", canvas_size=(6, 8)),
    ],
    ids=["tensor", "array", "list", "xyxy", "cxcywh", "xywh"],
)
def test_boxes_in_each_form(boxes):
    data = opened(with_targets({"boxes": boxes, "labels": torch.tensor([1, 0])}))
    assert isinstance(data, MapBoxes)
    torch.testing.assert_close(data.objects(0).boxes_xyxy, torch.tensor(BOXES))
    assert data.objects(0).labels.tolist() == [1, 0]


def test_what_torchvision_s_detectors_say_beside_the_boxes():
    target = {
        "boxes": torch.tensor(BOXES), "labels": torch.tensor([1, 2]), "iscrowd": torch.tensor([0, 1]),
        "area": torch.tensor([9.0, 20.0]), "image_id": torch.tensor([77]), "masks": torch.zeros(2, 6, 8),
    }  # fmt: skip
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "iscrowd": [],
        "area": [],
    }
    data = opened(with_targets(target, empty, classes=["__background__", "cat", "dog"]))
    assert data.classes == ("cat", "dog")
    assert data.record(0).image_id == 77
    assert data.objects(0).labels.tolist() == [0]
    every = all_annotations(data, 0)
    assert (every.crowd.tolist(), every.areas.tolist(), every.objects.labels.tolist()) == (
        [False, True],
        [9.0, 20.0],
        [0, 1],
    )
    assert len(data.objects(1)) == 0
    assert data.record(1).image_id == 2


def test_a_box_up_to_a_pixel_outside_is_cut():
    data = opened(with_targets({"boxes": [[-0.5, 0, 9, 6.5]], "labels": [0]}))
    assert data.objects(0).boxes_xyxy.tolist() == [[0, 0, 8, 6]]


@pytest.mark.parametrize(
    ("dataset", "config", "names"),
    [
        (with_targets(0), DataConfig(), ("cat", "dog")),
        (with_targets(0), DataConfig(classes="a, b"), ("a", "b")),
        (with_targets(0, classes=None), DataConfig(classes="a,b"), ("a", "b")),
        (Subset(with_targets(0, 1), [1]), DataConfig(), ("cat", "dog")),
        (Subset(Subset(with_targets(0, 1), [0, 1]), [1]), DataConfig(), ("cat", "dog")),
        (ConcatDataset([with_targets(0), with_targets(1)]), DataConfig(), ("cat", "dog")),
        (with_targets(0, classes=[("tench", "Tinca"), ("crane",)]), DataConfig(), ("tench, Tinca", "crane")),
        ([(PIXELS[0], 0)], DataConfig(classes="a"), ("a",)),
    ],
)  # fmt: skip
def test_the_names_of_classes(dataset, config, names):
    data = opened(dataset, config)
    assert data.classes == names
    assert data.category_ids == tuple(range(1, len(names) + 1))
    assert ", ".join(names) in data.notes[0]


def test_a_validation_set_without_names_has_those_of_the_model():
    assert opened(with_targets(1, classes=None), classes=("x", "y")).classes == ("x", "y")


def test_torchvision_s_own(tmp_path):
    for name in ("ants", "bees"):
        (tmp_path / name).mkdir()
        Image.fromarray(PIXELS[len(name) - 4]).save(tmp_path / name / "one.png")
    data = opened(torchvision.datasets.ImageFolder(tmp_path))
    assert (data.classes, [data.label(index) for index in range(2)]) == (("ants", "bees"), [0, 1])
    fake = torchvision.datasets.FakeData(3, (3, 6, 8), 4)
    assert len(opened(fake, DataConfig(classes="a,b,c,d"))) == 3


class Flipping(Pairs):
    """A random transform."""

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        return np.roll(image, int(torch.randint(1, 7, ())), axis=1), target


class Stream(IterableDataset):
    """Has no places."""

    def __iter__(self):
        return iter([(PIXELS[0], 1)])


class Fails(Pairs):
    """Reads a file that is not there."""

    def __getitem__(self, index):
        raise FileNotFoundError("no /data/7.png")


BOX = {"boxes": torch.tensor(BOXES), "labels": torch.tensor([0, 1])}


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ([1, 2], "must be a pair, .*: item 0 of mine is of type int; .*needs classes, category_ids, record"),
        ([{"image": PIXELS[0], "label": 1}], "must be a pair, .* of type dict of image, label"),
        ([(PIXELS[0], 1, "name")], "must be a pair, .* of type tuple of 3"),
        (with_targets("cat"), "beside the image an item must have .* of type str of 3"),
        (with_targets(0.5), "of type float, float64 of shape ()"),
        (with_targets(torch.zeros(40, dtype=torch.int64)), "int64 of shape .40,."),
        (with_targets(torch.tensor(MASK) / 255), "float32 of shape .6, 8.; .*PILToTensor in the place of ToTensor"),
        (with_targets({"bbox": BOXES}), "a dictionary of bbox, give it these keys"),
        (with_targets([{"bbox": [0, 0, 1, 1], "category_id": 3}]), "CocoDetection gives it: name its annotation file"),
        (with_targets({"annotation": {"object": []}}), "VOCDetection gives it: name the folder"),
        (Stream(), "must have items by their places"),
        (Pairs([]), "must have items by their places"),
        (DataLoader(with_targets(1)), "is a DataLoader: give its data set"),
        (Fails([1]), "item 0 of mine cannot be read: FileNotFoundError: no /data/7.png"),
        (Flipping([(PIXELS[0], 1)] * 3), "must be the same each time: item 0 .*data.flip"),
        (Pairs([(torch.rand(4, 6, 8), 1)]), "has shape .4, 6, 8.; leave bands"),
        (Pairs([(torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1)), 1)]), "must lie from 0 to 1: item 0 of mine has -"),
    ],
)  # fmt: skip
def test_what_is_refused_when_it_is_given(dataset, message):
    with pytest.raises(UserError, match=message):
        adapt(dataset, "mine")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (with_targets(1, classes=None), "must be named, each once: .*'classes' or as data.classes; got none"),
        (with_targets(1, classes=["a", "a"]), "each once: .* got a, a"),
        (with_targets(1, classes=[("id", 7), ("id", 8)]), "must be words: .*data.classes"),
        (
            ConcatDataset([with_targets(0), with_targets(1, classes=("x", "y"))]),
            "must have the same classes: they have cat, dog; x, y",
        ),
    ],
)
def test_classes_that_nobody_names(dataset, message):
    with pytest.raises(UserError, match=message):
        opened(dataset)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ((0, 1, 2), "labels must be from 0 to 1, of 2 classes: item 2 of mine has 2"),
        ((0, 1, -1), "item 2 of mine has -1"),
        ((0, 1, BOX), "the same for all: others are labels, and it is of type dict"),
        ((MASK, MASK, MASK * 3), "classes from 0 to 1, or 255 .*: item 2 of mine has 3, 253"),
        ((MASK, MASK, MASK[:4]), "a mask must be of its image's size: item 2 .* 8 x 4 pixels, an image of 8 x 6"),
        ((MASK, MASK, 1), "the same for all: others are masks"),
        ((BOX, BOX, BOX | {"labels": [1, 2]}), "from 0 to 1, of 2 classes: item 2 of mine has 2; where 0 stands for the background"),
        ((BOX, BOX, BOX | {"labels": [1]}), "each box must have one of 'labels': item 2 of mine has 2 boxes and labels of shape .1,."),
        ((BOX, BOX, BOX | {"iscrowd": [1]}), "one of 'iscrowd'"),
        ((BOX, BOX, BOX | {"boxes": [[0, 0, 4, 5], [2, 2, 2, 6]]}), r"item 2 of mine has \[2.0, 2.0, 2.0, 6.0\] in 8 x 6 pixels"),
        ((BOX, BOX, BOX | {"boxes": [[0, 0, 4, 5], [5, 5, 4, 4]]}), r"has \[5.0, 5.0, 4.0, 4.0\]"),
        ((BOX, BOX, BOX | {"boxes": [[0, 0, 4, 5], [0, 0, 40, 4]]}), r"has \[0.0, 0.0, 40.0, 4.0\]"),
        ((BOX, BOX, BOX | {"boxes": [[0, 0, 4, 5], [0, 0, 4, float("nan")]]}), "nan"),
        ((BOX, BOX, BOX | {"boxes": [0, 0, 4, 5]}), "must have the shape .N, 4."),
        ((BOX, BOX, 1), "the same for all: others have boxes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_item_names_it(targets, message):
    data = opened(with_targets(*targets))
    read = next(getattr(data, name) for name in ("objects", "label", "mask") if hasattr(data, name))
    for index in (0, 1):
        read(index)
    with pytest.raises(UserError, match=message):
        read(2)


def test_items_that_change_their_size_later_are_refused():
    """Nobody reads all items twice before training."""
    items = [(PIXELS[index % 3], 1) for index in range(8)]
    data = opened(Pairs(items))
    assert data.record(7).extent == (6, 8)
    items[7] = (PIXELS[0][:5], 1)
    data.image(6)
    with pytest.raises(UserError, match="item 7 of mine had 8 x 6 pixels, and has 8 x 5; leave random"):
        data.image(7)


def test_what_is_known_of_items_is_kept_where_it_is_opened_again():
    """Sizes and boxes of all items are read when training begins, once."""
    read = []

    class Counted(Pairs):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    base = adapt(Counted([(PIXELS[0], BOX)] * 6), "mine")
    read.clear()
    for _ in range(3):
        data = base.configured(DataConfig(), None)
        assert [data.record(index).height for index in range(6)] == [6] * 6
        assert [len(data.objects(index)) for index in range(6)] == [2] * 6
    assert read == list(range(6))


def test_a_name_stands_for_it():
    """Its workers find it by the name."""
    name = register_data("Mapped", with_targets(1, 0), val=with_targets(1))
    assert name == "own:Mapped"
    with pytest.raises(UserError, match="item 0 of Broken, val"):
        register_data("Broken", with_targets(1), val=Flipping([(PIXELS[0], 1)]))


def test_samples_have_the_range_of_the_config():
    deep = (np.arange(48).reshape(6, 8) * 80).astype(np.uint16)
    data = partial(opened, Pairs([(deep, 1)]))
    assert data(DataConfig(range="0,3760")).image(0).max() == 255
    assert data().image(0).max() == round(3760 / 257)

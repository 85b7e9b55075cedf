"""Pictures of labels: what is where, in which colour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ziggurat.visualize.colors import class_color
from ziggurat.visualize.labels import draw_label_comparison, draw_labels, label_palette
from ziggurat.visualize.palette_image import PaletteImage

CLASSES = ("background", "tree", "road")


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a grey image of 40 rows and 60 columns with a tree on the left and an ignored strip below."""
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[:, :20] = 1
    labels[35:] = 255
    return torch.full((3, 40, 60), 100, dtype=torch.uint8), labels


def test_pixels_have_the_tint_of_their_class() -> None:
    image, labels = scene()
    picture = np.asarray(draw_labels(image, labels, CLASSES))
    scale = picture.shape[1] // 60
    assert picture.shape[1] == 6 * 60
    tint = [round(0.4 * 100 + 0.6 * part) for part in class_color(1)]
    np.testing.assert_array_equal(
        picture[: 35 * scale, : 20 * scale], np.broadcast_to(tint, (35 * scale, 20 * scale, 3))
    )
    assert (picture[: 35 * scale, 20 * scale :] == 100).all()  # background keeps its colours
    assert (picture[35 * scale : 40 * scale] == round(0.4 * 100 + 0.6 * 128)).all()


def test_legend_names_the_classes_that_occur() -> None:
    image, labels = scene()
    legend = np.asarray(draw_labels(image, labels, CLASSES))[240:]
    colors = {tuple(color) for color in legend.reshape(-1, 3).tolist()}
    assert class_color(1) in colors
    assert class_color(2) not in colors
    assert (128, 128, 128) in colors  # ignored


def test_a_first_class_that_is_no_background_is_tinted() -> None:
    image, labels = scene()
    picture = np.asarray(draw_labels(image, labels, ("grass", "tree", "road")))
    assert picture[0, -1].tolist() == [round(0.4 * 100 + 0.6 * part) for part in class_color(0)]


def test_comparison_shows_right_wrong_and_ignored() -> None:
    image, truth = scene()
    predicted = truth.clone()
    predicted[0, 0], predicted[39, 0] = 2, 0  # one error; the other is ignored
    picture = np.asarray(draw_label_comparison(image, predicted, truth, CLASSES))
    scale = 6
    width = 60 * scale
    assert picture.shape[1] == 4 * width + 3 * 4
    top = next(row for row in range(100) if (picture[row, width // 2] == 100).all())  # below the titles
    errors = picture[top : top + 40 * scale, 3 * (width + 4) :]
    assert errors[scale // 2, scale // 2].tolist() == [230, 30, 30]
    assert errors[scale // 2, 2 * scale].tolist() == [235, 235, 235]
    assert errors[-1, 0].tolist() == [128, 128, 128]


def test_large_images_keep_their_size_and_a_long_legend_is_broken_into_rows() -> None:
    classes = [f"class number {number}" for number in range(30)]
    labels = torch.arange(30, dtype=torch.uint8).repeat(400, 20)
    picture = draw_labels(torch.zeros(3, 400, 600, dtype=torch.uint8), labels, classes)
    assert picture.width == 600
    assert picture.height > 400 + 5 * 20


def test_a_palette_image_holds_the_labels(tmp_path: Path) -> None:
    labels = torch.randint(0, 256, (7, 9), dtype=torch.uint8)
    with PaletteImage(tmp_path / "labels.png", (7, 9), label_palette()) as image:
        for band in labels.split([1, 4, 2]):
            image.add(band.numpy())
    with Image.open(tmp_path / "labels.png") as read:
        assert read.mode == "P"
        np.testing.assert_array_equal(np.asarray(read), labels.numpy())
        assert read.convert("RGB").getpixel((0, 0)) == class_color(int(labels[0, 0])) or labels[0, 0] == 255

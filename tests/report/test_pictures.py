"""Pictures of predictions, from a model that knows what it must say."""

import numpy as np
import torch

from support.fake_detector import BrightSquares, FindSquares, Squares
from support.faked import CONFIG, FAKES
from ziggurat.data.extents import Region
from ziggurat.inference.predictor import Predictor
from ziggurat.report import pictures
from ziggurat.report.pictures import draw_examples
from ziggurat.visualize.boxes import draw_caption, draw_comparison
from ziggurat.visualize.labels import draw_label_comparison


def same(picture, other):
    return np.array_equal(np.asarray(picture), np.asarray(other))


def examples(task, indices):
    dataset, evaluation, model, task = FAKES[task](6)
    pictures = draw_examples(Predictor.of_model(model, CONFIG, task=task), dataset, indices)
    return dataset, evaluation.metric, pictures


def test_detection_draws_what_is_found_and_what_is_there():
    dataset, metric, pictures = examples("detect", [4, 1])
    for index, picture in zip([4, 1], pictures, strict=True):
        objects = dataset.objects(index)
        expected = draw_comparison(dataset.image(index), metric.found[index], objects, dataset.classes)
        assert same(picture, expected)


def test_images_that_are_larger_than_a_tile():
    squares = Squares([(200, 150), (64, 64)])
    predictor = Predictor.of_model(BrightSquares(), CONFIG, task=FindSquares(CONFIG))
    (picture,) = draw_examples(predictor, squares, [0])
    assert picture.size == (150 * 2, 200 * 2 + 28)  # with a legend, as the squares are crowded
    assert squares.decoded == [0, 0]  # nothing else is looked at


def test_classification_names_the_true_class_where_it_is_another():
    dataset, metric, pictures = examples("classify", range(6))
    probabilities = metric.probabilities
    texts = []
    for index, picture in enumerate(pictures):
        predicted, true = int(probabilities[index].argmax()), dataset.label(index)
        texts.append(f"{predicted} {float(probabilities[index, predicted]):.2f}")
        texts[-1] += "" if predicted == true else f" (true: {true})"
        assert same(picture, draw_caption(dataset.image(index), texts[-1], predicted))
    assert 0 < sum("true" in text for text in texts) < 6


def test_segmentation_draws_the_predicted_labels():
    dataset, _, pictures = examples("segment", [2, 5])
    _, _, model, _ = FAKES["segment"](6)
    for index, picture in zip([2, 5], pictures, strict=True):
        image = dataset.image(index)
        labels = model(image[None] / 255)["logits"][0].argmax(dim=0).to(torch.uint8)
        assert same(picture, draw_label_comparison(image, labels, dataset.mask(index), dataset.classes))


class Windows(Squares):
    """Images of which windows can be read."""

    def window(self, index, region):
        pixels = super().image(index)[region.last_dims]
        self.decoded.pop()
        return pixels


def test_of_very_large_images_a_window_is_drawn(monkeypatch):
    monkeypatch.setattr(pictures, "FULL_PIXELS", 5000)
    monkeypatch.setattr(pictures, "WINDOW_SIDE", 96)
    squares = Windows([(200, 150), (64, 64)])
    task = FindSquares(CONFIG)
    predictor = Predictor.of_model(BrightSquares(), CONFIG, task=task)
    assert pictures.shown_window(predictor, squares, 1) is None
    region = pictures.shown_window(predictor, squares, 0)
    assert region == Region((52, 27), (96, 96))
    found = predictor.predict(squares)
    squares.decoded.clear()
    picture = pictures.draw_example(predictor, squares, 0, found[0])
    assert squares.decoded == []
    assert same(picture, task.draw_region(squares.window(0, region), found[0], squares, 0, region))

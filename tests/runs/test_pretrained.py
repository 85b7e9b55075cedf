"""Weights that others have trained: `evaluate` and `predict` on torchvision's files give what torchvision gives.

No published weights can be fetched in a test; the files are torchvision's state dicts with random weights.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from support.torchvision_twins import make_twins
from ziggurat.commands.evaluate import evaluate as start_evaluation
from ziggurat.commands.predict import predict as start_prediction
from ziggurat.config import ModelConfig, override
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.models.weights import Mismatch, WeightsReport
from ziggurat.runs.pretrained import classes_in_file, load_published, published_config
from ziggurat.tasks.detection.settings import coco_classes

SIZES = [
    (90, 120),
    (200, 130),
    (128, 160),
    (97, 301),
]  # smaller, larger, as it is, limited by its longer side
SETTINGS = {"data.resize": 128, "data.resize_limit": 256, "data.crop": 256, "plan": "dp=1", "threads": 1}


@pytest.fixture(scope="module", params=["fcos", "retinanet"])
def twins(request, tmp_path_factory):
    """Return torchvision's detections, our file of its weights, and a data set whose objects are some of them."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    theirs, _, _ = make_twins(request.param, 91, folder)
    theirs.eval()
    images = [torch.rand(3, 6, 8) for _ in SIZES]
    images = [
        torch.nn.functional.interpolate(image[None], size=size, mode="bilinear")[0].mul(255).round() / 255
        for image, size in zip(images, SIZES, strict=True)
    ]
    with torch.no_grad():
        found = [theirs([image])[0] for image in images]
    data = write_coco(folder / "data", images, found)
    return request.param, found, folder / f"{request.param}.pth", data


def write_coco(folder, images, found):
    folder.mkdir()
    names, ids = coco_classes(91)
    annotations, records = [], []
    for number, (image, one) in enumerate(zip(images, found, strict=True), start=1):
        name = f"{number}.png"
        Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(folder / name)
        rows, columns = image.shape[1:]
        records.append({"id": number, "file_name": name, "height": rows, "width": columns})
        for x1, y1, x2, y2 in one["boxes"][:40:4].tolist():
            if x2 - x1 < 3 or y2 - y1 < 3:
                continue
            label = int(one["labels"][len(annotations) % len(one["labels"])])
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box}
                | {"area": box[2] * box[3], "iscrowd": 0}
            )
    categories = [{"id": id, "name": name} for name, id in zip(names, ids, strict=True)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return folder


def test_predictions_are_torchvisions(twins, tmp_path):
    kind, found, weights, data = twins
    settings = SETTINGS | {"model.name": f"{kind}-resnet50-fpn"}
    start_prediction(weights, [str(data)], tmp_path / "out", settings)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    for number, one in enumerate(found, start=1):
        mine = [row for row in rows if row["image_id"] == number]
        assert len(mine) == len(one["scores"]) > 10
        assert [row["score"] for row in mine] == pytest.approx(one["scores"].tolist(), abs=2e-5)
        boxes = one["boxes"].clone()
        boxes[:, 2:] -= boxes[:, :2]
        # in the order of scores but for such as differ in their last bits only
        theirs = sorted(zip(one["labels"].tolist(), *boxes.T.tolist(), strict=True))
        ours = sorted((row["category_id"], *row["bbox"]) for row in mine)
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_metrics_are_those_of_torchvisions_detections(twins):
    kind, found, weights, data = twins
    settings = SETTINGS | {"model.name": f"{kind}-resnet50-fpn"}
    ours = start_evaluation(weights, str(data / "val.json"), settings)["metrics"]
    truth = COCO(str(data / "val.json"))
    rows = [
        {"image_id": number, "category_id": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, one in enumerate(found, start=1)
        for label, score, (x1, y1, x2, y2) in zip(
            one["labels"].tolist(), one["scores"].tolist(), one["boxes"].tolist(), strict=True
        )
    ]
    reference = COCOeval(truth, truth.loadRes(rows), "bbox")
    reference.params.maxDets = [1, 10, 100 if kind == "fcos" else 300]
    reference.evaluate()
    reference.accumulate()
    precision = reference.eval["precision"][:, :, :, 0, -1]
    assert ours["map"] == pytest.approx(precision[precision > -1].mean(), abs=1e-4)
    at_half = precision[0]
    assert ours["map50"] == pytest.approx(at_half[at_half > -1].mean(), abs=1e-4)
    assert ours["map"] > 0


def test_the_number_of_classes_is_the_files(tmp_path):
    make_twins("fcos", 5, tmp_path)
    config = override(published_config("fcos-resnet50-fpn", tmp_path), {"model.name": "fcos-resnet50-fpn"})
    run = load_published(tmp_path / "fcos.pth", config)
    assert (run.model.num_classes, run.classes) == (5, ())


def test_what_cannot_be_run(tmp_path):
    make_twins("fcos", 5, tmp_path)
    with pytest.raises(UserError, match="give the model that its weights belong to"):
        start_evaluation(tmp_path / "fcos.pth", "digits", {})
    with pytest.raises(UserError, match="must be complete"):
        start_evaluation(tmp_path / "fcos.pth", "digits", SETTINGS | {"model.name": "atss-resnet50-fpn"})
    with pytest.raises(UserError, match="has 10, the weights 5"):
        start_evaluation(tmp_path / "fcos.pth", "digits", SETTINGS | {"model.name": "fcos-resnet50-fpn"})


@pytest.mark.parametrize(
    ("name", "usual", "classes"),
    [
        ("fcos-resnet18-fpn", 91, 7),
        ("retinanet-resnet18-fpn", 91, 3),
        ("timm:test_resnet", 1000, 11),
        ("pnn", 5, 2),
    ],
)
def test_the_layers_that_the_model_names_tell_the_classes(name, usual, classes):
    """Whatever their order is, and however many outputs they have for each class."""
    with torch.device("meta"):
        model, other = (build_model(ModelConfig(name=name, channels=64), count) for count in (usual, classes))
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    different = [
        Mismatch(key, tuple(tensor.shape), shapes[key])
        for key, tensor in other.state_dict().items()
        if tuple(tensor.shape) != shapes[key]
    ]
    assert len(different) >= 2
    for order in (different, different[::-1]):
        assert classes_in_file(model, WeightsReport("a.pth", (), (), (), tuple(order))) == classes


@pytest.mark.parametrize(
    "different",
    [
        [("head.classes.weight", (7, 64, 3, 3), (91, 64, 3, 3)), ("head.classes.bias", (8,), (91,))],
        [("head.classes.weight", (7, 64, 1, 1), (91, 64, 3, 3))],
        [("head.boxes.weight", (7, 64, 3, 3), (91, 64, 3, 3))],
        [("head.classes.bias", (0,), (91,))],
    ],
)
def test_shapes_of_no_number_of_classes_are_refused(different):
    with torch.device("meta"):
        model = build_model(ModelConfig(name="fcos-resnet18-fpn", channels=64), 91)
    report = WeightsReport("a.pth", (), (), (), tuple(Mismatch(*one) for one in different))
    with pytest.raises(UserError, match="number of classes cannot be told"):
        classes_in_file(model, report)

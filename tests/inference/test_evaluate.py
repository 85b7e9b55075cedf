"""Evaluation on all workers."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from support.fake_detector import BrightSquares, FindSquares, Squares
from support.ranks import run_ranks
from ziggurat.config import DataConfig, DecodeConfig, DigitsConfig, ModelConfig, RunConfig
from ziggurat.data.digits import DigitScenes
from ziggurat.data.tiles import tile_grid
from ziggurat.errors import UserError
from ziggurat.inference.evaluate import evaluate_model, evaluate_run
from ziggurat.inference.tiles import place_as_configured
from ziggurat.models.build import build_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import WEIGHTS, declare_run, load_run, start_run_folder
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.detection.metric import ground_truth
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import make_task

CONFIG = RunConfig(
    task="detect",
    dtype="fp32",
    data=DataConfig(crop=64, tile_overlap=0.5),
    decode=DecodeConfig(max_detections=200),
)
DIGITS = DigitsConfig(size=64, height_max=40, train_scenes=2, val_scenes=9)


def evaluate(workers, images, config=CONFIG):
    executor = place_as_configured(BrightSquares(), config, make_mesh(workers))
    return evaluate_model(executor, FindSquares(config), images, config).metrics


def test_a_perfect_detector():
    metrics = evaluate(Workers(), Squares([(64, 64), (200, 150), (64, 30)]))
    assert metrics["map"] == metrics["map50"] == metrics["recall"] == pytest.approx(1)
    assert metrics["map_per_class"] == pytest.approx({"dark": 1, "bright": 1})


class Disturbed(Squares):
    """Half of the objects of the ground truth lie elsewhere."""

    def objects(self, index):
        objects = super().objects(index)
        objects.boxes_xyxy[::2] += 5
        return objects


def test_the_same_digits_on_any_number_of_workers():
    images = Disturbed([(64, 64)] * 7 + [(210, 300), (33, 64)])
    alone = evaluate(Workers(), images)
    assert 0.05 < alone["map50"] < 0.95
    for world in (2, 3):
        assert all(repr(metrics) == repr(alone) for metrics in run_ranks(evaluate, world, (images,)))


def limited(workers, images, limit):
    config = dataclasses.replace(CONFIG, decode=DecodeConfig(max_detections=limit))
    executor = place_as_configured(BrightSquares(), config, make_mesh(workers))
    found = evaluate_model(executor, FindSquares(config), images, config)
    return found.metrics["map50"], found.truncated, found.notes


@pytest.mark.parametrize("world", [1, 2])
def test_a_limit_is_of_a_tile_and_what_it_cuts_off_is_said(world):
    """An image of many tiles has more objects than a tile may have; one of one tile is cut, which is counted."""
    large = Squares([(200, 260)], per_image=80)
    boxes = large.objects(0).boxes_xyxy
    total = len(boxes)
    most = max(int(inside(boxes, tile).sum()) for tile in tile_grid((200, 260), (64, 64), 0.5))
    assert total > 2 * most, "no tile has so many"
    for map50, truncated, notes in run_ranks(limited, world, (large, most)):
        assert (map50, truncated, notes) == (pytest.approx(1), 0, ())
    small = Squares([(64, 64), (60, 40), (64, 64)])
    counts = [len(small.objects(index)) for index in range(3)]
    cut = [max(0, count - 5) for count in counts]
    for map50, truncated, (note,) in run_ranks(limited, world, (small, 5)):
        assert map50 < 0.9
        assert truncated == sum(cut)
        assert (
            f"decode.max_detections has cut off {sum(cut)} detections in {sum(map(bool, cut))} images" in note
        )
        assert f"{max(cut)} of them in {cut.index(max(cut))}.png" in note
        assert "--set decode.max_detections=1000" in note


def inside(boxes, tile):
    lower = boxes.new_tensor([tile.left, tile.top])
    size = boxes.new_tensor([tile.width, tile.height])
    return ((boxes[:, 2:] > lower) & (boxes[:, :2] < lower + size)).all(dim=1)


def evaluate_digits(workers):
    config = dataclasses.replace(
        CONFIG, dtype="bf16", decode=DecodeConfig(score_threshold=0.0, candidates=100, max_detections=100)
    )
    torch.manual_seed(0)
    model = build_model(
        ModelConfig("retinanet-test_resnet-fpn", levels="p3-p4", channels=16, head_depth=1), 10
    )
    executor = place_as_configured(model, config, make_mesh(workers))
    return evaluate_model(executor, make_task(model, config), DigitScenes(DIGITS, "val"), config).metrics


def test_a_real_model_on_the_embedded_data_set():
    (alone,) = run_ranks(evaluate_digits, 1)
    assert alone["recall"] > 0
    assert set(alone["map_per_class"]) == set("0123456789")
    assert [repr(metrics) for metrics in run_ranks(evaluate_digits, 2)] == [repr(alone)] * 2


def write_coco(folder, annotations, classes=("dark", "bright")):
    """A data set of two black images of 64 x 48 pixels."""
    folder.mkdir(exist_ok=True)
    images = [{"id": 4 + k, "file_name": f"{k}.png", "width": 64, "height": 48} for k in range(2)]
    for image in images:
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(folder / image["file_name"])
    tree = {
        "images": images,
        "annotations": [{"id": k, "iscrowd": 0, **a} for k, a in enumerate(annotations, start=1)],
        "categories": [{"id": 7 + k, "name": name} for k, name in enumerate(classes)],
    }
    (folder / "boxes.json").write_text(json.dumps(tree))
    return str(folder / "boxes.json")


def test_crowds_and_areas_of_the_annotations_count(tmp_path):
    path = write_coco(
        tmp_path,
        [
            {"image_id": 5, "category_id": 8, "bbox": [1, 2, 40, 30], "area": 700.5},
            {"image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1},
        ],
    )
    truth = ground_truth(open_dataset(path, "val", "detect", DataConfig(), DigitsConfig()), 1)
    assert truth.boxes_xyxy.tolist() == [[1, 2, 41, 32], [1, 2, 4, 6]]
    assert (truth.labels.tolist(), truth.areas.tolist(), truth.crowd.tolist()) == (
        [1, 0],
        [700.5, 12],
        [False, True],
    )


def test_the_area_is_the_boxs_where_there_is_no_other():
    truth = ground_truth(Squares([(64, 64)]), 0)
    boxes = truth.boxes_xyxy
    assert torch.equal(truth.areas, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    assert not truth.crowd.any()


@pytest.fixture
def folder(tmp_path):
    """The folder of a run that knows the classes bright, other and dark."""
    config = dataclasses.replace(
        CONFIG, model=ModelConfig("fcos-test_resnet-fpn", levels="p3-p4", channels=16, head_depth=1)
    )
    known = Squares([], classes=("bright", "other", "dark"), category_ids=(1, 2, 3))
    run = tmp_path / "run"
    start_run_folder(run, config, known)
    declare_run(run, config)
    save_file(build_model(config.model, 3).state_dict(), run / WEIGHTS)
    return run


def run_on(folder, path):
    run = load_run(folder)
    return evaluate_run(run, dataclasses.replace(run.config, data=DataConfig(path=path, crop=64)), Workers())


def test_a_run_is_evaluated_with_its_own_labels(folder, tmp_path):
    path = write_coco(
        tmp_path / "data", [{"image_id": 4, "category_id": 8, "bbox": [1, 2, 40, 30], "area": 700}]
    )
    result = run_on(folder, path)
    assert (result["images"], result["seconds"] > 0, result["images_per_second"] > 0) == (2, True, True)
    assert set(result["metrics"]["map_per_class"]) == {"bright", "other", "dark"}
    assert [name for name, value in result["metrics"]["map_per_class"].items() if value is not None] == [
        "bright"
    ]
    json.dumps(result, allow_nan=False)


def test_data_that_a_run_cannot_be_measured_on(folder, tmp_path):
    box = {"image_id": 4, "category_id": 8, "bbox": [1, 2, 40, 30], "area": 700}
    with pytest.raises(UserError, match="cat"):
        run_on(folder, write_coco(tmp_path / "cats", [box], classes=("dark", "cat")))
    with pytest.raises(UserError, match="digits"):
        run_on(folder, "digits")
    with pytest.raises(UserError, match="nowhere"):
        run_on(folder, str(tmp_path / "nowhere"))


def test_every_image_that_cannot_be_decoded_is_listed(folder, tmp_path):
    box = {"image_id": 4, "category_id": 8, "bbox": [1, 2, 40, 30], "area": 700}
    path = write_coco(tmp_path / "data", [box])
    for k in range(2):
        file = tmp_path / "data" / f"{k}.png"
        file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(UserError) as caught:
        run_on(folder, path)
    assert ["0.png" in caught.value.faults[0], "1.png" in caught.value.faults[1]] == [True, True]

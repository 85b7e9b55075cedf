"""What is predicted of a data set has the data set's ids: another program that joins the two counts what `evaluate` counts."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from support.fake_detector import BrightSquares, FindSquares, Squares
from support.ranks import run_ranks
from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.inference.evaluate import evaluate
from ziggurat.inference.predict import predict_dataset
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.opening import open_dataset

CLASSES = ("oak", "pine", "ash")
SCENES = Squares([(160, 150), (140, 170), (128, 128), (100, 180), (150, 90), (96, 96)], largest=20)
CONFIG = RunConfig(dtype="fp32", data=DataConfig(crop=192), decode=DecodeConfig(max_detections=100))


def predictor(workers=None):
    return Predictor.of_model(
        BrightSquares(), CONFIG, make_mesh(workers or Workers()), CLASSES, FindSquares(CONFIG)
    )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Six images of squares, many with the same score, and objects: moved squares, some of another class, and crowds."""
    folder = tmp_path_factory.mktemp("scenes")
    generator, images, entries = np.random.default_rng(1), [], []
    for number, (height, width) in enumerate(SCENES.sizes):
        image, objects = SCENES.image(number), SCENES.objects(number)
        image[1][image[0] > 0] = (
            image[1][image[0] > 0] // 32 * 32 + 16
        )  # equal scores, in one image and in several
        images.append(image.permute(1, 2, 0).numpy())
        Image.fromarray(images[-1]).save(folder / f"{number}.png")
        for (x1, y1, x2, y2), label in zip(objects.boxes_xyxy.tolist(), objects.labels.tolist(), strict=True):
            moves = generator.uniform(-3, 3, 4).round(2)
            x, y = float(max(0, x1 + moves[0])), float(max(0, y1 + moves[1]))
            box = [x, y, float(min(x2 - x1 + abs(moves[2]), width - x)), float(min(y2 - y1, height - y))]
            chance = generator.random()
            entries.append((number, label if chance < 0.8 else 1 - label, box, int(chance > 0.95)))
    return folder, images, entries


def coco(images, entries, image_id, category_id):
    """Return COCO's content, with ids as two functions write them."""
    return {
        "images": [
            {"id": image_id(number), "file_name": f"{number}.png", "height": one.shape[0], "width": one.shape[1]}
            for number, one in enumerate(images)
        ],
        "categories": [{"id": category_id(number), "name": name} for number, name in enumerate(CLASSES)],
        "annotations": [
            {"id": number, "image_id": image_id(image), "category_id": category_id(label), "bbox": box}
            | {"area": box[2] * box[3], "iscrowd": crowd}
            for number, (image, label, box, crowd) in enumerate(entries, start=1)
        ],
    }  # fmt: skip


def pycocotools_metrics(truth_file, results_file):
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        evaluation = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
        evaluation.params.maxDets = [1, 10, CONFIG.decode.max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]

    def mean(values):
        return values[values > -1].mean()

    return {
        "map": mean(precision[..., 0]), "map50": mean(precision[0, ..., 0]), "map75": mean(precision[5, ..., 0]),
        "map_small": mean(precision[..., 1]), "recall": mean(recall[..., 0]),
    }  # fmt: skip


IDS = {
    "from 1": lambda number: number + 1,
    "from 0": lambda number: number,
    "in another order": lambda number: [40, 7, 12, 3, 9, 2][number],
    "large": lambda number: 10**12 - 7 * number,
    "negative": lambda number: -5 * number - 1,
    "with a point": lambda number: float(20 - number),
    "in quotes": lambda number: str([10, 9, 100, 8, 11, 2][number]),
    "words": lambda number: "fabcde"[number] + "-7",
}
CATEGORIES = {
    "from 1": lambda label: label + 1,
    "with gaps": lambda label: [3, 17, 90][label],
    "in quotes": lambda label: str(label + 4),
}


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    ("ids", "categories"),
    [*((name, "from 1") for name in IDS), *(("from 1", name) for name in CATEGORIES), ("in quotes", "in quotes")],
)  # fmt: skip
def test_pycocotools_has_the_digits_of_evaluate(scenes, tmp_path, ids, categories):
    folder, images, entries = scenes
    file = tmp_path / "val.json"
    file.write_text(json.dumps(coco(images, entries, IDS[ids], CATEGORIES[categories])))
    config = DataConfig(images=str(folder))
    dataset = open_dataset(str(file), "val", "detect", config, CONFIG.digits, CLASSES)
    result = predict_dataset(predictor(), dataset, tmp_path / "out")
    ours = evaluate(predictor(), dataset).metrics
    theirs = pycocotools_metrics(file, result["predictions"])
    assert 0.1 < ours["map50"] < 0.95, "a metric that tells"
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-12, abs=0)


def test_classes_in_another_order_keep_their_own_ids(scenes, tmp_path):
    """The run knows a class that the data set lacks, and the data set's ids are not the run's."""
    folder, images, entries = scenes
    content = coco(images, entries, IDS["in another order"], lambda label: [2, 3, 1][label])
    content["categories"] = [one for one in content["categories"] if one["name"] != "ash"]
    content["annotations"] = [one for one in content["annotations"] if one["category_id"] != 1]
    file = tmp_path / "val.json"
    file.write_text(json.dumps(content))
    config = DataConfig(images=str(folder))
    dataset = open_dataset(str(file), "val", "detect", config, CONFIG.digits, CLASSES)
    rows = json.loads(
        Path(predict_dataset(predictor(), dataset, tmp_path / "out")["predictions"]).read_text()
    )
    assert {(row["category"], row["category_id"]) for row in rows} == {("oak", 2), ("pine", 3)}
    assert dataset.category_ids == (2, 3, 4), "of the class that it lacks, too, and no other has it"
    ours = evaluate(predictor(), dataset).metrics
    theirs = pycocotools_metrics(file, tmp_path / "out" / "predictions.json")
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, rel=1e-12, abs=0)


def written(workers, file, folder, out):
    config = DataConfig(images=str(folder))
    dataset = open_dataset(str(file), "val", "detect", config, CONFIG.digits, CLASSES)
    return predict_dataset(predictor(workers), dataset, out / str(workers.size))


def test_the_same_files_on_any_number_of_workers(scenes, tmp_path):
    folder, images, entries = scenes
    file = tmp_path / "val.json"
    file.write_text(json.dumps(coco(images, entries, IDS["words"], CATEGORIES["in quotes"])))
    for world in (1, 2):
        run_ranks(written, world, (file, folder, tmp_path))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / str(n)).iterdir()} for n in (1, 2))
    assert one == two
    assert len(one) == len(images) + 2


def test_the_table_has_the_boxes_of_the_results(scenes, tmp_path):
    folder, images, entries = scenes
    file = tmp_path / "val.json"
    file.write_text(json.dumps(coco(images, entries, IDS["from 1"], CATEGORIES["from 1"])))
    result = written(Workers(), file, folder, tmp_path)
    rows = json.loads(Path(result["predictions"]).read_text())
    with open(result["table"], newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert list(lines[0]) == ["image_path", "xmin", "ymin", "xmax", "ymax", "label", "score"]
    assert len(lines) == len(rows) == result["detections"]
    for line, row in zip(lines, rows, strict=True):
        x, y, width, height = row["bbox"]
        corners = [float(line[name]) for name in ("xmin", "ymin", "xmax", "ymax")]
        assert corners == pytest.approx([x, y, x + width, y + height], rel=1e-6)
        assert (line["image_path"], line["label"]) == (row["file_name"], row["category"])
        assert float(line["score"]) == row["score"]
    labels = open_dataset(result["table"], "val", "detect", DataConfig(images=str(folder)),
                          CONFIG.digits)  # fmt: skip
    assert sum(len(labels.objects(index)) for index in range(len(labels))) == len(rows), "read as annotations"

"""An export in the place of a run: the same tiles, joining and outputs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.commands import noise_images
from support.exported import in_folder
from ziggurat.cli.main import main
from ziggurat.commands.evaluate import evaluate
from ziggurat.commands.predict import predict
from ziggurat.data.detections import Detections
from ziggurat.errors import UserError
from ziggurat.runs.folder import load_run, weights_sha256
from ziggurat.tasks.detection.graph import compare_detections

HERE = {"plan": "dp=1", "threads": 1}


@pytest.fixture(scope="module")
def folders(exports, tmp_path_factory):
    """Return a function from a task to the folder of a run with its export."""
    made = {}

    def make(task, name):
        if task not in made:
            one = exports(task, name)
            folder = in_folder(one.run, tmp_path_factory.mktemp("runs") / task)
            shutil.copytree(one.exported.path.parent, folder / "exports")
            made[task] = folder
        return made[task]

    return make


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder of images that are larger than a crop."""
    folder = tmp_path_factory.mktemp("images")
    noise_images(folder)
    return folder


def rows_of(result):
    with open(result["predictions"], encoding="utf-8") as file:
        return json.load(file)


def detections_of(rows):
    boxes = torch.tensor([row["bbox"] for row in rows])
    boxes[:, 2:] += boxes[:, :2]
    scores, labels = (torch.tensor([row[key] for row in rows]) for key in ("score", "category_id"))
    return Detections(boxes, scores, labels)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("task", "name", "engine"), [("detect", "onnx", "onnx"), ("detect", "onnx", "openvino"), ("segment", "onnx", "onnx")]
)  # fmt: skip
def test_predictions_are_the_same(folders, images, task, name, engine, tmp_path):
    folder = folders(task, name)
    ours = predict(folder, images, tmp_path / "ours", {**HERE, "dtype": "fp32"}, pictures="none")
    theirs = predict(folder, images, tmp_path / "theirs", HERE, pictures="none", engine=engine)
    by_file = predict(
        folder / "exports" / "model.onnx", images, tmp_path / "file", {**HERE, "plan": "dp=2"}, pictures="none", engine=engine
    )  # fmt: skip
    without_files = [[{**row, "mask": ""} for row in rows_of(one)] for one in (by_file, theirs)]
    assert without_files[0] == without_files[1]
    assert theirs["truncated"] == ours["truncated"]
    assert len(rows_of(ours)) == len(rows_of(theirs)) > 0
    for number in (1, 2, 3):
        of_image = [[row for row in rows_of(one) if row["image_id"] == number] for one in (ours, theirs)]
        if task == "detect":  # two of nearly equal scores may change places
            assert compare_detections(*map(detections_of, of_image)).said == ""
        assert len(of_image[0]) == len(of_image[1]) > 0
    if task == "segment":
        for mask in sorted((tmp_path / "ours" / "masks").iterdir()):
            assert (tmp_path / "theirs" / "masks" / mask.name).read_bytes() == mask.read_bytes()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("task", "name", "engine"), [("detect", "onnx", "onnx"), ("classify", "openvino", "openvino")]
)
def test_metrics_are_the_same(folders, task, name, engine):
    folder = folders(task, name)
    ours = evaluate(folder, "digits", {**HERE, "dtype": "fp32"})["metrics"]
    theirs = evaluate(folder, "digits", HERE, engine=engine)["metrics"]
    assert theirs.keys() == ours.keys()
    main_metric = {"detect": "map50", "classify": "top1"}[task]
    assert theirs[main_metric] == pytest.approx(ours[main_metric], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"settings": {"decode.max_detections": 7}}, "decode.max_detections has no effect: the graph of"),
        ({"settings": {"model.channels": 8}}, "model.channels has no effect"),
        ({"settings": {"plan": "sp=2"}}, "each worker computes an export whole"),
        ({"settings": {"plan": "auto"}}, "--plan auto"),
        ({"settings": {"dtype": "bf16"}}, "dtype is fp32 with --engine onnx"),
        ({"classes": ["1"]}, "--classes chooses before boxes are dropped"),
        ({"engine": "torch", "file": True}, "is run by onnx or openvino"),
        ({"engine": "openvino", "run": "of nothing"}, "there is no"),
    ],
)  # fmt: skip
def test_what_a_graph_has_fixed_is_refused(folders, images, words, said, tmp_path):
    folder = folders("detect", "onnx")
    words = dict(words)
    run = folder / "exports" / "model.onnx" if words.pop("file", False) else words.pop("run", folder)
    settings = HERE | words.pop("settings", {})
    engine = words.pop("engine", "onnx")
    with pytest.raises(UserError, match=said):
        predict(run, images, tmp_path / "out", settings, engine=engine, **words)


def test_a_run_without_an_export_says_how_to_make_one(folders, images, tmp_path):
    run = in_folder(_run_of(folders), tmp_path / "run")
    with pytest.raises(UserError, match=r"has none for it .*ziggurat export .* --format openvino"):
        predict(run, images, tmp_path / "out", HERE, engine="openvino")


def test_an_export_of_other_weights_is_refused(folders, images, tmp_path):
    run = in_folder(_run_of(folders), tmp_path / "run")
    shutil.copytree(folders("classify", "openvino") / "exports", run / "exports")
    tensors = load_file(run / "weights.safetensors")
    next(iter(tensors.values())).add_(1)
    save_file(tensors, run / "weights.safetensors")
    with pytest.raises(UserError, match="was made of other weights"):
        evaluate(run, "digits", HERE, engine="openvino")


def _run_of(folders):
    return load_run(folders("classify", "openvino"))


def test_averages_are_of_runs(folders, capsys):
    file = folders("detect", "onnx") / "exports" / "model.onnx"
    assert main(["evaluate", f"{file},{folders('detect', 'onnx')}", "digits", "--plan", "dp=1"]) == 2
    assert "an export is no part of an average" in capsys.readouterr().err


def test_the_command(folders, tmp_path, capsys):
    """`ziggurat export` from its words to its JSON, with a task that translates fast."""
    folder = folders("classify", "openvino")
    words = ["export", str(folder), "--format", "pt2", "--images", "2", "--out", str(tmp_path / "new")]
    assert main([*words, "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["file"] == str(tmp_path / "new" / "model.pt2")
    assert result["parity"]["same_detections"]
    assert result["parity"]["max_error"] <= 1e-4
    assert result["parity"]["images"] == 2
    assert result["metrics"]["torch"]["top1"] == result["metrics"]["exported"]["top1"]
    assert result["images_per_second"]["exported"] > 0
    assert result["weights_sha256"] == weights_sha256(_run_of(folders).model)
    assert main(["export", str(folder), "--format", "pt2", "--images", "0"]) == 2
    assert main(["export", str(tmp_path), "--format", "pt2"]) == 2

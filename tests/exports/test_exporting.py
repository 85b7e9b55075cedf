"""Files that other programs run find what the network finds; what does not gets no name."""

import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from PIL import Image

from support.exported import images_of, spread_run
from ziggurat.errors import UserError
from ziggurat.exports.engines import ENGINES, open_engine, read_facts
from ziggurat.exports.exporting import Request, export_run
from ziggurat.exports.formats import FORMATS, Onnx
from ziggurat.inference.predictor import Predictor
from ziggurat.models.images import Normalization
from ziggurat.runs.folder import weights_sha256
from ziggurat.tasks.detection.graph import padded_detections
from ziggurat.tasks.registry import make_task

KINDS = [("detect", "onnx"), ("detect", "pt2"), ("classify", "openvino"), ("segment", "onnx")]
READER = Path(__file__).parents[2] / "examples" / "read_export.py"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("task", "name"), KINDS)
def test_the_file_finds_what_the_network_finds(exports, task, name):
    made = exports(task, name)
    exported, proof = made.exported, made.exported.proof
    assert exported.path.is_file()
    assert proof.ok
    assert proof.same_detections
    assert proof.max_error <= 1e-4
    assert (proof.images, proof.comparisons, proof.batches) == (3, 27, [1, 2, 3])
    assert len(proof.sizes) == 3
    assert {file.suffix for file in exported.path.parent.iterdir()} <= {FORMATS[name].suffix, ".bin"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("task", "name"), KINDS)
def test_the_file_says_what_it_is(exports, task, name):
    made = exports(task, name)
    facts = read_facts(made.exported.path)
    assert facts == made.exported.facts
    assert facts.task == made.run.model.task == task
    assert facts.classes == made.run.classes
    assert facts.weights_sha256 == weights_sha256(made.run.model)
    assert (facts.mean, facts.std, facts.white) == (made.run.model.mean, made.run.model.std, 255.0)
    assert facts.licence == "CC0-1.0"
    assert facts.run_config() == made.run.config
    assert bool(facts.decode) == (task == "detect")
    assert facts.parity["same_detections"]


@pytest.mark.parametrize("engine", ENGINES[".onnx"])
def test_equal_scores_are_taken_in_one_order_everywhere(exports, engine):
    """On an image of one colour most positions have equal scores: of these the first count, in every program."""
    made = exports("detect", "onnx")
    run = open_engine(made.exported.path, made.exported.facts, engine, 1, "fp32")
    images, sizes = torch.full((2, 3, 128, 96), 90.0), [(128, 96), (97, 70)]
    model, task = made.run.model, make_task(made.run.model, made.run.config)
    with torch.no_grad():
        expected = task.decode(model(Normalization.of(made.run.config.data, model)(images, sizes)), sizes)
    found = padded_detections(run(images, torch.tensor(sizes)))
    for ours, theirs in zip(expected, found, strict=True):
        assert len(ours) > 0
        assert theirs.labels.tolist() == ours.labels.tolist()
        torch.testing.assert_close(theirs.boxes_xyxy, ours.boxes_xyxy, rtol=0, atol=0.05)
        assert (theirs.num_cut, theirs.candidates_cut) == (ours.num_cut, ours.candidates_cut)


def test_dims_have_names(exports):
    model = onnx.load(exports("detect", "onnx").exported.path)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "32*rows", "32*columns"], "sizes": ["batch", 2], "boxes_xyxy": ["batch", 20, 4], "scores": ["batch", 20],
        "labels": ["batch", 20], "count": ["batch"], "cut": ["batch", 2], "best_cut": ["batch"],
    }  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    assert openvino.Core().read_model(exports("classify", "openvino").exported.path).input("images")


class Damaged(Onnx):
    """Writes another weight than the network has."""

    def convert(self, traced):
        translated = super().convert(traced)
        (weight,) = [one for one in translated.model.graph.initializer if "layer2.0.downsample" in one.name]
        values = np.frombuffer(weight.raw_data, dtype=np.float32).copy()
        values[:32] += 0.5
        weight.raw_data = values.tobytes()
        return translated


def test_a_file_that_is_not_as_good_is_refused_and_the_layer_is_named(tmp_path):
    run = spread_run("classify", **{"model.name": "timm:test_resnet"})
    names, tiles = images_of(run, 2)
    path = tmp_path / "new" / "model.onnx"
    exported = export_run(
        run, Request("onnx", path, names, tiles, 1, ""), formats={**FORMATS, "onnx": Damaged()}
    )
    assert exported.path is None
    assert not exported.proof.ok
    assert exported.proof.max_error > 1e-4
    assert exported.proof.worst.startswith("val-00000")
    assert "layer2.0.downsample" in exported.layer
    assert list(path.parent.iterdir()) == []


class Failing(Onnx):
    """Cannot be written."""

    def convert(self, traced):
        return None

    def save(self, converted, facts, path):
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28), str(path))


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path):
    run = spread_run("classify", **{"model.name": "timm:test_resnet"})
    names, tiles = images_of(run, 1)
    old = tmp_path / "model.onnx"
    old.write_text("of before")
    request = Request("onnx", old, names, tiles, 1, "")
    with pytest.raises(UserError, match=r"model\.onnx cannot be written: no space is left"):
        export_run(run, request, formats={**FORMATS, "onnx": Failing()})
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert old.read_text() == "of before"


class Interrupted(Failing):
    """Is stopped by Ctrl-C while it writes."""

    def save(self, converted, facts, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt


def test_nothing_is_left_of_an_export_that_ctrl_c_ends(tmp_path):
    run = spread_run("classify", **{"model.name": "timm:test_resnet"})
    names, tiles = images_of(run, 1)
    request = Request("onnx", tmp_path / "model.onnx", names, tiles, 1, "")
    with pytest.raises(KeyboardInterrupt):
        export_run(run, request, formats={**FORMATS, "onnx": Interrupted()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("task", "name"), [("detect", "onnx"), ("classify", "openvino"), ("segment", "onnx")]
)
def test_a_reader_with_nothing_of_ours(exports, task, name, tmp_path, capsys, monkeypatch):
    """The example reads the file and finds what `Predictor` finds."""
    source = READER.read_text(encoding="utf-8")
    assert "import ziggurat" not in source
    assert "from ziggurat" not in source
    made = exports(task, name)
    images = [np.asarray(tile.permute(1, 2, 0).byte()) for tile in images_of(made.run, 2)[1]]
    images[1] = images[1][:50, :61] if task != "classify" else images[1]
    files = []
    for number, image in enumerate(images):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(image).save(files[-1])
    monkeypatch.setattr(sys, "argv", [str(READER), str(made.exported.path), *files])
    runpy.run_path(str(READER), run_name="__main__")
    found = [json.loads(line)["found"] for line in capsys.readouterr().out.splitlines()]
    predictor = Predictor.of_run(made.run)
    for file, theirs in zip(files, found, strict=True):
        ours = predictor(file)
        if task == "detect":
            assert [one["class"] for one in theirs] == [str(label) for label in ours.labels.tolist()]
            torch.testing.assert_close(
                torch.tensor([one["box"] for one in theirs]), ours.boxes_xyxy, rtol=0, atol=0.05
            )
            torch.testing.assert_close(
                torch.tensor([one["score"] for one in theirs]), ours.scores, rtol=0, atol=1e-4
            )
        elif task == "classify":
            assert theirs == str(int(ours.argmax()))
        else:
            expected = torch.bincount(ours.flatten().long(), minlength=len(made.run.classes)).tolist()
            assert list(theirs.values()) == expected


def test_a_file_of_others_is_refused(tmp_path):
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])), tmp_path / "other.onnx")
    (tmp_path / "no.onnx").write_bytes(b"\x00no")
    (tmp_path / "no.pt2").write_bytes(b"no")
    (tmp_path / "no.xml").write_text("<no/>")
    for name in ("other.onnx", "no.onnx", "no.pt2", "no.xml"):
        with pytest.raises(UserError, match="is no"):
            read_facts(tmp_path / name)

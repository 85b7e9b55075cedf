"""Files in int8 are as good as was measured: what loses more goes back to float layer by layer, or gets no name."""

import json
import math

import openvino
import pytest
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from support.exported import images_of, in_folder, spread_run
from ziggurat.cli.main import main
from ziggurat.commands.evaluate import evaluate
from ziggurat.errors import UserError
from ziggurat.exports.engines import read_facts
from ziggurat.exports.exporting import Request, export_run
from ziggurat.exports.int8 import Int8, int8_layers, layers_of
from ziggurat.exports.samples import single_batches
from ziggurat.models.images import Normalization, Samples

NETWORK = {"model.name": "timm:test_resnet"}
HERE = {"plan": "dp=1", "threads": 1}


def network(factor=1.0):
    """Return a run whose blocks all count; in the first one a channel is larger by a factor, which the layer behind takes back.

    The network stays what it was. But with one scale for all channels, int8 has nothing left of the others.
    """
    run = spread_run("classify", **NETWORK)
    blocks = [one for one in run.model.modules() if isinstance(one, BasicBlock)]
    with torch.no_grad():
        for block in blocks:
            nn.init.ones_(block.bn2.weight)
        blocks[0].bn1.weight[0] *= factor
        blocks[0].bn1.bias[0] = factor
        blocks[0].conv2.weight[:, 0] /= factor
    return run


def exported(run, folder, images, max_drop, value_of):
    """Export a run in int8, as good as a function of the network's logits and the file's says; return also its values."""
    names, tiles = images_of(run, images)
    values = []

    def asked(batching, opened):
        batches = single_batches(names, tiles, batching)
        normalization = Normalization.of(run.config.data, run.model)

        @torch.no_grad()
        def measure():
            model = opened()
            ours = [run.model(normalization(one.images_BCHW, one.sizes))["logits"] for one in batches]
            theirs = [model(Samples(one.images_BCHW, one.sizes_B2))["logits"] for one in batches]
            values.append(value_of(torch.cat(ours), torch.cat(theirs)))
            return values[-1]

        return Int8("embedded", batches, "likeness", 1.0, measure, images, max_drop)

    request = Request("openvino", folder / "model-int8.xml", names, tiles, 1, "", asked)
    return export_run(run, request), values


def likeness(ours, theirs):
    return 1.0 - float((ours - theirs).norm() / ours.norm())


def float_weights(file):
    """Return how many layers of a file have weights that are no integers."""
    model = openvino.Core().read_model(file)
    return len(layers_of(model)) - len(int8_layers(model))


@pytest.mark.sampled(0)
def test_the_layer_that_loses_most_goes_back_to_float(tmp_path):
    made, values = exported(network(3000.0), tmp_path, 2, 20.0, likeness)
    assert len(values) == 2
    assert values[0] < 0.8 < values[1] < 1.0, "the one layer is all that was wrong; others lose a little"
    assert made.ok
    assert len(made.measured.float_layers) == 1
    assert float_weights(made.path) == 1
    facts = read_facts(made.path)
    assert facts.precision == "int8"
    assert facts.parity["same_detections"], "the graph was proved in float"
    assert facts.accuracy["float_layers"] == list(made.measured.float_layers)
    assert facts.accuracy["int8"] == values[1]
    assert facts.accuracy["drop_points"] == pytest.approx(100 * (1 - values[1]))
    assert {one.name for one in tmp_path.iterdir()} == {"model-int8.xml", "model-int8.bin"}


@pytest.mark.sampled(0)
def test_what_loses_too_much_gets_no_name(tmp_path):
    old = tmp_path / "model-int8.xml"
    old.write_text("of before")
    made, values = exported(network(), tmp_path, 1, 0.5, lambda ours, theirs: math.nan)
    assert made.path is None
    assert not made.ok
    assert made.proof.ok
    assert len(values) == 5, "with no layer, with 1, 2, 4 and 8 of 16 in float"
    assert [one.name for one in tmp_path.iterdir()] == [old.name]
    assert old.read_text() == "of before"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return in_folder(network(), tmp_path_factory.mktemp("runs") / "run")


def test_the_command_and_what_it_writes(folder, tmp_path, capsys):
    """The accuracy that the file states is the one that it has in the place of the run."""
    words = [
        "export",
        str(folder),
        "--format",
        "openvino",
        "--int8",
        "digits",
        "--calibration",
        "2",
        "--images",
        "1",
    ]
    assert main([*words, "--max-drop", "100", "--threads", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["file"] == str(folder / "exports" / "model-int8.xml")
    assert result["precision"] == "int8"
    assert float_weights(result["file"]) == 0
    accuracy = result["accuracy"]
    assert accuracy["float_layers"] == []
    assert (accuracy["data"], accuracy["metric"], accuracy["max_drop_points"]) == ("digits", "top1", 100)
    assert accuracy["calibration_images"] == 2
    measured = [evaluate(one, "digits", HERE)["metrics"]["top1"] for one in (folder, result["file"])]
    assert measured == [accuracy["fp32"], accuracy["int8"]]
    with pytest.raises(UserError, match=r"model-int8\.xml computes in int8.* name that file"):
        evaluate(folder, "digits", HERE, engine="openvino")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onnx", "--int8", "digits"], "--int8 is for --format openvino"),
        (["--format", "openvino", "--max-drop", "1"], "--max-drop has no effect without --int8 DATA"),
        (["--format", "openvino", "--calibration", "1"], "--calibration has no effect without --int8 DATA"),
        (["--format", "openvino", "--int8", "digits", "--max-drop", "101"], "between 0 and 100 points: got 101"),
        (["--format", "openvino", "--int8", "digits", "--calibration", "0"], "between 1 and 100000 images: got 0"),
        (["--format", "openvino", "--int8", "no/such/data"], "no/such/data"),
    ],
)  # fmt: skip
def test_what_is_not_usable_is_refused(folder, words, said, capsys):
    assert main(["export", str(folder), *words]) == 2
    assert said in capsys.readouterr().err

"""One file of several runs: its answer is the average that `predict RUN,RUN` makes, and what cannot be averaged so is refused by name."""

import dataclasses
import json

import pytest
import torch

from support.exported import images_of, in_folder, spread_run
from support.small_runs import config_of
from ziggurat.commands.evaluate import evaluate
from ziggurat.commands.export import export
from ziggurat.commands.load import load
from ziggurat.errors import UserError
from ziggurat.exports.averaging import averaged
from ziggurat.exports.exporting import Request, export_run
from ziggurat.exports.loading import load_export
from ziggurat.inference.predictor import Predictor
from ziggurat.runs.members import MEMBERS

RESNET = {"model.name": "timm:test_resnet"}


def several(task, **settings):
    """Return two runs of other weights, of which the second normalizes images in another way."""
    one, other = (spread_run(task, **settings) for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    data = dataclasses.replace(other.config.data, mean="100,110,120", std="50,60,70")
    return one, other._replace(config=dataclasses.replace(other.config, data=data))


@pytest.mark.sampled(0)
def test_masks_are_those_of_the_mean_of_the_logits(tmp_path):
    runs = several("segment")
    run = averaged(["one", "other"], runs)
    names, tiles = images_of(run, 1)
    path = tmp_path / "model.pt2"
    exported = export_run(run, Request("pt2", path, names, tiles, 1, ""))
    assert exported.proof.ok
    facts = exported.facts
    assert facts.model == " + ".join(run.config.model.name for run in runs)
    assert [tuple(one["mean"]) for one in facts.members] == [runs[0].model.mean, (100.0, 110.0, 120.0)]
    image = tiles[0].clamp(0, 255).byte()
    expected = Predictor.of_runs(runs)(image)
    found = Predictor.of_run(load_export(path, facts, "torch", 1, "fp32"))(image)
    assert (found == expected).float().mean() > 0.999
    one, other = (Predictor.of_run(run)(image) for run in runs)
    assert (one == expected).float().mean() < 0.9, "networks that say the same show nothing"
    assert not torch.equal(one, other)


def test_a_folder_of_members_becomes_one_file_of_their_mean_probabilities(tmp_path):
    for number, run in enumerate(several("classify", **RESNET)):
        in_folder(
            run._replace(config=dataclasses.replace(run.config, plan="dp=1")), tmp_path / f"member-{number}"
        )
    (tmp_path / MEMBERS).write_text("members:\n  count: 2\n")
    result = export(tmp_path, "onnx", images=2)
    assert result["ok"]
    assert result["parity"]["max_error"] <= 1e-4
    assert result["file"] == str(tmp_path / "exports" / "model.onnx")
    assert json.dumps(result)
    assert evaluate(result["file"], "digits")["metrics"] == evaluate(tmp_path, "digits")["metrics"]
    average, file = load(tmp_path), load(result["file"])
    one, other = (load(tmp_path / f"member-{number}") for number in range(2))
    _, tiles = images_of(spread_run("classify", **RESNET), 2)
    for image in (tile.clamp(0, 255).byte() for tile in tiles):
        torch.testing.assert_close(file(image), average(image), rtol=0, atol=1e-5)
        mean = (one(image) + other(image)) / 2
        torch.testing.assert_close(average(image), mean, rtol=0, atol=1e-6)
        assert not torch.allclose(one(image), other(image), atol=1e-2), (
            "networks that say the same show nothing"
        )


def test_what_cannot_be_one_graph_is_refused(tmp_path):
    detectors = [spread_run("detect")] * 2
    with pytest.raises(UserError, match=r"a, b cannot become one graph: boxes of several runs are fused"):
        averaged(["a", "b"], detectors)
    padded, other = several("segment")
    other.model.size_multiple = 7
    with pytest.raises(UserError, match=r"the same multiples that images are padded to: a has 32, b has 7"):
        averaged(["a", "b"], [padded, other])
    config = config_of("classify", **RESNET, **{"plan": "dp=1", "train.ema": 0})
    run = spread_run("classify", **RESNET)
    names = [str(in_folder(run._replace(config=config), tmp_path / name)) for name in "ab"]
    with pytest.raises(UserError, match=r"several runs have no folder of their own: give --out"):
        export(names, "pt2")

"""Averaged predictions of several runs: against what each of them says alone, under every kind of plan, and after a kill."""

import csv
import json
import os
import signal

import ensemble_boxes
import numpy as np
import pytest
import rasterio  # noqa: F401 - it sets variables of the environment when it is imported first
import torch
from PIL import Image

from support.ranks import run_ranks
from support.small_runs import config_of
from support.untrained_runs import untrained_run
from ziggurat.commands.evaluate import evaluate
from ziggurat.commands.load import load
from ziggurat.commands.predict import predict
from ziggurat.commands.runs import members_of
from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections
from ziggurat.errors import UserError
from ziggurat.inference import journal
from ziggurat.inference.journal import FOLDER
from ziggurat.inference.outputs.label_files import open_labels
from ziggurat.tasks.detection.fusing import SAME_OBJECT, fuse_best, fuse_weighted
from ziggurat.tasks.opening import open_dataset

NUM = 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The names of three runs of each task; the detectors have heads of their own."""
    folder = tmp_path_factory.mktemp("runs")
    heads = {1: {"model.name": "retinanet-test_resnet-fpn"}}
    made = {}
    for task in ("detect", "classify", "segment"):
        config = config_of(task, **({"decode.score_threshold": 0.01} if task == "detect" else {}))
        made[task] = [
            untrained_run(folder / f"{task}-{n}", config, n, **(heads.get(n, {}) if task == "detect" else {}))
            for n in range(NUM)
        ]
    return made


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of blurred noise; two are larger than a tile."""
    folder = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for number, (height, width) in enumerate([(64, 64), (64, 64), (64, 101), (90, 64)]):
        coarse = draw.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{number}.png")
    return folder


def rows_of(out):
    return json.loads((out / "predictions.json").read_text())


def test_a_classification_is_the_mean_of_probabilities(runs, images, tmp_path):
    files = sorted(map(str, images.glob("*.png")))
    alone = torch.stack([torch.stack(load(run, "cpu")(files)) for run in runs["classify"]])
    together = torch.stack(load(runs["classify"], "cpu")(files))
    torch.testing.assert_close(together, alone.mean(dim=0), rtol=0, atol=1e-7)
    result = predict(",".join(runs["classify"]), files, tmp_path, formats=("csv", "probabilities"))
    assert result["members"] == runs["classify"]
    for index, row in enumerate(rows_of(tmp_path)):
        best = int(together[index].argmax())
        assert row["category"] == str(best)
        assert row["spread"] == pytest.approx(float(alone[:, index, best].std(correction=0)), abs=1e-6)
        assert row["agreement"] == pytest.approx(
            float((alone[:, index].argmax(dim=1) == best).float().mean())
        )
        distance = (alone[:, index] - together[index]).abs().sum(dim=1).mean() / 2
        assert 0 < row["disagreement"] == pytest.approx(float(distance), abs=1e-6)
    with (tmp_path / "predictions.csv").open() as file:
        assert next(csv.reader(file))[-3:] == ["agreement", "spread", "disagreement"]


def logits_of(run, image):
    """Return the logits of an image of one tile, by the plain network."""
    predictor = load(run, "cpu")
    normalized = predictor.compute().normalization(image[None], [tuple(image.shape[1:])])
    with torch.no_grad():
        return predictor.model.eval()(normalized)["logits"][0]


def test_a_mask_is_of_the_mean_of_logits_with_a_map_of_disagreement(runs, images, tmp_path):
    file = images / "0.png"
    result = predict(runs["segment"], [str(file)], tmp_path, formats=("csv", "disagreement", "probabilities"))
    image = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    logits = torch.stack([logits_of(run, image) for run in runs["segment"]])
    mean, shares = logits.mean(dim=0), logits.softmax(dim=1)
    mask = np.array(Image.open(tmp_path / "masks" / "0.png"))
    assert (mask == mean.argmax(dim=0).numpy()).mean() > 0.999  # a tie may fall either way
    assert not (mask == logits[0].argmax(dim=0).numpy()).all()
    apart = np.array(Image.open(tmp_path / "disagreement" / "0.png"))
    expected = (shares - shares.mean(dim=0)).abs().sum(dim=1).mean(dim=0) / 2
    np.testing.assert_allclose(apart / 254, expected.numpy(), atol=0.003)
    (row,) = rows_of(tmp_path)
    assert row["mean_disagreement"] == pytest.approx(float(expected.mean()), abs=0.003)
    assert str(tmp_path / "disagreement") in result["files"]
    with open_labels(tmp_path / "disagreement" / "0.tif") as raster:
        assert (raster.read(1) == apart).all()
        assert raster.scales == (pytest.approx(1 / 254),)
    with open_labels(tmp_path / "probabilities" / "0.tif") as raster:
        assert raster.count == 11, "the disagreement is no class"
        np.testing.assert_allclose(raster.read() / 254, mean.softmax(dim=0).numpy(), atol=0.003)


@pytest.mark.sampled(0)
def test_a_large_masks_map_is_that_of_its_tiles(runs, images, tmp_path):
    """Where an image is resized and tiled, the map goes the way of the mask: each pixel is that of its tile's core."""
    predict(runs["segment"], [str(images)], tmp_path / "several")
    predict(
        [runs["segment"][0], runs["segment"][0] + "/weights.safetensors"], [str(images)], tmp_path / "twice"
    )
    for file in sorted(images.glob("*.png")):
        apart = np.array(Image.open(tmp_path / "several" / "disagreement" / file.name))
        assert apart.shape == np.array(Image.open(file)).shape[:2]
        assert 0 < apart.mean() < 254
        assert apart.max() < 254
        assert not np.array(Image.open(tmp_path / "twice" / "disagreement" / file.name)).any(), (
            "one run agrees with itself"
        )


def some_detections(seed, extent, count=40):
    """Return boxes around common centres, so that those of several seeds lie upon each other."""
    centres = np.random.default_rng(7).uniform(10, min(extent) - 10, (count, 2))
    draw = np.random.default_rng(seed)
    keep = draw.random(count) < 0.8
    low = centres + draw.normal(0, 1, (count, 2)) - 6
    boxes = np.concatenate([low, low + draw.uniform(10, 14, (count, 2))], axis=1)[keep].clip(0, min(extent))
    scores = torch.from_numpy(np.sort(draw.random(keep.sum()))[::-1].copy()).float()
    return Detections(
        torch.from_numpy(boxes).float(), scores, torch.from_numpy(np.arange(count)[keep] % 3), 2, 0.1, 1
    )


def test_boxes_are_fused_as_the_package_does():
    extent = (120, 200)
    found = [some_detections(seed, extent) for seed in range(NUM)]
    fused = fuse_weighted(found, extent, DecodeConfig())
    scale = np.array([200, 120, 200, 120])
    boxes, scores, labels = ensemble_boxes.weighted_boxes_fusion(
        [one.boxes_xyxy.double().numpy() / scale for one in found],
        [one.scores.numpy() for one in found],
        [one.labels.numpy() for one in found],
        iou_thr=SAME_OBJECT,
    )
    np.testing.assert_allclose(fused.boxes_xyxy.numpy(), boxes * scale, atol=1e-3)
    np.testing.assert_allclose(fused.scores.numpy(), scores, atol=1e-6)
    assert fused.labels.tolist() == labels.tolist()
    assert (fused.num_cut, fused.candidates_cut) == (6, 3)
    assert (fused.scores.diff() <= 0).all()


@pytest.mark.parametrize("fuse", [fuse_weighted, fuse_best])
def test_a_box_says_which_share_of_the_runs_has_found_it(fuse):
    one = Detections(
        torch.tensor([[0.0, 0, 10, 10], [30, 30, 50, 50]]), torch.tensor([0.9, 0.6]), torch.tensor([1, 2])
    )
    other = Detections(torch.tensor([[0.0, 0, 10, 11]]), torch.tensor([0.5]), torch.tensor([1]))
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    fused = fuse([one, other, nothing], (60, 60), DecodeConfig())
    assert fused.labels.tolist() == [1, 2]
    assert fused.shares.tolist() == pytest.approx([2 / 3, 1 / 3])
    empty = fuse([nothing, nothing], (60, 60), DecodeConfig())
    assert len(empty) == len(empty.shares) == 0
    flat = Detections(torch.tensor([[5.0, 5, 5, 9]]), torch.tensor([0.5]), torch.tensor([1]))
    assert len(fuse_weighted([flat, flat], (60, 60), DecodeConfig())) == 0


def test_detectors_of_several_heads_are_fused(runs, images, tmp_path):
    found = {}
    for fusion in ("weighted", "nms"):
        settings = {"decode.fusion": fusion}
        predict(runs["detect"], [str(images)], tmp_path / fusion, settings, pictures="none")
        found[fusion] = rows_of(tmp_path / fusion)
        assert {row["members"] for row in found[fusion]} <= {0.3333, 0.6667, 1.0}
        (named,) = load(runs["detect"], "cpu", settings)([str(images / "2.png")])
        of_image = [row for row in found[fusion] if row["file_name"].endswith("2.png")]
        assert named.shares.tolist() == pytest.approx([row["members"] for row in of_image], abs=1e-4)
    assert found["weighted"] != found["nms"]
    alone = [load(run, "cpu")([str(images / "2.png")])[0] for run in runs["detect"]]
    expected = fuse_weighted(alone, (64, 101), DecodeConfig())
    of_image = [row for row in found["weighted"] if row["file_name"].endswith("2.png")]
    assert [row["score"] for row in of_image] == pytest.approx(expected.scores.tolist(), abs=1e-6)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("task", ["detect", "classify", "segment"])
def test_metrics_and_files_are_the_same_on_several_workers(runs, images, tmp_path, task):
    names, plans = runs[task], ["dp=1", "dp=2", {"detect": "pp=2"}.get(task, "sp=2")]
    metrics = [json.dumps(evaluate(names, "digits", {"plan": plan})["metrics"]) for plan in plans[:2]]
    assert metrics[0] == metrics[1]
    few = [str(images / name) for name in ("0.png", "2.png")]
    for plan in plans:
        predict(names, few, tmp_path / plan, {"plan": plan}, pictures="none")
    files = {file.relative_to(tmp_path / "dp=1") for file in (tmp_path / "dp=1").rglob("*.*")}
    assert len(files) == {"segment": 6}.get(task, 2)
    for file in files:
        ours, theirs = (tmp_path / plan / file for plan in plans[:2])
        assert ours.read_bytes().replace(b"dp=1", b"dp=2") == theirs.read_bytes(), file
    alike = zip(rows_of(tmp_path / "dp=1"), rows_of(tmp_path / plans[2]), strict=True)
    for one, other in alike:
        name = {"segment": "mean_disagreement"}.get(task, "score")
        assert one[name] == pytest.approx(other[name], abs=1e-3)


def test_the_average_is_measured_as_its_predictions_say(runs):
    config = members_of(runs["classify"], {}, "evaluate").config
    dataset = open_dataset("digits", "val", "classify", config.data, config.digits)
    predicted = load(runs["classify"], "cpu").predict(dataset)
    right = [int(one.argmax()) == dataset.label(index) for index, one in predicted.items()]
    assert evaluate(runs["classify"], "digits")["metrics"]["top1"] == pytest.approx(sum(right) / len(right))


def killed(workers, names, images, out):
    """Predict in a process of its own: a plan of one worker takes the process that asks for it."""
    return predict(names, [str(images)], out, {"plan": "dp=1"})


def test_a_prediction_by_several_runs_goes_on_after_a_kill(runs, images, tmp_path, monkeypatch):
    names, out, alone = runs["detect"], tmp_path / "out", {"plan": "dp=1"}
    predict(names, [str(images)], tmp_path / "whole", alone)
    left, write = [5], journal._write

    def deadly(*given):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*given)

    monkeypatch.setattr(journal, "_write", deadly)
    with pytest.raises(RuntimeError, match=r"died without a word|killed"):
        run_ranks(killed, 1, (names, images, out))
    monkeypatch.setattr(journal, "_write", write)
    assert (out / FOLDER).is_dir()
    with pytest.raises(UserError, match="the weights are not those"):
        predict(names[::-1], [str(images)], out, alone, resume=True)
    assert predict(names, [str(images)], out, alone, resume=True)["resumed"]
    for file in ("predictions.json", "predictions.csv"):
        assert (out / file).read_text() == (tmp_path / "whole" / file).read_text()


def other_run(runs, tmp_path, task, **settings):
    return [runs[task][0], untrained_run(tmp_path / "other", config_of(task), 5, **settings)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"data.crop": 96},
            r"the same data\.crop: .* has 64, .*other has 96; give one for all: --set data\.crop",
        ),
        ({"dtype": "bf16"}, "the same dtype"),
        ({"threads": 2}, "the same threads"),
        ({"data.range": "0,4095"}, r"the same data\.range: .* has none"),
    ],
)
def test_runs_that_see_images_otherwise_are_refused_by_name(runs, tmp_path, settings, says):
    with pytest.raises(UserError, match=says):
        evaluate(other_run(runs, tmp_path, "classify", **settings), "digits")


def test_runs_of_other_tasks_and_classes_are_refused_by_name(runs, images, tmp_path):
    with pytest.raises(UserError, match=r"the same task: .* has classify, .* has segment"):
        evaluate([runs["classify"][0], runs["segment"][0]], "digits")
    names = other_run(runs, tmp_path, "classify")
    facts = json.loads((tmp_path / "other" / "classes.json").read_text())
    facts["classes"] = facts["classes"][::-1]
    (tmp_path / "other" / "classes.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"the same classes, in the same order.*other has 9 \(1\), 8 \(2\)"):
        load(names, "cpu")
    with pytest.raises(UserError, match="given twice"):
        evaluate([names[0]] * 2, "digits")
    with pytest.raises(UserError, match=r"decode\.fusion has no effect with one run"):
        evaluate(runs["detect"][0], "digits", {"decode.fusion": "nms"})
    with pytest.raises(UserError, match="one comma between"):
        evaluate(names[0] + ",", "digits")
    with pytest.raises(UserError, match="one is named"):
        predict(runs["segment"][0], [str(images)], tmp_path / "out", formats=("disagreement",))


def test_each_run_has_its_own_normalization(runs, images, tmp_path):
    """As members do that have measured it over other images."""
    names = other_run(runs, tmp_path, "classify", **{"data.mean": "90,100,110", "data.std": "50,60,70"})
    file = str(images / "0.png")
    alone = torch.stack([load(name, "cpu")(file) for name in names])
    torch.testing.assert_close(load(names, "cpu")(file), alone.mean(dim=0), rtol=0, atol=1e-7)


def test_a_missing_package_is_named_with_its_remedy(runs, images, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ensemble_boxes", None)
    with pytest.raises(
        UserError,
        match=r"decode\.fusion=nms does not\) needs the package ensemble_boxes: pip install 'ziggurat\[members\]'",
    ):
        load(runs["detect"], "cpu")(str(images / "0.png"))
    assert load(runs["detect"], "cpu", {"decode.fusion": "nms"})(str(images / "0.png")).shares is not None

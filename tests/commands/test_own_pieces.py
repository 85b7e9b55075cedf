"""Data, models, losses and callbacks of a program's own, given to `ziggurat.train` in the place of names."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ziggurat
from support.small_runs import SMALL
from ziggurat.config import ModelConfig
from ziggurat.data.batch import Objects
from ziggurat.data.dataset import ImageRecord
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.tasks.detection.task import DetectionTask

SETTINGS = {key: value for key, value in SMALL.items() if key != "data.path"} | {
    "train.steps": 3,
    "plan": "dp=1",
}
DETECTOR = {"model.name": "fcos-test_resnet-fpn"}


@dataclass
class Blobs:
    """A data set in memory."""

    count: int
    classes: tuple[str, ...] = ("round", "square")
    category_ids: tuple[int, ...] = (1, 2)

    def __len__(self):
        return self.count

    def record(self, index):
        return ImageRecord(f"blob-{index}", index + 1, 64, 64)

    def image(self, index):
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        image[:, 8 + index : 40, 10:44] = 200
        return image

    def objects(self, index):
        return Objects(torch.tensor([[10.0, 8.0 + index, 44.0, 40.0]]), torch.tensor([index % 2]))


class Labels(Blobs):
    """The same with a label each."""

    objects = None

    def label(self, index):
        return index % 2


def small_detector(num_classes):
    return build_model(
        ModelConfig("fcos-test_resnet-fpn", levels="p3-p5", channels=8, head_depth=0), num_classes
    )


class DoubledLoss(DetectionTask):
    """A loss of one's own."""

    name = "doubled"
    model_task = "detect"

    def loss_shares(self, outputs, assignment, totals):
        return {name: 2 * share for name, share in super().loss_shares(outputs, assignment, totals).items()}


def losses(folder):
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def test_a_data_set_of_ones_own(tmp_path):
    given = {"settings": SETTINGS | DETECTOR, "validation": Blobs(3)}
    one = ziggurat.train(Blobs(6), out=tmp_path / "one", **given)
    assert (one["task"], one["steps"]) == ("detect", 3)
    assert one["metrics"]["map50"] is not None
    two = ziggurat.train(
        Blobs(6), out=str(tmp_path / "two"), **given | {"settings": SETTINGS | DETECTOR | {"plan": "dp=2"}}
    )
    assert two["weights_sha256"] == one["weights_sha256"]
    assert ziggurat.load(tmp_path / "one").classes == ("round", "square")
    again = ziggurat.evaluate(tmp_path / "one", "own:Blobs", {"plan": "dp=1"})
    assert again["metrics"]["map50"] == one["metrics"]["map50"]


def test_a_data_set_says_what_it_is_for(tmp_path):
    del_objects = type(
        "Tags", (), {name: getattr(Labels, name) for name in ("__len__", "record", "image", "label")}
    )
    data = del_objects()
    data.count, data.classes, data.category_ids = 4, ("a", "b"), (1, 2)
    settings = SETTINGS | {"model.name": "pnn", "model.pnn.channels": 8}
    for name in ("model.levels", "model.channels", "model.head_depth", "decode.max_detections"):
        settings.pop(name)
    result = ziggurat.train(data, settings, tmp_path / "run")
    assert (result["task"], result["metrics"]) == ("classify", {})


class Pairs(torch.utils.data.Dataset):
    """The same as PyTorch's own loaders take it."""

    def __init__(self, blobs, target):
        self.blobs, self.target = blobs, target
        self.classes = list(blobs.classes)

    def __len__(self):
        return len(self.blobs)

    def __getitem__(self, index):
        image = self.blobs.image(index)
        objects = self.blobs.objects(index)
        targets = {
            "detect": {"boxes": objects.boxes_xyxy, "labels": objects.labels},
            "classify": index % 2,
            "segment": (image[0] > 0).long(),
        }
        return Image.fromarray(image.permute(1, 2, 0).numpy()), targets[self.target]


def test_a_map_style_data_set_gives_the_bits_of_one_of_ours(tmp_path):
    given = {"settings": SETTINGS | DETECTOR | {"train.steps": 2}}
    ours = ziggurat.train(Blobs(6), out=tmp_path / "ours", validation=Blobs(3), **given)
    pairs = Pairs(Blobs(6), "detect"), Pairs(Blobs(3), "detect")
    theirs = ziggurat.train(pairs[0], out=tmp_path / "theirs", validation=pairs[1], **given)
    assert theirs["weights_sha256"] == ours["weights_sha256"]
    assert theirs["metrics"] == ours["metrics"]
    log = (tmp_path / "theirs" / "log.txt").read_text()
    assert log.count("are taken as images with boxes of 2 classes: round, square") == 2


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("classify", {"model.name": "pnn", "model.pnn.channels": 8}),
        ("segment", {"model.name": "smp:unet/tu-test_resnet"}),
    ],
)
def test_a_map_style_data_set_says_what_it_is_for(tmp_path, task, model):
    settings = {
        key: value for key, value in SETTINGS.items() if not key.startswith(("model.", "decode."))
    } | model
    result = ziggurat.train(
        Pairs(Blobs(4), task), settings, tmp_path / "run", validation=Pairs(Blobs(2), task)
    )
    assert (result["task"], result["steps"]) == (task, 3)
    assert result["metrics"]


@pytest.mark.parametrize(
    ("data", "validation", "message"),
    [
        ([1, 2], None, "must be a pair, .* item 0 of list, train is of type int; .* needs classes, category_ids, record, image"),
        ("digits", Blobs(2), "validation is a data set beside one of your own"),
        (Blobs(4), 7, "val .int. is no data set"),
        ("own:Nothing", None, "there is no data set own:Nothing in this program"),
        (Blobs(4), Blobs(2, ("other", "names")), "the classes of own:Blobs must be those of the model"),
    ],
)  # fmt: skip
def test_what_is_no_data_set(tmp_path, data, validation, message):
    with pytest.raises(UserError, match=message):
        ziggurat.train(data, SETTINGS | DETECTOR, tmp_path / "run", validation=validation)


def test_a_model_of_ones_own(tmp_path):
    settings = {key: value for key, value in SETTINGS.items() if not key.startswith("model.")}
    one, two = (
        ziggurat.train(Blobs(6), settings | {"plan": plan}, tmp_path / plan, model=small_detector)
        for plan in ("dp=1", "dp=2")
    )
    assert one["model"] == "own:small_detector"
    assert one["weights_sha256"] == two["weights_sha256"]
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    found = ziggurat.load(tmp_path / "dp=1", settings={"decode.score_threshold": 0})(tmp_path / "a.png")
    assert set(found.names) <= {"round", "square"}


def test_a_model_says_what_it_lacks(tmp_path):
    with pytest.raises(UserError, match="lacks task, num_classes, mean"):
        ziggurat.train(Blobs(4), SETTINGS, tmp_path / "run", model=lambda count: torch.nn.Linear(3, count))


def test_a_loss_of_ones_own(tmp_path):
    ziggurat.train(Blobs(6), SETTINGS | DETECTOR, tmp_path / "plain")
    result = ziggurat.train(Blobs(6), SETTINGS | DETECTOR, tmp_path / "doubled", task=DoubledLoss)
    assert result["task"] == "doubled"
    assert losses(tmp_path / "doubled")[0] == pytest.approx(2 * losses(tmp_path / "plain")[0])


# Callbacks.

EVERY = {"train.checkpoint_every": 1, "train.evaluate_every": 2, "train.steps": 4, "checkpoint.keep": 9}


def test_callbacks_are_told_of_everything(tmp_path):
    steps, evaluations, checkpoints = [], [], []
    ziggurat.train(
        Blobs(6), SETTINGS | DETECTOR | EVERY, tmp_path / "run", validation=Blobs(2),
        on_step=steps.append, on_evaluation=evaluations.append, on_checkpoint=checkpoints.append,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [{"kind": "train"} | row for row in steps] == [row for row in lines if row["kind"] == "train"]
    assert [row["step"] for row in evaluations] == [2, 4]
    assert all("map50" in row for row in evaluations)
    told = [row["step"] for row in checkpoints]
    assert told == sorted(set(told))
    assert told[-1] == 4
    assert all(Path(row["folder"]).is_dir() for row in checkpoints)


@dataclass
class Writes:
    """Writes what it is told into a file, and fails at a step; it may be sent to a worker."""

    file: Path
    fails_at: int = 0

    def __call__(self, row):
        with self.file.open("a") as stream:
            stream.write(f"{row['step']}\n")
        if row["step"] == self.fails_at:
            raise RuntimeError("no room\non the board")


def test_with_several_workers_the_first_is_told(tmp_path):
    writes = Writes(tmp_path / "told")
    settings = SETTINGS | DETECTOR | {"plan": "dp=2"}
    ziggurat.train(Blobs(6), settings, tmp_path / "run", on_step=writes)
    assert writes.file.read_text().split() == ["1", "2", "3"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", ["dp=1", "dp=2"])
def test_what_a_callback_raises_ends_the_run_with_a_checkpoint(tmp_path, plan):
    settings = SETTINGS | DETECTOR | {"plan": plan}
    whole = ziggurat.train(Blobs(6), settings, tmp_path / "whole")
    with pytest.raises(UserError) as caught:
        ziggurat.train(Blobs(6), settings, tmp_path / "run", on_step=Writes(tmp_path / "told", fails_at=2))
    said = str(caught.value)
    assert "the callback on_step failed at step 2: RuntimeError: no room" in said
    assert "test_own_pieces.py, line" in said
    assert "--resume goes on after step 2" in said
    on = ziggurat.train(Blobs(6), {"plan": "dp=1"}, tmp_path / "run", resume=True)
    assert on["weights_sha256"] == whole["weights_sha256"]


def test_what_cannot_be_sent_to_workers_is_said(tmp_path):
    settings = SETTINGS | DETECTOR | {"plan": "dp=2", "threads": 2}
    with pytest.raises(UserError, match="named at the top level"):
        ziggurat.train(Blobs(6), settings, tmp_path / "run", on_step=lambda row: None)


def test_boxes_have_names(tmp_path):
    ziggurat.train(Blobs(6), SETTINGS | DETECTOR | {"decode.score_threshold": 0}, tmp_path / "run")
    predictor = ziggurat.load(tmp_path / "run")
    pixels = np.full((64, 64, 3), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    forms = [
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        pixels,
        Image.fromarray(pixels),
        torch.tensor(pixels).permute(2, 0, 1),
    ]
    for found in [predictor(form) for form in forms] + predictor(forms):
        assert (
            len(found)
            == len(found.names)
            == len(found.scores)
            == len(found.boxes_xyxy)
            == len(found.classes)
            > 0
        )
        assert [predictor.classes[label] for label in found.classes] == list(found.names)
        assert torch.equal(found.classes, found.labels)
    assert predictor.draw(pixels, found).size

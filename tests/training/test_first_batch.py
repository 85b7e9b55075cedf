"""The first training samples are shown before the first step, as they are trained on, and alike under every plan."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from support.ranks import run_ranks
from support.small_runs import SMALL, TASKS, config_of
from ziggurat.models.build import build_model
from ziggurat.report.first_batch import draw_samples
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.registry import make_task
from ziggurat.training.data import TrainingData
from ziggurat.training.first_batch import show_first_batch
from ziggurat.training.loop import train


class Log:
    """What `show_first_batch` asks of a run's log."""

    def __init__(self, active=True):
        self.active, self.shown, self.said = active, {}, []
        self.board, self.say = self, self.said.append

    def add_image(self, tag, pixels, step, dataformats):
        self.shown[tag] = pixels


def shown(workers, folder, config, plan):
    """Show the first batch on each worker, and return what the log of each got, and the state of random numbers."""
    with make_mesh(workers, plan) as mesh:
        config = dataclasses.replace(config, plan=plan)
        data = TrainingData(config, mesh)
        task = make_task(build_model(config.model, len(data.classes)), config)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        log = Log(workers.is_first)
        show_first_batch(data, task, folder / plan, log)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1] == np.random.get_state()[1].tolist()
        expected = None
        if plan == "dp=1":
            samples = [data.samples.sample(id) for piece in data.pieces(0) for id in piece]
            names = [data.dataset.record(data.samples.image_index(one.id.sample)).name for one in samples]
            expected = np.asarray(draw_samples(samples, names, task, data.classes))
    return log.shown, expected


@pytest.mark.sampled(2)
@pytest.mark.parametrize("task", TASKS)
def test_every_plan_shows_the_samples_of_one_worker(tmp_path, task):
    config = config_of(task, **{"train.report": "pictures"})
    pictures = {}
    for plan, world in (("dp=1", 1), ("dp=2", 2), ("sp=2", 2)):
        (tmp_path / plan).mkdir()
        (logged, expected), *others = run_ranks(shown, world, (tmp_path, config, plan))
        assert all(one == {} for one, _ in others)
        with Image.open(tmp_path / plan / "report" / "train_batch.png") as picture:
            pictures[plan] = np.asarray(picture)
        assert np.array_equal(logged["report/train_batch"], pictures[plan])
        if expected is not None:
            assert np.array_equal(expected, pictures[plan])
    assert np.array_equal(pictures["dp=1"], pictures["dp=2"])
    assert np.array_equal(pictures["dp=1"], pictures["sp=2"])


def unwritable(workers, folder, config):
    (folder / "report").write_text("a file where a folder should be")
    data = TrainingData(config, make_mesh(workers))
    log = Log()
    show_first_batch(data, make_task(build_model(config.model, len(data.classes)), config), folder, log)
    return log.said


def test_a_picture_that_cannot_be_written_is_said_and_stops_nothing(tmp_path):
    (said,) = run_ranks(unwritable, 1, (tmp_path, config_of("classify", **{"train.report": "pictures"})))
    assert len(said) == 1
    assert "train_batch.png" in said[0]


def trained_with(workers, folder, report):
    return train(workers, config_of("classify", **{"train.report": report}), folder / report)[
        "weights_sha256"
    ]


def test_pictures_change_no_bit_and_a_run_has_them(tmp_path):
    assert SMALL["train.report"] == "numbers"
    hashes = [run_ranks(trained_with, 1, (tmp_path, report)) for report in ("pictures", "numbers")]
    assert hashes[0] == hashes[1]
    assert (tmp_path / "pictures" / "report" / "train_batch.png").is_file()
    assert not (tmp_path / "numbers" / "report" / "train_batch.png").exists()
    assert json.loads((tmp_path / "numbers" / "report" / "metrics.json").read_text())["metrics"]

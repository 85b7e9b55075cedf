"""Runs on photographs of several shapes: crops that change from step to step, with the bits of one worker."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from support.promises import BRANCHING
from support.ranks import run_ranks
from support.small_runs import SMALL, TASKS, resumed_behind, trained
from ziggurat.commands.resolving import resolve
from ziggurat.commands.train import train as start_training
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.strategies.mesh import make_mesh
from ziggurat.training.data import TrainingData
from ziggurat.training.plan_requests import REQUEST

SIZES = [(40, 90), (90, 40), (64, 64), (30, 80)] * 3  # rows and columns
GROUPED = {
    "data.aspect_grouping": 1, "data.crop": 96, "data.quarter_turns": False, "train.steps": 4, "train.batch_size": 4,
    "train.microbatches": 4, "model.norm": "group", "train.checkpoint_every": 1, "checkpoint.keep": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    images, annotations = [], []
    for number, (rows, columns) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 90, (rows, columns, 3), dtype=np.uint8)
        pixels[8:24, 10:26] += 120
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": columns, "height": rows})
        corners = [10, 8, 26, 8, 26, 24, 10, 24]
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [10, 8, 16, 16], "iscrowd": 0, "area": 256,
             "segmentation": [corners]}
        )  # fmt: skip
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    (folder / "set.json").write_text(json.dumps(content))
    return folder / "set.json"


def config_of(task, photographs, **settings):
    small = SMALL | TASKS[task] | GROUPED | {"task": task, "data.path": str(photographs)}
    return override(RunConfig(), small | settings)


@pytest.fixture(scope="module")
def alone(photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    ((outcome,),) = run_ranks(trained, 1, ("dp=1", folder, [config_of("detect", photographs)]))
    return outcome, folder / "dp=1-0"


def shapes(workers, config):
    data = TrainingData(config, make_mesh(workers, config.plan))
    found = [(data.shape(step).extent, [id.sample for id in data.sampler.batch(step)]) for step in range(6)]
    return found, data.notes


def test_steps_have_images_of_one_shape(photographs):
    config = dataclasses.replace(config_of("detect", photographs), plan="dp=1")
    ((found, notes),) = run_ranks(shapes, 1, (config,))
    assert len({extent for extent, _ in found}) > 1, "shapes change"
    for extent, batch in found:
        wide = [SIZES[number][1] > SIZES[number][0] for number in batch]
        assert extent[0] < 96 or not all(wide), "wide images have low crops"
    (note,) = [one for one in notes if "data.aspect_grouping=1: of the pixels of the first 4 steps" in one]
    saved, square = (
        int(part.partition("%")[0]) for part in (note.split("steps ")[1], note.split("crops ")[1])
    )
    assert saved < square
    config = dataclasses.replace(config, plan="dp=2")
    assert run_ranks(shapes, 2, (config,)) == [(found, notes)] * 2


@pytest.mark.parametrize(
    "world", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), 4]
)
def test_the_same_bits_on_any_number_of_workers(photographs, alone, tmp_path, world):
    config = config_of("detect", photographs)
    for (outcome,) in run_ranks(trained, world, (f"dp={world}", tmp_path, [config])):
        assert outcome == alone[0]


def test_a_run_goes_on_in_the_same_bits(alone, tmp_path):
    (digest, steps, metrics), folder = alone
    for said in resumed_behind(folder, tmp_path / "run", 2, 4):
        assert said == (digest, steps[-1][0], metrics)


@pytest.mark.slow
def test_a_living_run_takes_another_plan_in_the_same_bits(photographs, tmp_path):
    """Crops around rare classes, too: what both are made of goes from plan to plan, or is made anew."""
    more = {"data.rare_crops": 0.5, "data.crop": 64, "train.steps": 6}
    settings = SMALL | TASKS["detect"] | GROUPED | more | {"task": "detect", "data.path": str(photographs)}

    def ask(row):
        if row["step"] == 2:
            (tmp_path / "changed" / REQUEST).write_text("dp=1\n")

    kept = start_training(None, settings | {"plan": "dp=1"}, tmp_path / "kept")
    changed = start_training(None, settings | {"plan": "dp=2"}, tmp_path / "changed", on_step=ask)
    assert "dp=1" in (tmp_path / "changed" / "log.txt").read_text()
    assert changed["weights_sha256"] == kept["weights_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
@pytest.mark.parametrize("plan", ["sp=2", "sp=2x2", "pp=2", "lp=2", "tp=2", "dp=2,sp=2", "dp=2"])
def test_other_plans_compute_the_same(photographs, tmp_path, plan, task):
    more = BRANCHING.get(task, {}) if plan == "lp=2" else {}
    more |= {"tensor.min_width": 8, "model.head_depth": 2} if plan == "tp=2" else {}
    config = config_of(task, photographs, **more)
    world = 4 if "," in plan or "x" in plan else 2
    ((alone,),) = run_ranks(trained, 1, ("dp=1", tmp_path, [config]))
    for (outcome,) in run_ranks(trained, world, (plan, tmp_path, [config])):
        losses = [[loss for loss, _ in one[1]] for one in (outcome, alone)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_classification_and_turned_images_are_refused(photographs):
    config = config_of("classify", "digits", plan="dp=1")
    with pytest.raises(
        UserError,
        match=r"data\.aspect_grouping has no effect on a run to classify: it is for detect and segment",
    ):
        resolve(config, None, False, given={"data.aspect_grouping": 1})

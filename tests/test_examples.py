"""The examples do what they say."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio  # noqa: F401 - its import sets variables of the environment, which a test may not
import tifffile
import torch
from PIL import Image

import ziggurat
from support.commands import noise_images, sets
from support.example_commands import run_commands
from support.ranks import run_ranks
from support.slides import rectangle, write_annotations, write_slide
from ziggurat.config import load_config, range_faults

EXAMPLES = Path(__file__).parents[1] / "examples"


def own_loop(workers, plan, steps):
    """Run the example, which a worker loads by itself."""
    return runpy.run_path(str(EXAMPLES / "own_loop.py"))["train"](workers, plan, steps)


def test_a_loop_of_ones_own_under_any_plan():
    def found(plan, world):
        losses, digest = run_ranks(own_loop, world, (plan, 4))[0]
        return losses, digest

    losses, digest = found("dp=1", 1)
    assert losses[-1] < losses[0]
    assert [found("dp=2", 2), found("dp=3", 3)] == [(losses, digest)] * 2
    for plan, world in (("sp=2", 2), ("pp=2", 2), ("tp=2", 2), ("fsdp=2", 2), ("tp=2,sp=2", 4)):
        assert found(plan, world)[0] == pytest.approx(losses, rel=1e-4)


def test_the_recipes_are_configs():
    recipes = list(EXAMPLES.glob("*.yaml"))
    assert recipes
    assert all(range_faults(load_config(path)) == [] for path in recipes)


def printed(workers, script: str) -> str:
    """Run an example in this process, with these workers for those that torchrun would have made."""
    torch.set_num_threads(1)
    text = io.StringIO()
    ziggurat.join_world = lambda: contextlib.nullcontext(workers)
    with contextlib.redirect_stdout(text):
        runpy.run_path(str(EXAMPLES / script))
    return text.getvalue()


def test_one_loop_for_one_worker_and_for_several():
    (alone,) = run_ranks(printed, 1, ("single.py",))
    together, _ = run_ranks(printed, 2, ("parallel.py",))
    losses = [[float(line.split()[-1]) for line in text.splitlines()] for text in (alone, together)]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def commands(script, *lists):
    """Run commands, one after the other, in a process of their own that knows what an example adds; return their JSON.

    Registries outlive a test: what an example adds must not be met by others. The process is forked, and has imported the
    program already; `test_spawned_workers_know_what_a_script_registers` starts one as a user does.
    """
    words = [[*map(str, one), "--json"] for one in lists]
    (results,) = run_ranks(run_commands, 1, (EXAMPLES / script, words), seconds=280)
    assert [status for status, _ in results] == [0] * len(lists)
    return [json.loads(line) for _, line in results]


SCENES = sets(
    {
        "digits.size": 64, "digits.height_max": 40, "digits.train_scenes": 8, "digits.val_scenes": 5, "data.crop": 64,
        "data.workers": 0, "checkpoint.keep": 1,
    }
)  # fmt: skip
PNN = ["--set", "model.pnn.channels=4", "model.pnn.hidden=8"]
SMALL = [*SCENES, "--batch-size", 4, "--microbatches", 2, "--dtype", "fp32", "--threads", 1]
RUN = [*PNN, *SMALL]


def test_a_task_of_ones_own_is_trained_under_every_plan(tmp_path):
    plans = ("dp=1", "dp=2", "sp=2", "pp=2", "tp=2")
    narrow = ["--set", "tensor.min_width=4"]  # layers of so few channels would not be split
    results = commands(
        "own_task.py",
        *(
            [
                "train",
                "digits",
                "--task",
                "count",
                "--steps",
                2,
                "--plan",
                plan,
                "--out",
                tmp_path / plan,
                *RUN,
                *(narrow if "tp" in plan else []),
            ]
            for plan in plans
        ),
    )
    alone, again, *others = results
    assert alone["weights_sha256"] == again["weights_sha256"]
    for other in others:
        assert other["loss"] == pytest.approx(alone["loss"], rel=1e-4)
        assert other["metrics"] == pytest.approx(alone["metrics"], rel=1e-3)
    assert (tmp_path / "dp=1" / "report" / "best.png").is_file()


def test_a_task_of_ones_own_is_resumed_evaluated_verified_and_predicts(tmp_path):
    image = noise_images(tmp_path, count=1)[0]
    train = ["train", "digits", "--task", "count", "--steps", 2, *RUN, "--plan", "dp=2"]
    whole, first, resumed, evaluated, predicted, verified = commands(
        "own_task.py",
        [*train, "--out", tmp_path / "whole"],
        [*train, "--out", tmp_path / "run", "--set", "train.checkpoint_every=1"],
        ["train", "--resume", "--plan", "dp=1", "--threads", 1, "--out", tmp_path / "run"],
        ["evaluate", tmp_path / "run", "digits", "--plan", "sp=2", "--threads", 1],
        ["predict", tmp_path / "run", image, "--plan", "dp=2", "--threads", 1, "--out", tmp_path / "out"],
        ["verify", "pnn", "--input", "2x3x64x64", "--plan", "sp=2", "--set", "task=count", *PNN],
    )  # fmt: skip
    assert whole["weights_sha256"] == first["weights_sha256"] == resumed["weights_sha256"]
    assert evaluated["metrics"] == pytest.approx(whole["metrics"], rel=1e-3)
    assert verified["ok"]
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (row["file_name"], isinstance(row["count"], float)) == (image.as_posix(), True)
    assert predicted["images"] == 1


@pytest.mark.sampled(0)
def test_spawned_workers_know_what_a_script_registers(tmp_path):
    """With several threads workers are not forked: they import the script again."""
    words = [
        "train",
        "digits",
        "--task",
        "count",
        "--steps",
        1,
        "--plan",
        "dp=2",
        "--out",
        tmp_path / "run",
        *RUN,
    ]
    words = [*words[: words.index("--threads")], "--threads", 2, "--json"]
    ran = subprocess.run(
        [sys.executable, EXAMPLES / "own_task.py", *map(str, words)],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.strip().splitlines()[-1])["task"] == "count"


def test_a_format_of_ones_own(tmp_path):
    images = noise_images(tmp_path, count=2)
    for split in ("train", "val"):
        (tmp_path / f"{split}.points").write_text(
            "".join(f"{image.name} 20,20,oak 50,30,elm\n" for image in images)
        )
    model = ["--model", "fcos-test_resnet-fpn", "--set", "model.channels=8"]
    checked, trained, written = commands(
        "own_format.py",
        ["check", tmp_path],
        ["train", tmp_path, "--steps", 1, *model, "--out", tmp_path / "run", *SMALL],
        ["convert", tmp_path, tmp_path / "coco", "--format", "coco"],
    )
    assert (checked["ok"], checked["format"], checked["tasks"]) == (True, "points", ["detect"])
    assert (trained["task"], trained["steps"]) == ("detect", 1)
    assert written["splits"] == {"train": 2, "val": 2}


def test_tiles_of_a_slide_are_cut_where_qupath_has_annotations(tmp_path):
    slide = write_slide(tmp_path / "a.svs", (256, 384), (1, 4))
    areas = [("tumour", rectangle(60, 70, 100, 120)), ("gland", rectangle(20, 30, 200, 220))]
    script = runpy.run_path(str(EXAMPLES / "qupath_tiles.py"))
    everywhere = write_annotations(tmp_path / "a.geojson", areas)
    assert script["cut"](slide, everywhere, tmp_path / "all", "train", ["gland", "tumour"], 128) == 4
    some = write_annotations(tmp_path / "b.geojson", [*areas, ("Region*", rectangle(0, 0, 150, 128))])
    assert script["cut"](slide, some, tmp_path / "some", "val", ["gland", "tumour"], 128) == 2
    assert (tmp_path / "all" / "classes.txt").read_text().split() == ["background", "gland", "tumour"]
    expected = np.zeros((256, 384), np.uint8)
    expected[30:220, 20:200] = 1
    expected[70:120, 60:100] = 2
    pixels = tifffile.imread(slide)
    for folder in ("all/{}/train", "some/{}/val"):
        for left, top in ((0, 0), (128, 0), *(((0, 128), (128, 128)) if "all" in folder else ())):
            part = slice(top, top + 128), slice(left, left + 128)
            tile, mask = (
                np.asarray(Image.open(tmp_path / folder.format(kind) / f"a_{left}_{top}.png"))
                for kind in ("images", "masks")
            )
            assert (tile == pixels[part]).all()
            known = np.ones((128, 128), bool) if "all" in folder else np.mgrid[:128, :128][1] + left < 150
            assert (mask[known] == expected[part][known]).all()
            assert (mask[~known] == 255).all()
    with pytest.raises(ziggurat.UserError, match="not among --classes: tumour"):
        script["cut"](slide, everywhere, tmp_path / "all", "train", ["gland"], 128)


def test_a_model_of_ones_own(tmp_path):
    train = ["train", "digits", "--model", "tiny-16", "--steps", 1, *RUN]
    listed, alone, together, verified = commands(
        "own_model.py",
        ["models", "--filter", "tiny-16"],
        [*train, "--plan", "dp=1", "--out", tmp_path / "one"],
        [*train, "--plan", "sp=2", "--out", tmp_path / "two"],
        ["verify", "tiny-16", "--input", "2x3x64x64", "--plan", "pp=2"],
    )
    assert [(row["name"], row["task"]) for row in listed["models"]] == [("tiny-16", "classify")]
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    assert (alone["task"], verified["ok"]) == ("classify", True)

"""What no plan can do, or some cannot: said in one message, alike on all workers; and what is left out."""

import dataclasses

import pytest

from support.commands import BARE
from support.datasets import write_folder_of_classes
from support.promises import NARROW, SHARDED
from support.ranks import run_ranks
from support.small_runs import config_of, skipped
from ziggurat.cli.main import main
from ziggurat.errors import UserError
from ziggurat.runs.folder import load_run
from ziggurat.training.loop import train


def refused(workers, config, folder):
    with pytest.raises(UserError) as caught:
        train(workers, config, folder)
    return caught.value.faults


def cut_short(path):
    path.write_bytes(path.read_bytes()[:2000])
    return path


@pytest.mark.sampled(0)
def test_what_cannot_be_read_is_left_out_alike_under_every_plan(tmp_path):
    """Found before a sample is drawn, each image by one of the workers; of validation images when they are evaluated."""
    names = ["one/0.png", "one/1.png", "one/3.png", "two/2.png", "two/4.png"]
    folder = write_folder_of_classes(tmp_path / "data", names)
    cut_short(folder / "train" / "one" / "1.png")
    (folder / "train" / "two" / "2.png").write_bytes(b"")
    cut_short(folder / "val" / "two" / "4.png")
    settings = {"data.path": str(folder), "data.on_error": "skip"}
    (alone,) = run_ranks(skipped, 1, ("dp=1", tmp_path, config_of("classify", **settings)))
    counts, listed, weights = alone
    assert counts == {"annotations": 0, "images": 3}
    found = [(row["split"], row["file"].rpartition("/")[2], row["scope"]) for row in listed]
    assert found == [("train", "1.png", "image"), ("train", "2.png", "image"), ("val", "4.png", "image")]
    for plan in ("dp=2", "sp=2", "pp=2", "lp=2", "tp=2"):
        config = config_of("classify", **settings, **(NARROW if plan == "tp=2" else {}))
        for rank in run_ranks(skipped, 2, (plan, tmp_path, config)):
            assert rank[:2] == (counts, listed), plan
            assert rank[2] == weights or plan != "dp=2"


def test_an_image_that_cannot_be_read_ends_all_workers(tmp_path):
    """Under fsdp the worker that stops computing still runs the model as often as the other one."""
    names = [f"class{number % 2}/{number}.png" for number in range(4)]
    folder = write_folder_of_classes(tmp_path / "data", names)
    bad = cut_short(folder / "val" / "class0" / "0.png")
    config = config_of("classify", **SHARDED, **{"data.path": str(folder), "plan": "fsdp=2"})
    first, second = run_ranks(refused, 2, (config, tmp_path / "run"))
    assert first == second
    assert len(first) == 1
    assert str(bad) in first[0]


def test_a_plan_that_splits_nothing(tmp_path):
    config = dataclasses.replace(config_of("detect", **{"tensor.min_width": 4096}), plan="tp=2")
    first, second = run_ranks(refused, 2, (config, tmp_path / "run"))
    assert first == second
    assert len(first) == 1
    for text in ("tensor.min_width=4096", "--set tensor.min_width=N", "--plan dp=2"):
        assert text in first[0]


@pytest.mark.sampled(0)
def test_a_network_without_branches(tmp_path, capfd):
    """In one message; no run has begun, so that the same folder can be given with a plan that fits."""
    out = tmp_path / "run"
    words = ["train", "digits", "--task", "classify", "--model", "timm:lcnet_035", "--out", str(out), *BARE]
    assert main([*words, "--plan", "lp=2"]) == 2
    error = capfd.readouterr().err
    assert error.count("lp needs parallel branches") == 1
    assert "Traceback" not in error
    assert main([*words, "--plan", "dp=1"]) == 0
    assert load_run(out).config.plan == "dp=1"

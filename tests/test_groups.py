"""A run gives back what it has made: afterwards a worker has the world's process group alone, and no thread more."""

import dataclasses
import threading

import pytest

from support.groups import open_groups
from support.ranks import run_ranks
from support.small_runs import config_of
from ziggurat.inference.evaluate import evaluate_run
from ziggurat.runs.folder import load_run
from ziggurat.training.loop import train


def train_and_evaluate(workers, plan, folder):
    config = dataclasses.replace(config_of("detect", **{"tensor.min_width": 8}), plan=plan)
    threads = {thread.name for thread in threading.enumerate()}
    train(workers, config, folder)
    counts = [open_groups()]
    evaluate_run(load_run(folder), config, workers)
    counts.append(open_groups())
    return counts, {thread.name for thread in threading.enumerate()} - threads


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", ["dp=2", "sp=2", "pp=2", "lp=2", "tp=2", "fsdp=2"])
def test_no_group_is_left_after_a_run(tmp_path, plan):
    for counts, threads in run_ranks(train_and_evaluate, 2, (plan, tmp_path / "run")):
        assert counts == [1, 1]
        assert not {name for name in threads if name in ("checkpoint", "losses", "abort")}

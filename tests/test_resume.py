"""A run that was stopped anywhere goes on at the exact step and ends in the bits of the one that was not."""

import dataclasses
import os
import shutil
import signal

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from support.held import after_each_step
from support.ranks import run_ranks
from support.stopped_runs import config_of, numbers, rows
from ziggurat.config import load_config
from ziggurat.errors import Preempted
from ziggurat.runs.checkpoint.manifest import MANIFEST
from ziggurat.training.loop import train


def run(workers, config, folder, resume=False):
    """Train; a signal, where one is sent, is answered with None."""
    if resume:
        config = load_config(folder / "config.yaml")
    try:
        result = train(workers, dataclasses.replace(config, plan=f"dp={workers.size}"), folder, resume)
    except Preempted as error:
        return str(error)
    return result["weights_sha256"], result["loss"], result["metrics"], result["samples"]


def board(folder, tag):
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run on two workers, and what came out."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run_ranks(run, 2, (config_of(), folder))[0]


def cut_back(whole, folder, step):
    """Make of a whole run one that was killed some time after the checkpoint of `step`."""
    shutil.copytree(whole, folder)
    for later in range(step + 1, 7):
        shutil.rmtree(folder / "checkpoints" / f"step-{later}")
    (folder / "weights.safetensors").unlink()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 4])
def test_the_end_has_the_same_bits_and_the_logs_no_gap_and_no_double(whole, tmp_path, world, step):
    """Six steps of a batch of 8 with 17 samples: step 1 is inside of an epoch, and 4 of the next."""
    folder, (digest, loss, metrics, _) = whole
    expected = numbers(folder)
    cut_back(folder, tmp_path / "run", step)
    results = run_ranks(run, world, (None, tmp_path / "run", True))
    samples = sum(row["images"] for row in rows(folder) if row["kind"] == "train" and row["step"] > step)
    assert results == [(digest, loss, metrics, samples)] * world
    assert numbers(tmp_path / "run") == expected
    kinds = [(row["kind"], row["step"]) for row in expected]
    assert kinds == [*(("train", s) for s in (1, 2)), ("val", 2), ("train", 3), ("train", 4), ("val", 4),
                     ("train", 5), ("train", 6), ("val", 6)]  # fmt: skip
    for tag in ("train/loss", "train/lr", "val/map50"):
        assert board(tmp_path / "run", tag) == board(folder, tag)
    assert [step for step, _ in board(tmp_path / "run", "train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_had_reached_its_end_only_evaluates(whole, tmp_path):
    folder, (digest, _, metrics, _) = whole
    shutil.copytree(folder, tmp_path / "run")
    expected = numbers(folder)
    assert run_ranks(run, 1, (None, tmp_path / "run", True)) == [(digest, None, metrics, 0)]
    assert numbers(tmp_path / "run") == expected


def test_a_line_that_a_kill_has_cut_is_taken_again(whole, tmp_path):
    folder, (digest, *_) = whole
    cut_back(folder, tmp_path / "run", 5)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:7]) + lines[7][:20])
    assert run_ranks(run, 1, (None, tmp_path / "run", True))[0][0] == digest
    assert numbers(tmp_path / "run") == numbers(folder)


def test_a_damaged_newest_checkpoint_costs_a_step_and_no_bit(whole, tmp_path):
    folder, (digest, *_) = whole
    cut_back(folder, tmp_path / "run", 3)
    manifest = tmp_path / "run" / "checkpoints" / "step-3" / MANIFEST
    manifest.write_text(manifest.read_text().replace("1", "2", 1))
    assert run_ranks(run, 2, (None, tmp_path / "run", True))[0][0] == digest
    assert numbers(tmp_path / "run") == numbers(folder)
    text = (tmp_path / "run" / "log.txt").read_text()
    assert "step-3 failed its checks (manifest.json is damaged" in text
    assert (tmp_path / "run" / "checkpoints" / "step-3.bad").is_dir()


def signalled(workers, config, folder, number, rank):
    """Send a signal to one worker in the middle of its third step."""
    steps = []

    def signal_in_the_third(held):
        steps.append(held)
        if len(steps) == 3 and workers.rank == rank:
            os.kill(os.getpid(), number)

    after_each_step(signal_in_the_third)  # in this forked process only
    return run(workers, config, folder)


@pytest.mark.parametrize(
    ("world", "rank", "number"), [(1, 0, signal.SIGTERM), (2, 1, signal.SIGUSR1), (3, 2, signal.SIGTERM)]
)
def test_a_signal_to_any_worker_stops_all_after_the_step(whole, tmp_path, world, rank, number):
    folder, (digest, *_) = whole
    config = config_of(**{"train.checkpoint_every": 0})
    stopped = run_ranks(signalled, world, (config, tmp_path / "run", number, rank))
    again = f"`ziggurat train --out {tmp_path / 'run'} --resume` goes on after step 3"
    assert stopped == [f"stopped by a signal after step 3; {again}"] * world
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-3"]
    assert run_ranks(run, 2, (None, tmp_path / "run", True))[0][0] == digest
    assert numbers(tmp_path / "run") == numbers(folder)

"""Random plans of random numbers of workers in one living run, with workers killed at random instants among them.

The short form is part of `make test`; `make faults` runs the long one, 100 changes and 20 kills.
"""

from __future__ import annotations

import json
import os
import random
import re
import time

import psutil
import pytest

from faults.test_faults import workers_of
from ziggurat.commands.train import train as start_training
from ziggurat.system.forking import fork_context
from ziggurat.training.plan_requests import REQUEST

SETTINGS = {
    "task": "classify", "model.name": "pnn", "model.pnn.channels": 4, "device": "cpu", "threads": 1, "dtype": "fp32",
    "data.crop": 32, "data.resize": 32, "data.workers": 0, "digits.size": 32, "digits.height_min": 8,
    "digits.height_max": 24, "digits.train_scenes": 20, "digits.val_scenes": 4, "train.batch_size": 8,
    "train.microbatches": 4, "train.report": "numbers", "train.evaluate_every": 0, "launch.max_restarts": 20,
}  # fmt: skip
EXACT = ("dp=1", "dp=2", "dp=3", "dp=4", "fsdp=2")  # plans of the same bits, whenever they begin
ROUNDED = ("dp=2", "sp=2", "dp=2,sp=2", "dp=1", "sp=3", "dp=3")
EVERY = 4  # steps between two changes


def plan_after(step, seed, plans):
    """Return the plan that is asked for after a step, another one than before; None where none is."""
    if step % EVERY:
        return None
    choice, plan = random.Random(seed), ""
    for _ in range(step // EVERY):
        plan = choice.choice([one for one in plans if one != plan])
    return plan


def rows(folder):
    """Return what a run has logged of its steps, as far as the lines are whole."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [row for line in lines if line.endswith("\n") if (row := json.loads(line))["kind"] == "train"]


def kill_some(launcher, folder, steps, seed, report):
    """Kill one of a launcher's workers, those that come and go among them, at a random instant after each of some steps."""
    choice, kills, launcher = random.Random(seed), 0, psutil.Process(launcher)
    for step in steps:
        while len(rows(folder)) < step:
            time.sleep(0.02)  # what is waited for is in another process
        moment = time.monotonic() + choice.uniform(0, 0.4)
        while time.monotonic() < moment:
            time.sleep(0.005)  # the instant is what is random here
        while not (workers := workers_of(launcher)):
            time.sleep(0.005)  # those that were lost are being started again
        choice.choice(workers).kill()
        kills += 1
    report.send(kills)


def run(folder, plan="dp=1", plans=(), steps=0, kill_after=(), seed=0):
    """Train under changing plans; return the result, and how many workers were killed."""

    def on_step(row):
        if plans and (asked := plan_after(row["step"], seed, plans)):
            (folder / REQUEST).write_text(asked)
        elif (folder / REQUEST).exists():
            time.sleep(0.05)  # so that new workers come before the last step

    given = SETTINGS | {"plan": plan, "train.steps": steps, "train.checkpoint_every": 10}
    context = fork_context()
    ours, its = context.Pipe(duplex=False)
    killer = context.Process(target=kill_some, args=(os.getpid(), folder, kill_after, seed, its))
    killer.start()
    try:
        result = start_training("digits", given, str(folder), on_step=on_step)
        kills = ours.recv() if ours.poll(10) else None
    finally:
        killer.kill()
        killer.join()
    return result, kills


def changes(folder):
    return len(re.findall(r"the plan is \S+ now", (folder / "log.txt").read_text()))


def check(tmp_path, plans, num_changes, num_kills, seed):
    """Train alone, and under changing plans with kills; return the rows of both, and hold what is true of all of them."""
    steps = EVERY * num_changes
    kill_after = sorted(random.Random(seed).sample(range(EVERY, steps - EVERY), num_kills))
    alone, _ = run(tmp_path / "alone", steps=steps)
    before = {child.pid for child in psutil.Process().children()}
    result, kills = run(tmp_path / "run", "dp=2", plans, steps, kill_after, seed)
    assert kills == num_kills
    assert {child.pid for child in psutil.Process().children()} == before
    one, other = rows(tmp_path / "alone"), rows(tmp_path / "run")
    assert [row["step"] for row in other] == list(range(1, steps + 1)), "no step is lost, or logged twice"
    print(f"{changes(tmp_path / 'run')} changes, {kills} kills")
    return (alone, one), (result, other)


@pytest.mark.parametrize(
    ("num_changes", "num_kills"),
    [(4, 1), pytest.param(130, 20, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_the_bits_are_those_of_one_worker(tmp_path, num_changes, num_kills):
    (alone, one), (result, other) = check(tmp_path, EXACT, num_changes, num_kills, seed=num_kills)
    assert result["weights_sha256"] == alone["weights_sha256"]
    assert [row["loss"] for row in other] == [row["loss"] for row in one]
    assert changes(tmp_path / "run") >= (100 if num_kills == 20 else 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_bands_are_the_same_to_rounding(tmp_path):
    """In float32, in which a run computes, and the steps add to a difference."""
    (_, one), (_, other) = check(tmp_path, ROUNDED, 20, 4, seed=1)
    for first, second in zip(one, other, strict=True):
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4), first["step"]
    assert changes(tmp_path / "run") >= 10

"""Only a lost worker is a lost worker: memory that is used up, and mistakes of the program, are told as what they are."""

import os
import signal
import threading
from types import SimpleNamespace

import pytest
import torch

from support.ranks import run_ranks
from support.states import checkpoints_of, chunks_of, make_state, names
from ziggurat.config import LaunchConfig
from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.parallel.runtime.launch import Restart, WorkerFailed, WorkerLost, WorkerSettings, launch
from ziggurat.runs.checkpoint import Progress, published_steps
from ziggurat.training.snapshot import Snapshots

KINDS = {
    "out of memory": (torch.OutOfMemoryError, "CUDA out of memory"),
    "shapes": (RuntimeError, "inconsistent tensor size|1D tensors expected|shape"),
    "not contiguous": (ValueError, "takes contiguous tensors"),
    "killed": (CollectiveFailed, "has ended, or is stuck"),
}


def fail(workers, how):
    """Go wrong in a step; on every worker, but where one is killed."""
    if how == "out of memory":
        raise torch.OutOfMemoryError("CUDA out of memory")
    if how == "shapes":
        torch.ones(2).dot(torch.ones(3))
    if how == "not contiguous":
        workers.add_up(torch.ones(2, 3).t())
    workers.barrier()  # (the other one is computing, too)
    if workers.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        workers.barrier()


def step_that_fails(workers, how, folder):
    """Write a checkpoint while a step fails, and hand over where that is right, after what was computed is undone."""
    state = make_state(steps=5)
    scope = workers.scope()
    undone = folder / f"undone-{workers.rank}"
    parallel = SimpleNamespace(survives=True, state=state, abandon=undone.touch)
    checkpoints = checkpoints_of(folder / "checkpoints", scope.background())
    try:
        with checkpoints, Snapshots(folder / "memory", "run", parallel).on_loss():
            checkpoints.save(Progress(5), {} if workers.rank else chunks_of(state))
            if how == "killed":
                checkpoints.wait()
            phase("forward")
            state.condition = "computing"
            fail(workers, how)
    finally:
        alive = [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
        (folder / f"writing-{workers.rank}").write_text(str(len(alive)))


@pytest.mark.parametrize("how", KINDS)
def test_what_is_handed_over_and_what_is_told(tmp_path, how):
    memory = tmp_path / "memory"
    memory.mkdir()
    settings = WorkerSettings(1, "cpu", LaunchConfig(max_restarts=0))
    restart = Restart(
        lambda count: (),
        lambda count: count,
        lambda: max(published_steps(memory), default=None),
        lambda: 2,
    )
    with pytest.raises(WorkerFailed) as caught:
        launch(step_that_fails, (how, tmp_path), 2, settings, restart)
    is_lost = how == "killed"
    assert isinstance(caught.value, WorkerLost) == is_lost
    assert names(tmp_path / "checkpoints") == ["step-5"], "the running checkpoint is finished"
    assert ("step-5" in names(tmp_path / "memory")) == is_lost, (
        "survivors of a lost worker hand over, nobody else"
    )
    if not is_lost:
        assert KINDS[how][1].split("|")[0] in str(caught.value) or "dot" in str(caught.value)
        assert {(tmp_path / f"writing-{rank}").read_text() for rank in range(2)} == {"0"}
    assert (
        tmp_path / "undone-0"
    ).exists() == is_lost  # once it has handed over, the launcher may end it at any instant


def kind_of_failure(workers, how):
    workers.barrier()
    try:
        fail(workers, how)
    except Exception as error:  # noqa: BLE001 - its kind is what is asked
        return type(error).__name__, str(error)
    return None


@pytest.mark.parametrize("how", [how for how in KINDS if how != "killed"])
def test_the_kind_of_each_failure(how):
    kind, message = run_ranks(kind_of_failure, 2, (how,))[0]
    assert kind == KINDS[how][0].__name__
    assert any(text in message for text in KINDS[how][1].split("|"))


def test_a_mistake_in_the_thread_that_writes_is_raised_where_one_waits(tmp_path):
    checkpoints = checkpoints_of(tmp_path / "checkpoints")
    checkpoints.run = object()  # no name of a run: the manifest cannot be written
    checkpoints.save(Progress(1), chunks_of(make_state()))
    checkpoints.wait()  # a fault of the files is told, and training goes on
    assert "could not be written" in checkpoints.messages()[0]
    checkpoints.config = None
    checkpoints.run = "run"
    checkpoints.save(Progress(2), chunks_of(make_state()))
    with pytest.raises(AttributeError):
        checkpoints.wait()
    checkpoints.wait()  # once

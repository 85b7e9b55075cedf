"""The checkpoints of a run: written beside training, kept or removed, never half there."""

import errno
import os
import resource
import subprocess
import threading
from contextlib import contextmanager

import pytest
import torch

from support.ranks import run_ranks
from support.states import checkpoints_of, chunks_of, make_state, names, saved
from ziggurat.config import CheckpointConfig
from ziggurat.errors import UserError
from ziggurat.runs.checkpoint import Progress, writing
from ziggurat.runs.checkpoint.manifest import checkpoint_faults
from ziggurat.runs.checkpoint.retention import retained_steps
from ziggurat.runs.checkpoint.tensors import read_tensors
from ziggurat.strategies.layout import Chunk


def test_the_newest_best_and_every_nth_are_kept(tmp_path):
    config = {"keep": 2, "keep_best": 1, "keep_every": 4}
    saved(tmp_path, *range(1, 9), config=config, metrics={2: 0.5, 3: 0.7, 5: 0.6})
    assert names(tmp_path) == ["step-3", "step-4", "step-7", "step-8"]


def test_what_was_best_is_known_after_a_restart(tmp_path):
    config = {"keep": 1, "keep_best": 1}
    saved(tmp_path, 1, 2, config=config, metrics={1: 0.9, 2: 0.1})
    again = checkpoints_of(tmp_path, **config)
    assert again.find() == Progress(2, 0.1, {})
    again.save(Progress(3, 0.2), chunks_of(make_state(steps=1)))
    again.wait()
    assert names(tmp_path) == ["step-1", "step-3"]


def test_of_equal_metrics_the_later_is_the_best():
    assert retained_steps({1: 0.5, 2: 0.5, 3: None}, CheckpointConfig(keep=1, keep_best=1)) == {2, 3}


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """The state is that of the call, though the weights change before anything is written."""
    may_write = threading.Event()
    write = writing.write_tensors

    def wait_and_write(*arguments):
        assert may_write.wait(60)
        return write(*arguments)

    monkeypatch.setattr(writing, "write_tensors", wait_and_write)
    checkpoints, weight = checkpoints_of(tmp_path), torch.ones(3)
    checkpoints.save(Progress(1), {"model.weight": Chunk.whole(weight)})
    weight.fill_(2)
    assert checkpoints.newest is None
    may_write.set()
    checkpoints.save(Progress(2), {"model.weight": Chunk.whole(weight)})  # waits for the first
    checkpoints.wait()
    for step in (1, 2):
        found = {"model.weight": torch.zeros(3)}
        read_tensors(tmp_path / f"step-{step}", found)
        assert found["model.weight"].tolist() == [step] * 3
    assert len(checkpoints.pauses) == 2
    first, second = checkpoints.messages()
    assert first.startswith("checkpoint of step 1: training paused for ")
    assert second.startswith("checkpoint of step 2: ")


def test_a_step_that_is_there_stays_as_it_is(tmp_path):
    checkpoints = saved(tmp_path, 1)
    before = (tmp_path / "step-1" / "manifest.json").stat().st_ino
    checkpoints.save(Progress(1), {"model.other": Chunk.whole(torch.ones(1))})
    checkpoints.wait()
    assert (tmp_path / "step-1" / "manifest.json").stat().st_ino == before
    assert len(checkpoints.pauses) == 1


def test_a_folder_that_nobody_checked_is_set_aside_by_the_new_one(tmp_path):
    (tmp_path / "step-1").mkdir()
    saved(tmp_path, 1)
    assert names(tmp_path) == ["step-1", "step-1.bad"]
    assert checkpoint_faults(tmp_path / "step-1", 1, "run") == []


@pytest.mark.parametrize(
    "phase", ["make_partial", "write_tensors", "file_facts", "write_manifest", "publish"]
)
def test_what_ends_in_any_phase_is_never_loaded(tmp_path, monkeypatch, phase):
    """As after a kill: the process does nothing more, not even tidy up."""
    saved(tmp_path, 1)

    def die(*arguments):
        os._exit(9)

    def killed(workers):
        monkeypatch.setattr(writing, phase, die)
        saved(tmp_path, 2)

    with pytest.raises(RuntimeError, match="died without a word"):
        run_ranks(killed, 1)
    assert not (tmp_path / "step-2").exists()
    checkpoints = checkpoints_of(tmp_path)
    assert checkpoints.find().step == 1
    assert names(tmp_path) == ["step-1"], "the rest is tidied up"
    if phase != "make_partial":
        assert checkpoints.messages() == ["removed .step-2.partial, which was half-written"]


def test_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match=r"nothing to resume: .*checkpoints holds no checkpoint"):
        checkpoints_of(tmp_path / "checkpoints").find()


@contextmanager
def files_of_at_most(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fail_to_save(checkpoints, step):
    checkpoints.save(Progress(step), chunks_of(make_state("adamw", 1)))
    checkpoints.wait()
    (message,) = checkpoints.messages()
    return message


def test_a_file_that_cannot_grow_leaves_the_older_checkpoint(tmp_path):
    checkpoints = saved(tmp_path, 1)
    checkpoints.messages()
    with files_of_at_most(500):
        message = fail_to_save(checkpoints, 2)
    assert "the checkpoint of step 2 could not be written: worker 0: File too large" in message
    assert "training goes on, the newest checkpoint is step-1" in message
    assert names(tmp_path) == ["step-1"]
    assert checkpoints_of(tmp_path).find().step == 1
    assert fail_to_save(checkpoints, 3).startswith("checkpoint of step 3: "), "with room it goes on"


@pytest.fixture
def mounted(tmp_path):
    """A file system of 256 kB, or a skip with the reason."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_older_checkpoint(mounted):
    checkpoints = saved(mounted, 1)
    checkpoints.messages()
    with pytest.raises(OSError, match="No space left"):
        (mounted / "filler").write_bytes(bytes(1 << 20))
    message = fail_to_save(checkpoints, 2)
    assert os.strerror(errno.ENOSPC) in message
    assert names(mounted) == ["filler", "step-1"]
    assert checkpoints_of(mounted).find().step == 1
    (mounted / "filler").unlink()
    assert fail_to_save(checkpoints, 3).startswith("checkpoint of step 3: ")
    assert checkpoints_of(mounted).find().step == 3


def test_a_read_only_folder_leaves_the_older_checkpoint(mounted):
    checkpoints = saved(mounted, 1)
    checkpoints.messages()
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    assert os.strerror(errno.EROFS) in fail_to_save(checkpoints, 2)
    assert checkpoints_of(mounted).find().step == 1
    subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)


def fail_on_second(workers, folder):
    def refuse(*arguments):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "shard")

    checkpoints = checkpoints_of(folder, workers)
    state = {f"model.{workers.rank}": Chunk.whole(torch.ones(2))}
    checkpoints.save(Progress(1), state)
    checkpoints.wait()
    if workers.rank == 1:
        writing.write_tensors = refuse  # in this forked process only
    checkpoints.save(Progress(2), state)
    checkpoints.wait()
    return checkpoints.newest, checkpoints.messages()


def test_a_worker_that_cannot_write_is_named_and_all_know(tmp_path):
    (newest, messages), (other, nothing) = run_ranks(fail_on_second, 2, (tmp_path,))
    assert (newest, other, nothing) == (1, 1, [])
    assert "could not be written: worker 1: Permission denied (shard)" in messages[1]
    assert names(tmp_path) == ["step-1"]


def write_elsewhere(workers, folder):
    """Each worker has a folder of its own, as machines without a common file system have."""
    checkpoints = checkpoints_of(folder / str(workers.rank), workers)
    (folder / str(workers.rank) / ".step-1.partial").mkdir(parents=True)
    checkpoints.save(Progress(1), {f"model.{workers.rank}": Chunk.whole(torch.ones(2))})
    checkpoints.wait()
    return checkpoints.messages()


def test_workers_that_do_not_share_the_folder_are_told(tmp_path):
    (message,), _ = run_ranks(write_elsewhere, 2, (tmp_path,))
    assert "every machine must see the run's folder" in message

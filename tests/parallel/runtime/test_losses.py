"""Telling survivors that a worker is lost, and what they do then: here without a GPU, as far as it goes."""

import os
import signal
import threading
import time

import pytest

from support.ranks import run_ranks
from ziggurat.config import LaunchConfig
from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.runtime.attempt import Attempt
from ziggurat.parallel.runtime.failures import WorkerLost
from ziggurat.parallel.runtime.hangs import HangWatch
from ziggurat.parallel.runtime.heartbeat import make_records
from ziggurat.parallel.runtime.losses import LOST, listening, tell_loss
from ziggurat.parallel.runtime.preemption import Preemption


def test_what_is_told_first_is_heard_once(tmp_path):
    heard, done = [], threading.Event()

    def hear(lost):
        heard.append(lost)
        done.set()

    with listening(tmp_path, hear, 0.01):
        assert not done.wait(0.1)
        tell_loss(tmp_path, "worker 2 was killed")
        tell_loss(tmp_path, "worker 1 ended, as a consequence")
        assert done.wait(5)
        time.sleep(0.05)
    assert heard == ["worker 2 was killed"]
    assert [thread for thread in threading.enumerate() if thread.name == "losses"] == []


def test_without_a_loss_nothing_is_heard(tmp_path):
    with listening(tmp_path, pytest.fail, 0.01):
        time.sleep(0.05)
    assert not (tmp_path / LOST).exists()


def survive(workers, folder):
    """Compute and talk until the loss of another is told, as under NCCL, which raises nothing by itself."""
    with listening(folder, workers.abort, 0.01):
        if workers.is_first:
            tell_loss(folder, "worker 9 was killed by SIGKILL in step 3")
        deadline = time.monotonic() + 20
        try:
            while time.monotonic() < deadline:
                workers.confirm()
                time.sleep(0.01)
        except CollectiveFailed as error:
            return str(error)
    return None


def test_survivors_fail_as_soon_as_they_are_told(tmp_path):
    assert run_ranks(survive, 2, (tmp_path,)) == ["worker 9 was killed by SIGKILL in step 3"] * 2


def die(pipe, rank):
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_launcher_tells_who_is_lost(tmp_path):
    records = tmp_path / "records"
    make_records(records, 1)
    watch = HangWatch(tmp_path, records, LaunchConfig())
    attempt = Attempt(tmp_path, records, watch, None, Preemption())
    with pytest.raises(WorkerLost, match="worker 0 was killed by SIGKILL"):
        attempt.run("fork", 1, die, ())
    assert (tmp_path / LOST).read_text() == "worker 0 was killed by SIGKILL"

"""Processes end with the one that has started them, also where that is killed and can tell them nothing."""

import os
import signal
import struct

import psutil
import pytest
from PIL import Image

from support.kernels import Recorded
from support.source import sources
from ziggurat.config import DataConfig
from ziggurat.data.formats.check import find_faults
from ziggurat.planning.measuring import Conditions, measure_kernels
from ziggurat.planning.processes import on_workers
from ziggurat.system.forking import fork_context

PID = struct.Struct("i")


def stay(*_):
    signal.pause()


def of_the_planner(folder):
    on_workers(stay, 3, ())


def of_measuring(folder):
    import torch

    with Recorded() as recorded:
        torch.ones(4, 4) @ torch.ones(4, 4)
    measure_kernels(recorded.kernels, Conditions(workers=2, passes=1 << 40, enough_seconds=1e9))


def of_check(folder):
    """Its processes have nothing more to do, and wait for it."""
    (folder / "train" / "a").mkdir(parents=True)
    for number in range(70):
        Image.new("RGB", (8, 8)).save(folder / "train" / "a" / f"{number}.png")
    find_faults(str(folder), DataConfig(), stay)


KINDS = {of_the_planner: 3, of_measuring: 2, of_check: 2}


def start(kind, folder, send):
    """Be the one that is killed; each process that it forks tells its number."""
    os.setsid()
    os.register_at_fork(after_in_child=lambda: os.write(send, PID.pack(os.getpid())))
    kind(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_outlives_the_one_that_is_killed(tmp_path, kind):
    receive, send = os.pipe()
    process = fork_context().Process(target=start, args=(kind, tmp_path, send))
    process.start()
    started = []
    try:
        for _ in range(KINDS[kind]):
            (number,) = PID.unpack(os.read(receive, PID.size))
            started.append(psutil.Process(number))
    finally:
        process.kill()
        process.join()
        os.close(receive)
        os.close(send)
    gone, alive = psutil.wait_procs(started, timeout=20)
    for one in alive:
        one.kill()
    assert len(gone) == KINDS[kind], alive


def test_whatever_starts_processes_says_that_they_end_with_it():
    """Or starts them by a function that another module gives it, and that says so: the launcher's attempts."""
    starting = [
        one.name
        for one in sources()
        if "context.Process(" in (text := one.path.read_text()) or "mp_context=" in text
    ]
    saying = [one.name for one in sources() if "die_with_parent(" in one.path.read_text()]
    assert set(starting) - set(saying) == {"ziggurat.parallel.runtime.attempt"}

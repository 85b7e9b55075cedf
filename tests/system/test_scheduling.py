"""Threads that yield: gloo's, of every group of every kind of start; never those that compute."""

import os
import threading
from pathlib import Path

import pytest

from ziggurat.config import LaunchConfig
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.planning.processes import on_workers
from ziggurat.system.scheduling import yielding_threads


def policies(workers) -> dict[str, set[int]]:
    """Return the policies of a worker's threads by their names: of the world's group, and of one that is made later."""
    if workers.rank < 2:
        workers.subgroup([0, 1]).barrier()
    found: dict[str, set[int]] = {}
    for task in Path("/proc/self/task").iterdir():
        own = int(task.name) == threading.get_native_id()
        name = "own" if own else (task / "comm").read_text().strip()
        found.setdefault(name, set()).add(os.sched_getscheduler(int(task.name)))
    workers.barrier()
    return found


def launched(workers):
    return policies(workers)


@pytest.mark.parametrize("start", ["of the launcher", "of the planner"])
def test_threads_of_gloo_yield_to_those_that_compute(start):
    if start == "of the planner":
        found = on_workers(policies, 3, ())[0]
    else:
        found = launch(launched, (), 3, WorkerSettings(1, "cpu", LaunchConfig()))
    of_gloo = [name for name in found if "gloo" in name]
    assert len(of_gloo) >= 2, found
    assert all(found[name] == {os.SCHED_BATCH} for name in of_gloo), found
    assert found["own"] == {os.SCHED_OTHER}


def test_only_threads_that_begin_in_the_block_yield():
    def look(into: list[int]) -> None:
        into.append(os.sched_getscheduler(0))

    inside, after = [], []
    with yielding_threads():
        thread = threading.Thread(target=look, args=(inside,))
        thread.start()
        thread.join()
    thread = threading.Thread(target=look, args=(after,))
    thread.start()
    thread.join()
    assert (inside, after, os.sched_getscheduler(0)) == ([os.SCHED_BATCH], [os.SCHED_OTHER], os.SCHED_OTHER)


def test_a_policy_that_somebody_has_chosen_stays():
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        with yielding_threads():
            assert os.sched_getscheduler(0) == os.SCHED_BATCH
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def test_where_it_is_forbidden_all_stays(monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with yielding_threads():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER

"""A process in which the default process group is hidden: networks find none, and this program's own exchanges go on."""

from __future__ import annotations

import threading

import pytest
import torch.distributed as dist

from parallel.collectives.test_workers import WAYS
from support.ranks import run_ranks
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.torch_internals.default_group import default_group_hidden

MAKE_GROUPS = {
    "subgroup",
    "subgroup of some",
    "background",
    "close",
}  # which nobody does while a network computes


def look(workers: Workers) -> list[bool]:
    world = dist.group.WORLD
    seen = [dist.is_initialized()]
    with default_group_hidden():
        seen.append(dist.is_initialized())
        with pytest.raises(ValueError, match="has not been initialized"):
            dist.get_world_size()
        with default_group_hidden():
            seen.append(dist.group.WORLD is None)
        seen.append(dist.is_initialized())
    try:
        with default_group_hidden():
            raise KeyError
    except KeyError:
        seen.append(dist.group.WORLD is world)
    return seen


def test_nobody_finds_it_while_a_block_runs() -> None:
    assert run_ranks(look) == [[True, False, True, False, True]] * 2


def test_without_a_group_nothing_happens() -> None:
    with default_group_hidden():
        assert not dist.is_initialized()
    assert not dist.is_initialized()


def talk(workers: Workers, ways: list[str]) -> dict[str, tuple[object, object]]:
    some = workers.subgroup([2 * (workers.rank // 2), 2 * (workers.rank // 2) + 1])
    found = {}
    for name in ways:
        for group in (workers, some):
            before = WAYS[name](group)
            with default_group_hidden():
                found[f"{name} of {group.size}"] = before, WAYS[name](group)
    return found


def test_every_way_to_talk_goes_on() -> None:
    for found in run_ranks(talk, 4, ([name for name in WAYS if name not in MAKE_GROUPS],)):
        for name, (before, hidden) in found.items():
            assert before == hidden, name


def in_threads(workers: Workers) -> bool:
    """The last of several blocks turns it back, in whatever order they end."""
    inside, leave = threading.Barrier(2), threading.Event()

    def other() -> None:
        with default_group_hidden():
            inside.wait()
            leave.wait()

    thread = threading.Thread(target=other)
    with default_group_hidden():
        thread.start()
        inside.wait()
    still_hidden = not dist.is_initialized()
    leave.set()
    thread.join()
    return still_hidden and dist.is_initialized()


def test_several_threads_may_hide_it() -> None:
    assert run_ranks(in_threads) == [True, True]


def destroyed(workers: Workers) -> bool:
    world = dist.group.WORLD
    with default_group_hidden():
        dist.destroy_process_group(world)
    return dist.is_initialized()


def test_a_group_that_was_destroyed_meanwhile_does_not_come_back() -> None:
    assert run_ranks(destroyed) == [False, False]

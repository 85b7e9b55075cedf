"""Tests that need two cores of this machine."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ziggurat.strategies.resolve import available_cores


@contextmanager
def on_two_cores(why: str) -> Iterator[list[int]]:
    """Let this process use two cores while a block runs, and give their numbers; skip where it may use one only.

    Args:
        why: What a test has to say of one core.
    """
    before = os.sched_getaffinity(0)
    if len(before) < 2 or available_cores() < 2:
        pytest.skip(f"one core: {why}")
    cores = sorted(before)[:2]
    os.sched_setaffinity(0, cores)
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)

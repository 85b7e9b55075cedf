"""How Linux schedules the threads of this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def yielding_threads() -> Iterator[None]:
    """Let threads that begin in a block never take the processor from one that computes; those that are there stay as they are.

    gloo's threads need this. One that wakes, and takes the processor from the thread that has just called gloo, does so while that
    thread holds the lock of the connection: it then asks for the lock in a loop until its slice is over, some milliseconds for a
    message of some bytes. With ``SCHED_BATCH`` a thread that wakes takes a free processor, or waits for the end of a slice.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    if policy != os.SCHED_OTHER:  # somebody has chosen
        yield
        return
    try:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # new threads inherit that of their maker
    except PermissionError:  # a container may forbid it: all works, slower
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)

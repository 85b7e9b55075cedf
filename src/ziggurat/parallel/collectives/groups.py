"""The process groups of this worker: made here, destroyed here, and aborted when another worker is lost."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist

from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.collectives.clock import Clock
from ziggurat.parallel.collectives.local_connections import connect
from ziggurat.parallel.collectives.local_messages import LocalMessages
from ziggurat.parallel.collectives.observer import Observer
from ziggurat.parallel.collectives.requests import converted
from ziggurat.parallel.runtime.heartbeat import waiting
from ziggurat.system.scheduling import yielding_threads


class Groups:
    """The process groups that were made from one world.

    Args:
        world: The first group; None for one worker.
        timeout: Of the groups that are made; by default the backend's own.

    Attributes:
        lost: What this worker was told of another one that is lost; empty while all is well.
        observer: Is told of all messages; None while nobody wants to know.
        waits: Is told how long one thread waits for others, in any of the groups; None while nobody wants to know.
    """

    observer: Observer | None = None
    waits: Clock | None = None
    waiter = 0  # the thread

    def __init__(self, world: dist.ProcessGroup | None, timeout: timedelta | None = None) -> None:
        self.timeout = timeout
        self.lost = ""
        self._open = [] if world is None else [world]
        self._local: dict[dist.ProcessGroup, LocalMessages | None] = {}

    def make(self, ranks: Sequence[int], backend: str | None = None) -> dist.ProcessGroup:
        """Return a new group; its members call this, the same number of times each and in the same order.

        Args:
            ranks: Of the members in the world.
            backend: By default the world's.

        Raises:
            CollectiveFailed: If one of them does not come.
        """
        self.check()
        is_gloo = (backend or dist.get_backend()) == "gloo"
        scheduling = yielding_threads() if is_gloo else nullcontext()
        with (
            scheduling,
            waiting(),
            converted(lambda: f"one of the workers {list(ranks)} did not come to a new group"),
        ):
            group = dist.new_group(
                list(ranks), self.timeout, backend, use_local_synchronization=True
            )  # named by its members: others may make theirs at the same time
        assert isinstance(group, dist.ProcessGroup)  # this worker is a member
        self._open.append(group)
        return group

    def local(self, group: dist.ProcessGroup, rank: int, size: int) -> LocalMessages | None:
        """Return what connects this worker to members of a group that are on its machine; None where there are none, or gloo is not used.

        Args:
            group: One of these; where it is asked for the first time, its members all ask.
            rank: This worker's number in it.
            size: How many members there are.
        """
        if group not in self._local:
            connections = {}
            if dist.get_backend(group) == "gloo":
                with waiting(), converted(lambda: "one of the workers did not connect"):
                    connections = connect(group, rank, size)
            seconds = None if self.timeout is None else self.timeout.total_seconds()
            self._local[group] = LocalMessages(rank, size, connections, seconds) if connections else None
        return self._local[group]

    def destroy(self, group: dist.ProcessGroup) -> None:
        """Close a group in which nobody waits any more."""
        self._open.remove(group)
        self._disconnect(group)
        dist.destroy_process_group(group)

    def forget(self) -> None:
        """Hold none of them any more; they are destroyed already."""
        for group in list(self._local):
            self._disconnect(group)
        self._open = []

    def _disconnect(self, group: dist.ProcessGroup) -> None:
        messages = self._local.pop(group, None)
        if messages is not None:
            messages.close()

    def check(self) -> None:
        """Do nothing while all is well.

        Raises:
            CollectiveFailed: If this worker was told that another one is lost.
        """
        if self.lost:
            raise CollectiveFailed(self.lost)

    def timed(self, device: torch.device) -> AbstractContextManager[None]:
        """Return the context in which this worker waits for others."""
        if self.waits is None or threading.get_ident() != self.waiter:
            return nullcontext()
        return self.waits.span(device)

    def abort(self, lost: str) -> None:
        """End what this worker waits for in any group, now and later; may be called from another thread.

        Under NCCL a worker that waits for one that has died does not come back by itself: its kernels spin, and whoever
        waits for the stream waits with them. Aborting the communicators ends the kernels, without a result; as `lost` is
        set before, whoever comes back from such a wait finds it (`check`) before it believes what it has got. gloo raises by
        itself when a connection closes, and does nothing here. Connections within a machine are closed.

        Args:
            lost: Which worker, and how.
        """
        self.lost = lost
        for messages in list(self._local.values()):
            if messages is not None:
                messages.end()
        # each in a thread of its own: the abort of one communicator may wait for the kernels of another
        threads = [
            threading.Thread(target=group.abort, name="abort", daemon=True)
            for group in reversed(list(self._open))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

"""The workers of a world of which only the first ones are there: for who looks at what these do, and not at what comes of it.

    world of 16,384 = 2,048 replicas of 8        worker   0   1  ...  7  |  8   9  ...  16383
                                                          there          |  absent: do as their counterpart, worker % 8

Replicas do the same, so that the first one shows what each of them sends and receives. Among those who are there messages are real. An absent
worker gives what its counterpart gives; of pieces that it would have made for one worker alone (an all-to-all), and of what is large, nothing
arrives, and the memory stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.communicator import Operation
from ziggurat.parallel.collectives.observer import Talk
from ziggurat.parallel.collectives.requests import Request
from ziggurat.parallel.collectives.workers import Workers

FILLED = (
    1 << 14
)  # elements: what is gathered of more is left as it was, but for bytes, in which objects travel


class FirstWorkers(Workers):
    """A group of workers of whom the first ones are there, this one among them.

    Args:
        there: All workers that are, by their numbers in the world.
        quiet: The same, unobserved.
        size: Workers of the world: whole replicas of those that are there.

    Example:
        >>> workers = FirstWorkers(Workers(), Workers(), 4096)
        >>> workers.gather("as I do")[-1], workers.all_gather(torch.ones(2)).shape
        ('as I do', torch.Size([8192]))
        >>> workers.subgroup(range(0, 4096, 512)).size
        8
    """

    needs_group = False  # of those that are there groups are made

    def __init__(self, there: Workers, quiet: Workers, size: int) -> None:
        if size <= there.size or size % there.size:
            raise ValueError(
                f"a world consists of several replicas of the {there.size} workers that are there: got {size}"
            )
        self._join(there, quiet, range(size), quiet)

    def _join(self, there: Workers, quiet: Workers, ranks: Sequence[int], mine: Workers) -> None:
        """Be some workers of the world.

        Args:
            there: See the class.
            quiet: See the class.
            ranks: Of the members in the world.
            mine: Those of them who are there, unobserved.
        """
        Workers.__init__(self, list(ranks).index(there.rank), len(ranks), there.device)
        self._groups = there._groups
        self._there, self._quiet, self._mine = there, quiet, mine
        self._ranks = list(ranks)
        self._counterparts = [rank % there.size for rank in ranks]

    def subgroup(self, ranks: Sequence[int]) -> Workers:
        """Return some of the workers, this one among them; only these call this, as often and in the same order each."""
        if self.rank not in ranks or sorted(set(ranks)) != list(ranks):
            raise ValueError(f"a subgroup of worker {self.rank} holds it and rises: got {list(ranks)}")
        if len(ranks) == self.size:
            return self
        members = [self._ranks[rank] for rank in ranks]
        here = [rank for rank in members if rank < self._there.size]
        if len(here) == len(members):
            return self._made_by(self._there, here)
        return self._child_of(members, self._made_by(self._quiet, here))

    def scope(self) -> Workers:
        """Return the same workers: what is made from them is destroyed by their own `close`."""
        return self._child_of(self._ranks, self._mine)

    def background(self) -> NoReturn:
        """Refuse: nothing runs beside a step that is looked at."""
        raise ValueError(f"of these {self.size} workers only the first are there: none has a background")

    def device_mesh(self) -> NoReturn:
        """Refuse: PyTorch's own kind of mesh has all of its workers.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"fsdp over {self.size} workers was not recorded: PyTorch's fully_shard talks by itself, to workers that are all there; only "
            "worlds that are recorded whole have it"
        )

    def close(self) -> None:
        """Destroy the groups that were made from these workers; all that are there call this.

        Communication: a barrier of those that are there.
        """
        self._mine.barrier()
        self._close()

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite each tensor with the first worker's."""
        for tensor in tensors:
            if self.rank == 0:
                self.sent.add(self.size - 1, (self.size - 1) * tensor.nbytes)
            with self._observed("broadcast", tensor) as done:
                self._mine.broadcast([tensor])
            if done is not None:
                done()

    def start_add_up(self, tensor: Tensor, operation: Operation = "sum") -> Request:
        """Begin to overwrite a small tensor with its sum, or the largest values, over all workers; a large one stays as it is."""
        self._require_contiguous(tensor)
        self.sent.add(2 * (self.size - 1), 2 * (self.size - 1) * tensor.nbytes // self.size)
        with self._observed("all-reduce", tensor) as done:
            self._mine.add_up(tensor, operation)
            if operation == "sum" and tensor.numel() <= FILLED:
                tensor.numpy()[...] *= self.size // self._mine.size
        return self._done(done)

    def gather_to(self, part: Tensor, owner: int) -> NoReturn:
        """Refuse: nothing of a step is gathered on one worker."""
        raise ValueError(f"of these {self.size} workers only the first are there: nothing is gathered on one")

    def start_swap(
        self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]
    ) -> Request:
        """Begin to send some tensors and to receive others: nothing arrives."""
        self._require_contiguous(*(tensor for _, tensor in (*sends, *receives)))
        self.sent.add(len(sends), sum(tensor.nbytes for _, tensor in sends))
        with self._observed("swap", None, sends, receives) as done:
            pass
        return self._done(done)

    def _start(
        self, name: Talk, given: Tensor | None, begin: Callable[[], object], *results: tuple[Tensor, Tensor]
    ) -> Request:
        """Begin an all-gather, an all-to-all or a barrier."""
        with self._observed(name, given) as done:
            if name == "all-gather" and given is not None:
                self._gather(given, results[0][0])
        return self._done(done)

    def _gather(self, part: Tensor, whole: Tensor) -> None:
        """Write what each worker's counterpart gives."""
        if whole.dtype != torch.uint8 and whole.numel() > FILLED:
            return
        of_those = self._mine.all_gather(part).view(self._mine.size, -1).numpy()
        here = [rank for rank in self._ranks if rank < self._there.size]
        places = [here.index(rank) for rank in self._counterparts]
        whole.numpy()[...] = of_those[places].reshape(-1)

    def _done(self, done: Callable[[], None] | None) -> Request:
        return Request((), self._groups.check, self.device, (), (), done)

    def _made_by(self, workers: Workers, here: Sequence[int]) -> Workers:
        """Return some of those that are there, whose group is destroyed with what else was made from these."""
        made = workers.subgroup(here)
        if made is not workers:
            self._made.append(made)
        return made

    def _child_of(self, ranks: Sequence[int], mine: Workers) -> Workers:
        child = FirstWorkers.__new__(FirstWorkers)
        child._join(self._there, self._quiet, ranks, mine)
        self._made.append(child)
        return child

    @property
    def _world_ranks(self) -> list[int]:
        return self._ranks


def first_of(there: Workers, size: int) -> Workers:
    """Return a world of so many workers, of which some are there; these, where they are all."""
    if size == there.size:
        return there
    return FirstWorkers(there, Workers(there.rank, there.size, there.device, there._group), size)

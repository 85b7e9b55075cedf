"""Faults to plant into the step of a worker, one at a time: what `verify` is there to find.

Each is a mistake that a change of the trunk could make. A fault is planted in a forked worker alone, before it takes its step under a
plan; the reference was taken without.
"""

import torch

from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.strategies import placing
from ziggurat.strategies.layout import Layout
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.rows import RowSums
from ziggurat.strategies.state import TrainState
from ziggurat.strategies.sums import Sums
from ziggurat.torch_internals.hooks import register_unseen


def normalizer_of_one_worker(rank):
    """The loss is divided by what this worker's own microbatches hold."""
    gather = Parallel.gather

    def own(self, mine, width, parts=True):
        every = gather(self, mine, width, parts)
        others = [n for n in range(self.num_microbatches) if n not in self.mine]
        if not self.counted:
            self.counted = True
            every[others] = 0
        return every

    def start(self, num):
        self.counted = False
        begin(self, num)

    begin = Parallel.start
    Parallel.start, Parallel.gather = start, own


def norm_forgets_a_slice(rank):
    """The second worker does not answer for what it holds."""
    owned = Layout.owned
    Layout.owned = lambda self, name, held: [] if rank == 1 else owned(self, name, held)


def statistics_in_another_order(rank):
    """The running statistics of microbatches are combined from the last to the first."""
    finish = RunningStatistics.finish

    def reversed_finish(self, *given):
        self.leaves = self.leaves[::-1]
        finish(self, *given)

    RunningStatistics.finish = reversed_finish


def statistics_of_one_worker(rank):
    """The second worker's microbatches leave no running statistics."""
    take = RunningStatistics.take_leaf

    def forget(self):
        take(self)
        if self.layers and rank == 1:
            self.leaves[-1] = torch.zeros_like(self.leaves[-1])

    RunningStatistics.take_leaf = forget


def moment_of_the_wrong_box(rank):
    """The optimizer's moments of a weight that is cut are those of its first rows, or columns, on every worker."""
    cut = placing._cut

    def first(value, whole, parameter, boxes, is_fused):
        moved = tuple(box._replace(start=(0,) * len(box.start), stop=box.shape) for box in boxes)
        return cut(value, whole, parameter, moved, is_fused)

    placing._cut = first


def losses_are_not_gathered(rank):
    """Each worker knows the losses of its own microbatches."""
    gather = Parallel.gather

    def own(self, mine, width, parts=True):
        every = gather(self, mine, width, parts)
        if parts and width > 1:  # (the normalizers of these are known whole)
            every[[n for n in range(self.num_microbatches) if n not in self.mine]] = 0
        return every

    Parallel.gather = own


def average_skips_buffers(rank):
    """The moving average takes the weights and leaves the running statistics as they were."""
    update = TrainState.update_average

    def skip(self):
        before = {name: value.clone() for name, value in self.average.named_buffers() if not value.is_meta}
        update(self)
        for name, value in self.average.named_buffers():
            if name in before:
                value.copy_(before[name])

    TrainState.update_average = skip


def parts_are_not_added(rank):
    """Workers that share an image keep their own part of the gradient."""
    PartSum.__call__ = lambda self, part: part


def one_worker_does_not_clip(rank):
    """The second worker takes its gradient as it is."""
    clip = Parallel.clip
    Parallel.clip = lambda self, most, norm: None if rank == 1 else clip(self, most, norm)


def one_worker_does_not_step(rank):
    """The second worker's optimizer changes nothing."""
    complete = Parallel.finish_statistics

    def finish(self):
        complete(self)
        if rank == 1:
            self.state.optimizer.step = lambda: None

    Parallel.finish_statistics = finish


def microbatch_is_lost(rank):
    """The gradient of the last microbatch is zero."""
    finish = Sums.leaf

    def lose(self, section, index):
        context = finish(self, section, index)
        if index == self.num_microbatches - 1:
            for parameter in self.sections[section].parameters.values():
                handle = register_unseen(parameter, torch.zeros_like)
                self.handles = [*getattr(self, "handles", []), handle]
        return context

    Sums.leaf = lose


def rows_are_not_shared(rank):
    """Each worker goes on with the rows that it has updated, and with the others' as they were."""
    RowSums.share = lambda self: self.sliced.leave()


def rows_are_shared_too_early(rank):
    """The workers share their rows before they update them."""

    def update(self):
        self.sums.share()
        self.state.optimizer.step()

    Parallel.update = update


FAULTS_OF_ROWS = (rows_are_not_shared, rows_are_shared_too_early)
"""Of a sharded optimizer under dp=2."""

FAULTS = {
    normalizer_of_one_worker: "dp=2",
    norm_forgets_a_slice: "tp=2",
    statistics_in_another_order: "dp=2",
    statistics_of_one_worker: "dp=2",
    moment_of_the_wrong_box: "fsdp=2",
    losses_are_not_gathered: "dp=2",
    average_skips_buffers: "pp=2",
    parts_are_not_added: "sp=2",
    one_worker_does_not_clip: "pp=2",
    one_worker_does_not_step: "tp=2",
    microbatch_is_lost: "dp=2",
}

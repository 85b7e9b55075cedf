"""Running statistics of batch norm and instance norm, combined in canonical order.

In training a batch norm uses the statistics of its microbatch, and adds them to its running statistics, in the order of the
microbatches: with momentum ``m`` and the statistics ``s_i`` of microbatch ``i``, ``r <- r + m * (s_i - r)`` for ``i = 0, 1, ...``.
Each of these updates is ``r <- a r + b``, and two of them, one after the other, are one again::

    r <- a_1 r + b_1,  then  r <- a_2 r + b_2        is        r <- (a_2 a_1) r + (a_2 b_1 + b_2)

So they are joined like gradients: in the same tree over the microbatches, by whichever workers, of whose subtrees one update travels.

A network may call a norm several times in one pass (a head that levels share), or not at all, or with a momentum of the call's
own. So each microbatch leaves, of each norm, one value ``c`` with its weight ``w``, as which all its calls act together::

    calls of momentum m_1 ... m_k    r <- (1 - m_k) r + m_k s_k, k times    is    r <- (1 - w) r + w c
                                     1 - w = (1 - m_1) ... (1 - m_k)        w c = sum of m_j (1 - m_j+1) ... (1 - m_k) s_j

Statistics are taken from the calls, while these run; the buffers stay as they are until the step ends. A call that backward
repeats (activation checkpointing) leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import Accumulator, Span, gather_leaves, partition
from ziggurat.parallel.collectives.exchange import Exchange
from ziggurat.parallel.collectives.hierarchy import even_slices
from ziggurat.parallel.collectives.tiers import MessageTier, meetings
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.torch_internals.modules import is_batch_norm
from ziggurat.torch_internals.norm_calls import keeping_statistics
from ziggurat.torch_internals.tensors import version_of

BUFFERS = ("running_mean", "running_var")


@dataclass
class Calls:
    """What the calls of one norm in the pass of one microbatch leave, together.

    Attributes:
        value: Mean and variance of each channel, shape ``(2 * C,)``; None before the first call.
        weight: Of the value, against what was before.
        count: How many calls there were.
        counted: How many of them the layer's own counter has counted.
    """

    value: Tensor | None = None
    weight: float = 0.0
    count: int = 0
    counted: int = 0

    def add(self, value: Tensor, momentum: float) -> None:
        """Add a call."""
        before, self.count = self.weight * (1 - momentum), self.count + 1
        if self.value is None:
            self.value, self.weight = value, momentum
            return
        self.weight = before + momentum
        if self.weight:
            self.value = self.value * (before / self.weight) + value * (momentum / self.weight)

    def average(self, value: Tensor) -> None:
        """Add a call of a norm whose running statistics are the mean of all calls."""
        self.count += 1
        self.value = value if self.value is None else torch.lerp(self.value, value, 1 / self.count)


class RunningStatistics:
    """Keeps the running statistics of all norms of a model in canonical order.

    Args:
        model: Any module. Its norms are the layers that have buffers of the names ``running_mean`` and ``running_var``; the
            statistics of those that do not train stay as they are.
        workers: The workers of the data parallel axis.
    """

    def __init__(self, model: nn.Module, workers: Workers) -> None:
        self.workers, self.model = workers, model
        self.layers = list(_layers_with_statistics(model))
        self.buffers = [layer.get_buffer(name) for layer in self.layers for name in BUFFERS]
        self.sizes = [buffer.numel() for buffer in self.buffers]
        self.numbers = {id(mean): number for number, mean in enumerate(self.buffers[::2])}
        self.counters: list[Tensor | None] = [
            getattr(layer, "num_batches_tracked", None) for layer in self.layers
        ]
        known = {id(buffer) for buffer in (*self.buffers, *self.counters)}
        self.names = {id(b): name for name, b in model.named_buffers()}
        self.others = {name: b for name, b in model.named_buffers() if id(b) not in known}
        self.own_momenta = [getattr(layer, "momentum", 0.0) for layer in self.layers]
        # an instance norm without a momentum gives its calls 0.0, and so does a batch norm that counts nothing
        self.is_cumulative = [
            momentum is None and is_batch_norm(layer) and counter is not None
            for momentum, layer, counter in zip(self.own_momenta, self.layers, self.counters, strict=True)
        ]
        self.columns: dict[tuple[float, ...], Tensor] = {}
        self.leaves: list[Tensor] = []
        self.calls: dict[int, Calls] = {}
        self.counted: list[int] = []  # the version of each counter, when it was last looked at
        self.used: set[int] = (
            set()
        )  # the layers that have normalized by their running statistics in this step
        self.trained: set[int] = set()  # those that have changed them
        self.is_checked = False

    @property
    def width(self) -> int:
        """How many numbers a microbatch leaves: each statistic; of each norm the weight, the calls, and those that it counts."""
        return sum(self.sizes) + 3 * len(self.layers)

    def start(self) -> None:
        """Begin a step: keep the running statistics from before."""
        self.versions = {name: version_of(buffer) for name, buffer in self.others.items()}
        self.places = {name: buffer.data_ptr() for name, buffer in self.others.items() if not buffer.is_meta}
        if not self.layers:
            return
        self.before = torch.cat(self.buffers)
        self.batches = [None if counter is None else counter.clone() for counter in self.counters]
        self.leaves = []
        self.used, self.trained = set(), set()
        self.forget()
        self._set_momenta(
            [1.0] * len(self.layers)
        )  # else each call would read the count back from the device

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take the statistics of the norms' calls in a block."""
        with keeping_statistics(self):
            yield

    def knows(self, running_mean: Tensor | None, running_var: Tensor | None) -> bool:
        """Whether these buffers are the running statistics of a layer."""
        number = self.numbers.get(id(running_mean))
        return number is not None and running_var is self.buffers[2 * number + 1]

    def refuse(self, running_mean: Tensor | None, running_var: Tensor | None) -> None:
        """Refuse a call that changes buffers of the model which are not a layer's running statistics.

        Raises:
            UserError: Naming the buffer.
        """
        for buffer in (running_mean, running_var):
            if id(buffer) in self.names:
                raise UserError(
                    f"a norm is called with the buffer {self.names[id(buffer)]} for its running statistics, which is not the running_mean "
                    "or running_var of one layer: it would differ between workers; name the two buffers of a layer so, or use model.norm=group"
                )

    def read(self, running_mean: Tensor) -> None:
        """Note that a call normalizes by running statistics; see `ziggurat.torch_internals.norm_calls.Keeper`."""
        self.used.add(self.numbers[id(running_mean)])

    def take(
        self, running_mean: Tensor, momentum: float, mean: Tensor, variance: Tensor, again: bool
    ) -> None:
        """Take the statistics of a call of a norm; see `ziggurat.torch_internals.norm_calls.Keeper`."""
        number = self.numbers[id(running_mean)]
        counter = self.counters[number]
        version = 0 if counter is None else version_of(counter)
        if not again:
            self.trained.add(number)
            calls = self.calls.setdefault(number, Calls())
            calls.counted += version - self.counted[number]
            value = torch.cat([mean, variance])
            if self.is_cumulative[number]:
                calls.average(value)
            else:
                calls.add(value, momentum)
        self.counted[number] = version

    def forget(self) -> None:
        """Forget what has been taken since the last microbatch."""
        self.calls = {}
        self.counted = [0 if counter is None else version_of(counter) for counter in self.counters]

    def take_leaf(self) -> None:
        """Keep what the calls of one microbatch have left.

        Raises:
            UserError: If the pass has changed a buffer that is no norm's, or a norm's by other means than a call that is seen:
                it would drift on each worker.
        """
        self._refuse_other_changes()
        if self.layers:
            self.leaves.append(self._leaf())
        self.forget()

    def _refuse_other_changes(self) -> None:
        changed = [name for name, b in self.others.items() if version_of(b) != self.versions[name]]
        if self.workers.size > 1 and self.others:
            now = dict(self.model.named_buffers())
            changed += [name for name, buffer in self.others.items() if now.get(name) is not buffer]
            changed += [name for name, place in self.places.items() if self.others[name].data_ptr() != place]
        if changed:
            raise UserError(
                f"training changes the buffers {', '.join(dict.fromkeys(changed))}, which are not a batch norm's: they would differ "
                "between workers; use a model without them, or model.norm=group"
            )
        if both := self.used & self.trained:
            names = ", ".join(self.names[id(self.buffers[2 * number])] for number in sorted(both))
            raise UserError(
                f"in one step norms both change their running statistics and normalize by them ({names}): what they return would depend on "
                "how many microbatches a worker has had; keep each of these layers in training or in evaluation mode, or use "
                "model.norm=group"
            )
        # on other devices once, as it waits for them
        if self.layers and (self.before.device.type == "cpu" or not self.is_checked):
            self.is_checked = True
            if not _same_bits(torch.cat(self.buffers), self.before):
                changed = [
                    self.names[id(buffer)]
                    for buffer, value in zip(self.buffers, self.before.split(self.sizes), strict=True)
                    if not _same_bits(buffer.flatten(), value)
                ]
                raise UserError(
                    f"training changes the running statistics {', '.join(changed)} by other means than a call of batch_norm or instance_norm "
                    "(in place, or in scripted or compiled code): they would differ between workers; call the layer instead, "
                    "not compiled, or use model.norm=group"
                )

    def _leaf(self) -> Tensor:
        """Return what the calls of a microbatch have left, shape ``(width,)``."""
        of_layers = [self.calls.get(number, Calls()) for number in range(len(self.layers))]
        values = [
            self.before.new_zeros(2 * self.sizes[2 * number]) if calls.value is None else calls.value
            for number, calls in enumerate(of_layers)
        ]
        key = tuple(
            column
            for calls in of_layers
            for column in (calls.weight, float(calls.count), float(calls.counted))
        )
        if key not in self.columns:  # nearly always the same, and to move them to a device takes time
            numbers = torch.tensor(key, dtype=self.before.dtype).view(-1, 3).t().flatten()
            self.columns = {key: numbers.to(self.before.device)}
        return torch.cat([*values, self.columns[key]])

    def finish(self, num_leaves: int, parts: Sequence[range] | None = None) -> None:
        """Combine what all `num_leaves` microbatches have left, and end the step.

        Args:
            num_leaves: Of all workers.
            parts: The microbatches of each worker, consecutive; by default as even as possible.

        Communication: the exchange of one update of each statistic, two float64 numbers, however many microbatches there are; before, of
        norms whose running statistics are the mean of all calls, one all-gather of the numbers of calls on each worker.
        """
        if not self.layers:
            return
        parts = parts or partition(num_leaves, self.workers.size)
        mine = parts[self.workers.rank]
        seen = self._seen_before_mine()
        updates: Accumulator[Tensor] = Accumulator(mine, num_leaves, follow)
        for index, leaf in zip(mine, self.leaves, strict=True):
            updates.add(index, self._update(leaf, seen))
            seen = seen + leaf[-len(self.layers) :].double()
        num_updates = sum(self.sizes) + len(self.layers)
        sizes = [2 * size for size in even_slices(num_updates, self.workers.size)]
        like = self.before.new_empty(0, dtype=torch.float64)
        tiers = [
            MessageTier(meeting, like, follow)
            for meeting in meetings(self.workers.tiers, self.workers.rank, parts, sizes)
        ]
        total = Exchange(updates.roots, Span(0, num_leaves), tiers, 2 * num_updates, add=follow).result()
        factors, summands = total.view(-1, 2).unbind(1)
        of_statistics, of_counters = summands.split([sum(self.sizes), len(self.layers)])
        kept = factors[: len(of_statistics)]
        moved = (self.before.double() * kept + of_statistics).to(self.before.dtype)
        self._end(torch.where(kept == 1, self.before, moved), list(self._seen() + of_counters))

    def _seen(self) -> Tensor:
        """Return what each norm had counted before the step; float64 counts exactly, and nothing is read back from the device."""
        nothing = self.before.new_zeros((), dtype=torch.float64)
        return torch.stack([nothing if batches is None else batches.double() for batches in self.batches])

    def _seen_before_mine(self) -> Tensor:
        """Return what each norm has counted before this worker's first microbatch, of those which need to know it."""
        seen = self._seen()
        if any(self.is_cumulative) and self.workers.size > 1:
            mine = [leaf[-len(self.layers) :].double() for leaf in self.leaves]
            counted = torch.stack(mine).sum(0) if mine else torch.zeros_like(seen)
            one_each = [range(rank, rank + 1) for rank in range(self.workers.size)]
            seen = seen + gather_leaves(counted[None], one_each, self.workers)[: self.workers.rank].sum(0)
        return seen

    def _update(self, leaf: Tensor, seen: Tensor) -> Tensor:
        """Return what a microbatch does to each statistic, then to each counter, flat pairs of a factor and a summand."""
        num = len(self.layers)
        values, weights, counts, counted = leaf.double().split([sum(self.sizes), num, num, num])
        if any(self.is_cumulative):
            averages = counts / (seen + counts).clamp(min=1)
            weights = torch.where(self._cumulative, averages, weights)
        weight = weights[self._layer_of]
        changes = torch.stack([1 - weight, weight * values], dim=1)
        counters = torch.stack([torch.ones_like(counted), counted], dim=1)
        return torch.cat([changes, counters]).flatten()

    def abandon(self) -> None:
        """Go back to the running statistics from before the step."""
        if self.layers:
            self._end(self.before, self.batches)

    @cached_property
    def _layer_of(self) -> Tensor:
        """The number of the layer of each statistic, on the device."""
        sizes = torch.tensor(self.sizes)
        numbers = torch.arange(len(self.layers)).repeat_interleave(2)
        return numbers.repeat_interleave(sizes, output_size=sum(self.sizes)).to(self.before.device)

    @cached_property
    def _cumulative(self) -> Tensor:
        """Whether each norm's running statistics are the mean of all calls, on the device."""
        return torch.tensor(self.is_cumulative).to(self.before.device)

    def _end(self, running: Tensor, counts: Sequence[Tensor | None]) -> None:
        for buffer, value in zip(self.buffers, running.split(self.sizes), strict=True):
            # `.data`: a backward pass that is still to come has kept the buffer, though in training it does not read it
            buffer.data.copy_(value.view_as(buffer))
        for counter, count in zip(self.counters, counts, strict=True):
            if counter is not None and count is not None:
                counter.copy_(count)
        self._set_momenta(self.own_momenta)
        self.leaves = []
        self.forget()

    def _set_momenta(self, momenta: Sequence[Any]) -> None:
        for layer, momentum, is_cumulative in zip(self.layers, momenta, self.is_cumulative, strict=True):
            if is_cumulative:
                layer.momentum = momentum


def _layers_with_statistics(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers with buffers of a norm's names, each once; of buffers that layers share, the first that has them."""
    seen: set[int] = set()
    for module in model.modules():
        mine = dict(module.named_buffers(recurse=False))
        pair = [mine[name] for name in BUFFERS if name in mine]
        if len(pair) == 2 and all(b.is_floating_point() for b in pair) and not seen & {id(b) for b in pair}:
            seen |= {id(b) for b in pair}
            yield module


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def follow(first: Tensor, then: Tensor) -> Tensor:
    """Overwrite updates with those that do the same as they and then others; both are flat pairs of a factor and a summand.

    Example:
        >>> follow(torch.tensor([0.5, 3.0]), torch.tensor([0.1, 1.0]))  # 0.1 (0.5 r + 3) + 1
        tensor([0.0500, 1.3000])
    """
    (factor, summand), (next_factor, next_summand) = first.view(-1, 2).unbind(1), then.view(-1, 2).unbind(1)
    summand.mul_(next_factor).add_(
        next_summand
    )  # two roundings for every element, wherever it is: no addcmul
    factor.mul_(next_factor)
    return first

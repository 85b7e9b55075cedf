"""The gradient of the global batch by the canonical sum, bucket by bucket, while the last backward pass runs.

    backward of the worker's last microbatch:   ... layer4 ......... layer3 ......... layer2 ......... stem
    bucket 0 (last layers) complete:                |-- all-to-all --|-- all-gather --|
    bucket 1                                                         |-- all-to-all --|-- all-gather --|

Buckets hold the parameters in reverse order, as backward reaches them. They are exchanged in the order of their
number on every worker, so the communication of all workers matches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.canonical import Accumulator, Made, Span, fold, partition, subtrees
from ziggurat.parallel.collectives.exchange import Exchange
from ziggurat.parallel.collectives.hierarchy import even_slices
from ziggurat.parallel.collectives.leaf import Leaf, owned
from ziggurat.parallel.collectives.shared_memory import Arena, arena_bytes, share_memory
from ziggurat.parallel.collectives.tiers import Meeting, MessageTier, Room, SharedTier, Tier, meetings
from ziggurat.parallel.collectives.wire import FP32, Rounding, Wire, chances
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.torch_internals.tensors import copy_each_

BUCKET_BYTES = 25 << 20  # as DistributedDataParallel: large enough for bandwidth, small enough to overlap


class GradientSum:
    """Collects one gradient leaf per microbatch and leaves their canonical sum in every ``parameter.grad``.

    A parameter that a backward pass does not reach takes part with zeros.

    Args:
        parameters: The parameters that require a gradient, in the model's order.
        workers: The workers of the data parallel axis.
        bucket_bytes: Size of the pieces that are exchanged at a time.
        parts: From a flat tensor to its sum over the workers which have other parts of the same microbatches, element by element
            in one order; it may overwrite its argument.
        wire: What gradients travel as: every node of the sum is rounded to it, on any number of workers.
        part: Which of the parts this worker has.

    Attributes:
        back: What this worker's slices are shared as.

    Raises:
        ValueError: If the wire is narrow, and parameters are not float32.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> gradients = GradientSum(layer.parameters(), Workers())
        >>> gradients.start(num_leaves=2)
        >>> for leaf, image in enumerate(torch.eye(2)):
        ...     with gradients.leaf(leaf):
        ...         layer(image).backward()
        >>> gradients.finish()
        >>> layer.weight.grad
        tensor([[1., 1.]])
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], workers: Workers, bucket_bytes: int = BUCKET_BYTES,
        parts: Callable[[Tensor], Tensor] | None = None, wire: Wire = FP32, part: int = 0,
    ) -> None:  # fmt: skip
        self.workers, self.parts = workers, parts
        self.wire, self.back, self.part = wire, wire, part
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        others = {str(parameter.dtype)[6:] for parameter in trained} - {"float32"}
        if wire.is_narrow and others:
            raise ValueError(
                f"gradients travel as {wire.name} where they are float32: got {', '.join(sorted(others))}"
            )
        self.numbers = {id(parameter): number for number, parameter in enumerate(trained)}
        self.buckets = [Bucket(group, wire.block) for group in _bucket_groups(trained, bucket_bytes)]
        self.hooks = [
            parameter.register_post_accumulate_grad_hook(partial(self._take, bucket))
            for bucket in self.buckets
            for parameter in bucket.parameters
        ]
        self.current: int | None = None
        self.memories: set[int] = set()  # of the current leaf's gradients
        self.look_at_first: Callable[[Leaf], None] | None = (
            None  # at each bucket's leaf of microbatch 0, before it is added to
        )
        self.shared_roots = 0 if workers.tiers and workers.device.type == "cpu" else None

    def start(
        self, num_leaves: int, parts: Sequence[range] | None = None, key: tuple[int, ...] = (0, 0)
    ) -> None:
        """Begin a step whose global batch has `num_leaves` microbatches.

        Args:
            num_leaves: Of all workers.
            parts: The leaves of each worker, consecutive; by default as even as possible.
            key: Of the run and the step, for what a wire leaves to chance.
        """
        self.num_leaves = num_leaves
        self.partition = list(parts or partition(num_leaves, self.workers.size))
        self.mine = self.partition[self.workers.rank]
        self.pending: list[Exchange | Leaf] = []  # of each bucket; the sum itself, where there is one worker
        self.stops = self.parts is not None
        self._share_memory()
        for bucket in self.buckets:
            bucket.rounding = self._make_rounding(bucket, key)
            bucket.travelling = self.rounding_of_slices(bucket)
            made = None if bucket.rounding is None else partial(_round_leaf, bucket.rounding)
            bucket.sum = Accumulator(self.mine, num_leaves, made=made)
            for parameter in bucket.parameters:
                parameter.grad = None  # else autograd would add to the sum of the step before

    @contextmanager
    def leaf(self, index: int) -> Iterator[None]:
        """Take the gradient of one backward pass, run inside, as the leaf of microbatch `index`.

        Of every second leaf autograd itself adds each parameter's gradient to that of the leaf before, as soon as it is made;
        under a narrow wire not, as a leaf is rounded before it is added.
        """
        self._begin(index)
        for bucket in self.buckets:
            if not self.wire.is_narrow:
                bucket.lend_left(index)
        yield
        self._end()

    def take_present(self, index: int) -> None:
        """Take what several backward passes have left in every ``parameter.grad`` as the leaf of microbatch `index`."""
        self._begin(index)
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                if parameter.grad is not None:
                    self._take(bucket, parameter)
        self._end()

    def stop_at_slices(self) -> None:
        """Let this step end with `finish_slices`; called between `start` and the last microbatch."""
        self.stops = True

    def finish(self) -> None:
        """Wait for all buckets and set every ``parameter.grad`` to its sum.

        Parts are added to this worker's slices alone, and here, which is the same place on every worker: where loss or network
        depends on what a worker sees, backward may reach a bucket's parameters at another time than with another part.

        Communication:
            What is left of the buckets' exchanges; `parts`, of each slice.
        """
        self._exchange_complete_buckets()  # a worker without microbatches has had no occasion before
        self._advance_all()
        for bucket, pending in zip(self.buckets, self.pending, strict=True):
            if self.stops and isinstance(pending, Exchange):
                pending.share(self._with_parts(bucket, pending.slice()))
        self._advance_all()
        for bucket, pending in zip(self.buckets, self.pending, strict=True):
            gradients = pending.tensors if isinstance(pending, Leaf) else bucket.views(pending.result())
            for parameter, gradient in zip(bucket.parameters, gradients, strict=True):
                parameter.grad = gradient
        self.pending = []

    def finish_slices(self) -> list[Tensor]:
        """Wait for all buckets, and return this worker's slice of each one's sum, over all parts; as `slices` cuts it.

        A slice ends with a few elements more than its bucket has, where that cannot be cut evenly. It may lie in memory that the
        next step writes to.

        Raises:
            ValueError: If the step was not told so before.

        Communication:
            As `finish`, without sharing the slices.
        """
        if not self.stops:
            raise ValueError(
                "a step ends with slices where `stop_at_slices` was called before its last microbatch"
            )
        found = self.wait_for_slices()
        for pending in self.pending:
            assert isinstance(pending, Exchange)
            pending.leave()
        self.pending = []
        return found

    def wait_for_slices(self) -> list[Tensor]:
        """Wait for all buckets, and return this worker's slice of each one's sum, over all parts; the exchanges wait there."""
        self._exchange_complete_buckets()
        self._advance_all()
        return [
            self._with_parts(bucket, pending.slice())
            for bucket, pending in zip(self.buckets, self.pending, strict=True)
            if isinstance(pending, Exchange)
        ]

    def slice_sizes(self, bucket: Bucket) -> list[int]:
        """Return the elements of each worker's slice of a bucket, in order of rank: whole blocks of the wire."""
        block = self.wire.block
        return [block * size for size in even_slices(bucket.length // block, self.workers.size)]

    def flat(self, bucket: Bucket, leaf: Leaf) -> Tensor:
        """Return the elements of a bucket's leaf as they are cut into slices."""
        return leaf.flat()

    def rounding_of_slices(self, bucket: Bucket) -> Rounding | None:
        """Return what rounds the nodes of a bucket as they are cut into slices, see `flat`; None where nothing is rounded."""
        return bucket.rounding

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for hook in self.hooks:
            hook.remove()

    def _begin(self, index: int) -> None:
        self.current = index
        self.memories.clear()

    def _end(self) -> None:
        """Complete the leaf where no gradient came."""
        for bucket in self.buckets:
            if not bucket.complete:
                self._fold(bucket)
        for bucket in self.buckets:
            bucket.complete = False
        self.current = None

    def _take(self, bucket: Bucket, parameter: Tensor) -> None:
        """Move one parameter's gradient into the leaf of its bucket (called by autograd)."""
        if self.current is None:
            return
        bucket.take(parameter, self.memories)
        if bucket.is_full:
            self._fold(bucket)

    def _fold(self, bucket: Bucket) -> None:
        """Add the bucket's leaf to its sum; after the last leaf, exchange all that is complete."""
        assert self.current is not None and bucket.sum is not None
        leaf = bucket.pop_leaf()
        if self.current == 0 and self.look_at_first is not None:
            self.look_at_first(leaf)
        if bucket.rounding is not None:
            leaf = bucket.joined(leaf)
            _round_leaf(bucket.rounding, Span(self.current, self.current + 1), leaf)
        bucket.sum.add(self.current, leaf, bucket.has_left)
        bucket.has_left = False
        bucket.complete = True
        if self.current == self.mine[-1]:
            self._exchange_complete_buckets()

    def _exchange_complete_buckets(self) -> None:
        while len(self.pending) < len(self.buckets):
            bucket = self.buckets[len(self.pending)]
            if bucket.sum is None or (self.mine and not bucket.complete):
                return
            self._advance()
            self.pending.append(self._start_exchange(bucket, bucket.sum.roots))
            bucket.sum = None

    def _advance(self) -> None:
        for pending in self.pending:
            if isinstance(pending, Exchange):
                pending.advance()

    def _advance_all(self) -> None:
        """Take the steps that are left, of all exchanges in turns, so that none waits for another."""
        for _ in range(2 * len(self.workers.tiers)):
            self._advance()

    def _with_parts(self, bucket: Bucket, mine: Tensor) -> Tensor:
        if self.parts is None:
            return mine
        total = self.parts(mine)
        if bucket.travelling is not None:
            bucket.travelling.total(Span(0, self.num_leaves), total, bucket.start)
        return total

    def _make_rounding(self, bucket: Bucket, key: tuple[int, ...]) -> Rounding | None:
        if not self.wire.is_narrow:
            return None
        block = self.wire.block
        if block > 1 and bucket.states is None:
            numbers = [self.numbers[id(parameter)] for parameter in bucket.parameters]
            sizes = [-(-parameter.numel() // block) for parameter in bucket.parameters]
            total = sum(self.slice_sizes(bucket)) // block
            bucket.states = chances(numbers, sizes, total).to(bucket.parameters[0].device)
        return Rounding(self.wire, bucket.states, key, self.part)

    def _start_exchange(self, bucket: Bucket, leaves: dict[Span, Leaf]) -> Exchange | Leaf:
        node = Span(0, self.num_leaves)
        if self.workers.size == 1 and not self.stops:
            made = None if bucket.rounding is None else partial(_round_leaf, bucket.rounding)
            return fold(leaves, node, made=made)
        roots = {span: self.flat(bucket, leaf) for span, leaf in leaves.items()}
        met = meetings(self.workers.tiers, self.workers.rank, self.partition, self.slice_sizes(bucket))
        tiers = [self._tier(bucket, meeting) for meeting in met]
        bucket.start = met[-1].start if met else 0
        return Exchange(
            roots, node, tiers, bucket.length, self.stops, made=_made_at(bucket.travelling, bucket.start)
        )

    def _tier(self, bucket: Bucket, meeting: Meeting) -> Tier:
        made = _made_at(bucket.travelling, meeting.start)
        if bucket.room is not None and meeting.workers is self.workers.tiers[0]:
            return SharedTier(meeting, bucket.room, made=made)
        return MessageTier(meeting, bucket.parameters[0], made=made, wire=self.wire, back=self.back)

    def _share_memory(self) -> None:
        """Map shared memory for the roots of the workers that meet first, where there is none yet or too little."""
        if self.shared_roots is None:
            return
        whole, innermost = Span(0, self.num_leaves), self.workers.tiers[0]
        needed = max(len(subtrees(part, whole)) for part in self.partition)
        if needed <= self.shared_roots:
            return
        pieces: list[tuple[tuple[int, ...], torch.dtype]] = []
        for bucket in self.buckets:
            length = sum(self.slice_sizes(bucket))
            pieces += [((innermost.size, needed, length), bucket.dtype), ((length,), bucket.dtype)]
        memory = share_memory(innermost, arena_bytes(pieces))
        self.shared_roots = None if memory is None else needed
        arena = None if memory is None else Arena(memory)
        for bucket, places, total in zip(self.buckets, pieces[::2], pieces[1::2], strict=True):
            bucket.room = None if arena is None else Room(arena.tensor(*places), arena.tensor(*total))


def is_own_hook(hook: Callable[..., Any]) -> bool:
    """Whether a hook on a parameter is a `GradientSum`'s, and not the network's."""
    function = hook.func if isinstance(hook, partial) else None
    return getattr(function, "__func__", None) is GradientSum._take


def _round_leaf(rounding: Rounding, span: Span, leaf: Leaf) -> None:
    assert leaf.joined is not None
    rounding.node(span, leaf.joined)


def _made_at(rounding: Rounding | None, start: int) -> Made[Tensor] | None:
    return None if rounding is None else partial(rounding.node, start=start)


class Bucket:
    """Some parameters, and the gradients that the current backward pass has left in them.

    Args:
        parameters: Of one type and device.
        block: In a flat tensor each of them begins with a block of so many elements.
    """

    def __init__(self, parameters: list[nn.Parameter], block: int = 1) -> None:
        self.parameters = parameters
        self.index = {id(parameter): i for i, parameter in enumerate(parameters)}
        self.strides = [torch.empty_like(p, device="meta").stride() for p in parameters]  # without gaps
        sizes = [-(-parameter.numel() // block) * block for parameter in parameters]
        *self.starts, self.length = itertools.accumulate(sizes, initial=0)
        self.dtype = parameters[0].dtype
        self.room: Room | None = None
        self.rounding: Rounding | None = None  # of what is computed here
        self.travelling: Rounding | None = None  # of slices
        self.states: Tensor | None = None  # of its blocks' generators
        self.start = 0  # of this worker's slice
        self.sum: Accumulator[Leaf] | None = None
        self.complete = False
        self.has_left = False
        self.taken: dict[int, Tensor] = {}

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return one view of `flat` for each parameter, with its shape and strides."""
        return [
            flat.as_strided(parameter.shape, strides, start)
            for parameter, strides, start in zip(self.parameters, self.strides, self.starts, strict=True)
        ]

    def joined(self, leaf: Leaf) -> Leaf:
        """Return a copy of a leaf in one flat tensor, with zeros where a block is not full."""
        flat = leaf.tensors[0].new_zeros(self.length)
        copy_each_(views := self.views(flat), leaf.tensors)
        return Leaf(views, flat)

    def lend_left(self, leaf: int) -> None:
        """Put the gradients of the leaf before into ``parameter.grad``, if this one is added to them first."""
        left = self.sum.take_left(leaf) if self.sum is not None else None
        self.has_left = left is not None
        if left is not None:
            for parameter, gradient in zip(self.parameters, left.tensors, strict=True):
                parameter.grad = gradient

    def take(self, parameter: Tensor, memories: set[int]) -> None:
        """Move ``parameter.grad`` into the leaf.

        Raises:
            RuntimeError: If one backward pass delivers a second gradient (reentrant checkpointing does).
        """
        place = self.index[id(parameter)]
        if place in self.taken:
            raise RuntimeError(
                "a parameter received two gradients in one backward pass; "
                "use torch.utils.checkpoint with use_reentrant=False"
            )
        assert parameter.grad is not None
        self.taken[place] = owned(parameter.grad, self.strides[place], memories)
        parameter.grad = None

    @property
    def is_full(self) -> bool:
        """Whether every parameter has a gradient of the current backward pass."""
        return len(self.taken) == len(self.parameters)

    def pop_leaf(self) -> Leaf:
        """Return the leaf, with zeros where no gradient came."""
        taken, self.taken = self.taken, {}
        for place, parameter in enumerate(self.parameters):
            if place not in taken:
                left, parameter.grad = parameter.grad, None
                zeros = torch.zeros_like(parameter.detach())
                taken[place] = zeros if left is None else left.add_(zeros)  # they count: -0 + 0 is 0
        return Leaf([taken[place] for place in range(len(self.parameters))])


def _bucket_groups(parameters: Sequence[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Cut the reversed list of parameters into groups of one type and device, of about `bucket_bytes`."""
    groups: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(parameters):
        if not groups or size >= bucket_bytes or not _are_alike(parameter, groups[-1][0]):
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += parameter.numel() * parameter.element_size()
    return groups


def _are_alike(one: nn.Parameter, other: nn.Parameter) -> bool:
    return one.dtype == other.dtype and one.device == other.device

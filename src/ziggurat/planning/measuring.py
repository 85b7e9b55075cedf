"""Seconds of kernels, measured on this machine in the order of a program, while as many workers measure as will compute.

A kernel that is called again and again finds its tensors in the cache and its memory at hand, and takes half of what it takes
within a step. So all are called in turn, as a step calls them, and this several times:

    pass 0    not counted: memory comes page by page; each kernel once
    pass 1 .. in the order in which the program has them, a kernel that takes long once, a short one as often as the program has it,
              up to some times: that one follows another of its own is what makes it short. The mean of a pass, of all passes the median

Between them, a call that computes nothing is timed in the same way; what it takes (Python, the dispatcher, the clock) is no part of a
kernel, and is taken off: in a step most are called by autograd, and what their calls take is among the overheads.

What a kernel reads was written last by a kernel before it, where one gave such a tensor; what it gives lies in new memory. A tensor
with gaps is a part of another: of the one that was written last, where it fits. Workers begin each pass together.

With one thread it is the processor's time of the thread that counts: what others take of the machine meanwhile is not ours. With
several, or on a GPU, it is the time that passes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ziggurat.parallel.runtime.allocator import keep_freed_memory, map_nothing
from ziggurat.planning.amounts import bytes_of, order_of
from ziggurat.planning.kernels import call_of, dtype_of, form_of, forms_in
from ziggurat.planning.program import Form, Kernel
from ziggurat.system.forking import die_with_parent, fork_context, without_ctrl_c
from ziggurat.system.memory import total_memory
from ziggurat.torch_internals.containers import tree_leaves
from ziggurat.torch_internals.operators import Parameter, operator_of

PASSES = 5
EVERY = 8  # calls there is one of nothing
LEAST_SECONDS = 1e-7  # of a kernel
SHORT_SECONDS, MOST_CALLS = 3e-4, 12  # kernels that take less are called as often in a pass
ENOUGH_SECONDS = 30.0  # no pass begins later, but for the first that counts

LARGE = 100.0  # numbers do not grow beyond, pass after pass
BY_NUMBERS = ("max_pool", "sort", "topk", "nms")
"""What takes longer where numbers differ."""

Clock = Callable[[], float]


class Measured(NamedTuple):
    """What was measured of a kernel.

    Attributes:
        seconds: The median of all passes, and of all workers the mean.
        spread: The mean distance of the passes from that, relative to it.
    """

    seconds: float
    spread: float


@dataclass(frozen=True)
class Conditions:
    """Under which kernels are measured.

    Attributes:
        workers: How many measure at once.
        threads: Of each.
        passes: That count, at most.
        enough_seconds: No pass begins later, but for the first that counts.
    """

    workers: int = 1
    threads: int = 1
    passes: int = PASSES
    enough_seconds: float = ENOUGH_SECONDS


def measure_kernels(kernels: Sequence[Kernel], conditions: Conditions) -> dict[Kernel, Measured]:
    """Measure kernels in processes of their own, which are gone afterwards.

    Args:
        kernels: In the order of a program, with what it calls again.
        conditions: How many processes, and how.

    Returns:
        What was measured. A kernel that cannot be called with tensors of some numbers is left out: one that
        depends on them, or asks for more memory than there is.

    Raises:
        RuntimeError: If a process ended before it was done.
    """
    if not kernels:
        return {}
    # OpenMP's threads do not survive a fork
    context: Any = fork_context() if conditions.threads == 1 else multiprocessing.get_context("spawn")
    barrier = context.Barrier(conditions.workers)
    pipes, processes = [], []
    try:
        for _ in range(conditions.workers):
            receive, send = context.Pipe(duplex=False)
            process = context.Process(
                target=_measure_here, args=(os.getpid(), list(kernels), conditions, barrier, send)
            )
            with without_ctrl_c():
                process.start()
            send.close()
            pipes.append(receive)
            processes.append(process)
        found = _answers(pipes)
    finally:
        for process in processes:
            process.join(timeout=0.5)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        for pipe in pipes:
            pipe.close()
    return {
        kernel: Measured(
            statistics.fmean(one.seconds for one in each), statistics.fmean(one.spread for one in each)
        )
        for number, kernel in enumerate(dict.fromkeys(kernels))
        if len(each := [of_worker[number] for of_worker in found if number in of_worker]) == len(found)
    }


def _measure_here(
    parent: int, kernels: Sequence[Kernel], conditions: Conditions, barrier: Any, pipe: Connection
) -> None:
    """Be one of the processes, and send what it measured, as JSON."""
    die_with_parent(parent)
    torch.set_num_threads(conditions.threads)
    torch.set_flush_denormal(True)  # what is multiplied pass after pass must not become slow
    keep_freed_memory()
    map_nothing()
    room = total_memory() // 4 // conditions.workers
    clock = time.thread_time if conditions.threads == 1 else time.perf_counter
    replay = Replay(kernels, room, clock, every=EVERY)
    begin = time.perf_counter()
    for number in range(conditions.passes + 1):
        if number > 1 and time.perf_counter() - begin > conditions.enough_seconds:
            barrier.abort()  # for all
        try:
            barrier.wait()
        except threading.BrokenBarrierError:
            break
        replay.take_pass()
    pipe.send_bytes(json.dumps({number: list(one) for number, one in replay.measured().items()}).encode())
    pipe.close()


def _answers(pipes: Sequence[Connection]) -> list[dict[int, Measured]]:
    """Return what each process has measured; the first that ends without a word ends the wait."""
    found, waiting = [], list(pipes)
    while waiting:
        for pipe in wait(waiting):
            assert isinstance(pipe, Connection)
            waiting.remove(pipe)
            try:
                answer = json.loads(pipe.recv_bytes())
            except EOFError:
                raise RuntimeError(
                    "a process that measures kernels ended before it was done; is there enough memory?"
                ) from None
            found.append({int(number): Measured(*values) for number, values in answer.items()})
    return found


class Replay:
    """Calls kernels in turn, and takes their time.

    Args:
        kernels: In the order in which they are called, with what is called again.
        room: Bytes of tensors that are kept from one kernel to the next; a kernel that has more itself is not called.
        clock: Tells seconds.
        device: Where tensors lie.
        every: After so many calls there is one that computes nothing, which is taken off all; 0 for none.

    Attributes:
        kernels: Each once.
        nothing: Seconds of calls that compute nothing.
    """

    def __init__(
        self, kernels: Sequence[Kernel], room: int, clock: Clock = time.perf_counter, device: str = "cpu",
        every: int = 0,
    ) -> None:  # fmt: skip
        self.clock, self.device, self.every = clock, torch.device(device), every
        self.nothing: list[float] = []
        self.one = torch.zeros(1, device=self.device)
        self.of_nothing = operator_of("aten.alias.default")
        self.calls = 0
        self.kernels = list(dict.fromkeys(kernels))
        places = {kernel: number for number, kernel in enumerate(self.kernels)}
        self.order = [places[kernel] for kernel in kernels]
        self.tensors = Tensors(room, self.device)
        self.first: dict[int, float] = {}  # seconds of pass 0
        self.times: dict[int, list[float]] = {
            number: []
            for number, kernel in enumerate(self.kernels)
            if sum(bytes_of(form) for form in forms_in(kernel.arguments)) <= room
        }

    def take_pass(self) -> None:
        """Call each kernel; the first pass does not count."""
        calls: dict[int, list[float]] = {}
        with torch.no_grad():
            for number in self.order if self.first else range(len(self.kernels)):
                done = calls.setdefault(number, [])
                most = MOST_CALLS if self.first.get(number, 1.0) < SHORT_SECONDS else 1
                if number not in self.times or len(done) >= most:
                    continue
                seconds = self._call(self.kernels[number])
                if seconds is None:
                    del self.times[number]
                else:
                    done.append(seconds)
                self._call_nothing()
        if self.first:
            for number, done in calls.items():
                if number in self.times and done:
                    self.times[number].append(statistics.fmean(done))
        else:
            self.first = {number: done[0] for number, done in calls.items() if done}

    def measured(self) -> dict[int, Measured]:
        """Return what was measured, by the place of the kernel in `kernels`."""
        found = {}
        nothing = statistics.median(self.nothing) if self.nothing else 0.0
        for number, times in self.times.items():
            if times:
                median = statistics.median(times)
                spread = statistics.fmean(abs(one - median) for one in times) / median if median else 0.0
                found[number] = Measured(max(median - nothing, LEAST_SECONDS), spread)
        return found

    def _call_nothing(self) -> None:
        self.calls += 1
        if self.every and self.calls % self.every == 0:
            operator, args, named = self.of_nothing, [self.one], dict[str, Any]()
            self._finish()
            begin = self.clock()
            operator(*args, **named)
            self._finish()
            self.nothing.append(self.clock() - begin)

    def _call(self, kernel: Kernel) -> float | None:
        """Return the seconds of a kernel; None where it cannot be called."""
        try:
            operator, args, named = call_of(kernel, self.tensors.for_one_call())
            if any(name in kernel.name for name in BY_NUMBERS):
                for one in tree_leaves(args):
                    if isinstance(one, Tensor) and one.is_floating_point():
                        one.uniform_(0.1, 1.1)
            self._finish()
            begin = self.clock()
            made = operator(*args, **named)
            self._finish()
            seconds = self.clock() - begin
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError):  # PyTorch's refusals
            return None
        self.tensors.keep(made)
        return seconds

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Tensors:
    """Tensors of every form that kernels ask for: those that were made last, and new ones.

    Whole numbers are zero: they are indices, mostly, and no other is valid of every tensor.

    Args:
        room: Bytes that are kept.
        device: Where they lie.
    """

    def __init__(self, room: int, device: torch.device) -> None:
        self.room, self.device = room, device
        self.kept: dict[Form, list[Tensor]] = {}  # the one used last at the end
        self.num_bytes = 0
        self.lent: dict[Form, int] = {}  # to the call that is under way
        self.last: Tensor | None = None  # that was written

    def for_one_call(self) -> Callable[[Form, Parameter], Tensor]:
        """Return what gives the tensors of one call, each another one."""
        self.lent = {}
        return self._lend

    def keep(self, made: Any) -> None:
        """Keep what a kernel has given for those that follow."""
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and one.device == self.device:
                form = form_of(one)
                if one.is_floating_point():
                    self.last = one
                if order_of(form) != "other":
                    self._keep(one, form)
        while self.num_bytes > self.room and len(self.kept) > 1:
            form = next(iter(self.kept))
            self.num_bytes -= bytes_of(form) * len(self.kept.pop(form))

    def _keep(self, made: Tensor, form: Form) -> None:
        several = self.kept.pop(form, [])
        if any(made is one for one in several):  # it was changed in place
            if not made.is_floating_point():
                made.zero_()
        elif made.is_floating_point():
            several.append(made)
            self.num_bytes += bytes_of(form)
            if len(several) > max(1, self.lent.get(form, 0)):
                several.pop(0)
                self.num_bytes -= bytes_of(form)
        if several:
            if (
                made.is_floating_point()
                and made.numel()
                and not float(torch.linalg.vector_norm(made, torch.inf)) < LARGE
            ):
                made.uniform_(0.1, 1.1)  # the exponential of an exponential takes its time
            self.kept[form] = several

    def _lend(self, form: Form, parameter: Parameter) -> Tensor:
        place = self.lent.get(form, 0)
        self.lent[form] = place + 1
        if (part := self._part_of_last(form, place)) is not None:
            return part
        several = self.kept.setdefault(form, [])
        if len(several) <= place:
            several.insert(0, self._draw(form, parameter))
            self.num_bytes += bytes_of(form)
            return several[0]
        return several[-1 - place]

    def _part_of_last(self, form: Form, place: int) -> Tensor | None:
        """Return a tensor with gaps as a part of what was written last; another one for each place. None where it does not fit."""
        last = self.last
        if (
            last is None
            or str(last.dtype) != f"torch.{form.dtype}"
            or 0 in form.shape
            or order_of(form) != "other"
        ):
            return None
        dims = sorted(zip(form.strides, form.shape, strict=True))
        length, inner = (1 + sum((size - 1) * stride for stride, size in some) for some in (dims, dims[:-1]))
        # a second one lies in the gaps of the first, as halves of rows do, or else behind it
        start = place * (inner if inner * (place + 1) <= dims[-1][0] else length)
        if start + length > last.untyped_storage().nbytes() // last.element_size():
            return None
        return last.detach().as_strided(form.shape, form.strides, start)

    def _draw(self, form: Form, parameter: Parameter) -> Tensor:
        dtype = dtype_of(form.dtype)
        if 0 in form.shape:
            return torch.empty_strided(form.shape, form.strides, dtype=dtype, device=self.device)
        length = 1 + sum((size - 1) * stride for size, stride in zip(form.shape, form.strides, strict=True))
        if dtype.is_floating_point:
            flat = torch.empty(length, dtype=dtype, device=self.device).uniform_(0.1, 1.1)
        else:
            flat = torch.zeros(length, dtype=dtype, device=self.device)
        return flat.as_strided(form.shape, form.strides)

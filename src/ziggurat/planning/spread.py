"""What operations on spread tensors (sp) take of the processor around their kernels and messages, measured on this machine.

The Python of the engine runs at each operation of a network: it decides which rows move, and what the result is. What that takes depends on
the kind of the operation, on whether it sends something, and on whether its backward comes, not on the size of the bands; so the smaller these are,
the more it weighs. One or more operations of each kind are computed by two workers on small maps, in turn with computing that lets the processor
forget them, as in a step:

    seconds of an operation = seconds on a worker's band alone + calls more * call + messages + operations that it is made of + itself
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.allocator import keep_freed_memory
from ziggurat.parallel.spatial import SpatialTensor, cut, spatial_mesh
from ziggurat.planning.calibration import computing
from ziggurat.planning.events import Events
from ziggurat.planning.hollow import Noting
from ziggurat.planning.processes import on_workers
from ziggurat.planning.program import SPREAD, Kernel, Start, is_spread_operation
from ziggurat.strategies.costs.cache import MeasurementCache
from ziggurat.verification.memory import Ledger

SHAPE = (1, 8, 32, 32)  # of the maps
REPEATS, BEFORE = 25, 5  # computations that count, and those before that do not

Function = Callable[[Tensor], object]


class Seen(NamedTuple):
    """An operation that was computed on spread maps and on plain ones.

    Attributes:
        name: Of the operation, as a program has it.
        seconds: Of the processor in the worker's own thread, more than on plain maps of the band's size.
        calls: Of operators, how many more.
        starts: What it sends.
        inner: Other operations that it is made of, by their names.
        own: How often it is itself among what was noted.
    """

    name: str
    seconds: float
    calls: int
    starts: tuple[Start, ...]
    inner: dict[str, int]
    own: int = 1


def spread_costs_of_this_machine(
    call: float, begin: Callable[[Start], float], machine: str, cache: MeasurementCache
) -> dict[str, float]:
    """Return the seconds of operations on spread tensors, by their names: from the cache, or measured by two workers in some seconds.

    Args:
        call: Seconds of the call of an operator.
        begin: Seconds that a message takes the worker's own thread.
        machine: Names it.
        cache: Where they are kept.
    """
    found = known_spread_costs(machine, cache)
    if found is None:
        found = costs_of(on_workers(see_operations, 2, ())[0], call, begin)
        cache.write(_key(machine), found)
    return found


def known_spread_costs(machine: str, cache: MeasurementCache) -> dict[str, float] | None:
    """Return what was measured of a machine; None if nothing was."""
    found = cache.read(_key(machine))
    if found is None:
        return None
    try:
        return {str(name): float(seconds) for name, seconds in found.items()}
    except (AttributeError, TypeError, ValueError):
        cache.discard(_key(machine))
        return None


def _key(machine: str) -> str:
    return f"operations on spread tensors, by local sockets, of {machine}, torch {torch.__version__}"


def costs_of(seen: Sequence[Seen], call: float, begin: Callable[[Start], float]) -> dict[str, float]:
    """Return the seconds of each operation itself; of several of one name the mean.

    Args:
        seen: Those that others are made of come first.
        call: Seconds of the call of an operator.
        begin: Seconds that a message takes the worker's own thread.

    Example:
        >>> small = Seen("spread.question", 3e-6, 0, (), {})
        >>> large = Seen("spread.window", 50e-6, 5, (), {"spread.question": 2})
        >>> {name: round(1e6 * one) for name, one in costs_of([small, large], 1e-6, lambda start: 0.0).items()}
        {'spread.question': 3, 'spread.window': 39}
    """
    several: defaultdict[str, list[float]] = defaultdict(list)
    for one in seen:
        rest = one.calls * call + sum(map(begin, one.starts))
        rest += sum(
            count * statistics.fmean(several[name]) for name, count in one.inner.items() if name in several
        )
        several[one.name].append(max(0.0, one.seconds - rest) / one.own)
    return {name: float(f"{statistics.fmean(each):.4g}") for name, each in several.items()}


def see_operations(workers: Workers) -> list[Seen]:
    """Be a worker, and return what was seen, of all workers the mean."""
    keep_freed_memory()
    torch.manual_seed(0)
    mesh = spatial_mesh(workers, (workers.size,))
    whole = torch.rand(SHAPE).contiguous(memory_format=torch.channels_last)
    maps = cut(whole, mesh)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for with_gradient in (False, True):
            for kind, function in _operations():
                seen.append(_see(workers, maps, kind, function, with_gradient))
    own = torch.tensor([one.seconds for one in seen], dtype=torch.float64)
    mean = (workers.add_up(own) / workers.size).tolist()
    return [one._replace(seconds=seconds) for one, seconds in zip(seen, mean, strict=True)]


def _operations() -> list[tuple[str, Function]]:
    """Return operations with their kinds; those that others are made of come first."""
    channels = SHAPE[1]
    found: list[tuple[str, Function]] = [
        ("question", lambda x: x.shape), ("question", lambda x: x.dim()),
        ("pointwise", lambda x: x.relu()), ("pointwise", lambda x: x + x), ("pointwise", lambda x: x * 2.0),
        ("layout", lambda x: x[:, :4]), ("layout", lambda x: x.flatten(2)), ("layout", lambda x: x.permute(0, 2, 3, 1)),
        ("layout", lambda x: torch.cat([x, x], 1)), ("moments", lambda x: x.mean((2, 3))), ("gather", lambda x: x.cumsum(2)),
    ]  # fmt: skip
    layers: list[tuple[str, nn.Module]] = [
        ("window", nn.Conv2d(channels, channels, 1)), ("window", nn.Conv2d(channels, channels, 3, padding=1)),
        ("window", nn.MaxPool2d(3, 2, 1)), ("moments", nn.BatchNorm2d(channels)),
        ("moments", nn.BatchNorm2d(channels).eval()), ("resample", nn.Upsample(scale_factor=2)),
    ]  # fmt: skip
    return found + [(kind, layer.to(memory_format=torch.channels_last)) for kind, layer in layers]


def _see(workers: Workers, maps: SpatialTensor, kind: str, function: Function, with_gradient: bool) -> Seen:
    """Compute an operation on spread maps and on this worker's band of them."""
    plain = maps.local.detach().clone()
    parameters = list(function.parameters()) if isinstance(function, nn.Module) and with_gradient else []

    def on_spread() -> Callable[[], None]:
        band = maps.local.detach().requires_grad_(with_gradient)
        return _once(function, SpatialTensor(band, maps.dims, maps.mesh), band, parameters)

    def on_plain() -> Callable[[], None]:
        band = plain.detach().requires_grad_(with_gradient)
        return _once(function, band, band, parameters)

    with torch.set_grad_enabled(with_gradient):
        seconds = _seconds(workers, on_spread) - _seconds(workers, on_plain)
        calls, starts, names = _noted(workers, on_spread)
        calls_of_plain, *_ = _noted(workers, on_plain)
    own = next(name for name in names if name.partition(",")[0] == f"{SPREAD}{kind}")
    count = names.pop(own)
    return Seen(own, seconds, calls - calls_of_plain, starts, dict(names), count)


def _once(function: Function, x: Tensor, band: Tensor, parameters: Sequence[Tensor]) -> Callable[[], None]:
    def compute() -> None:
        made = function(x)
        if not isinstance(made, Tensor) or not band.requires_grad:
            return
        local = made.local if isinstance(made, SpatialTensor) else made
        torch.autograd.grad(local, [band, *parameters], torch.ones_like(local))

    return compute


def _seconds(workers: Workers, prepare: Callable[[], Callable[[], None]]) -> float:
    """Return the seconds of the processor in this thread: the median."""
    between, times = computing(), []
    for number in range(BEFORE + REPEATS):
        compute = prepare()
        between()
        begin = time.thread_time()
        compute()
        if number >= BEFORE:
            times.append(time.thread_time() - begin)
    workers.barrier()
    return statistics.median(times)


def _noted(
    workers: Workers, prepare: Callable[[], Callable[[], None]]
) -> tuple[int, tuple[Start, ...], Counter[str]]:
    """Return the calls of operators, what is sent, and the operations on spread tensors."""
    events, compute = Events(), prepare()
    before = workers.observer
    workers.observe(events)
    try:
        with Noting(events, Ledger()), events.noting():
            compute()
    finally:
        workers.observe(before)
    kernels = [event for event in events.noted if isinstance(event, Kernel)]
    names = Counter(kernel.name for kernel in kernels if is_spread_operation(kernel))
    starts = tuple(event for event in events.noted if isinstance(event, Start))
    return len(kernels) - names.total(), starts, names


def spread_or_assumed(found: Mapping[str, float] | None) -> Mapping[str, float]:
    """Return what was measured; where nothing was, about what was seen on two cores of an AMD EPYC that others used, too."""
    return ASSUMED if found is None else found


ASSUMED: Mapping[str, float] = {
    f"{SPREAD}{name}": microseconds * 1e-6
    for name, microseconds in {
        "question": 10, "pointwise": 40, "layout": 90, "window": 60, "window, talks": 180, "moments": 50, "moments, talks": 160,
        "resample": 85, "gather, talks": 460, "question, with gradient": 10, "pointwise, with gradient": 50,
        "layout, with gradient": 100, "window, with gradient": 105, "window, talks, with gradient": 310,
        "moments, with gradient": 60, "moments, talks, with gradient": 340, "resample, with gradient": 170,
        "gather, talks, with gradient": 610,
    }.items()
}  # fmt: skip

"""Faults to plant into the spatial engine of each worker, one at a time: what the fuzzer is there to find.

Each is a mistake that a change of the engine could make. Planting them patches internals by nature, in forked workers alone; a
planted fault counts as found by the first program that is exact without it, and is not with it.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fuzz.generate import generate
from fuzz.judge import Finding
from fuzz.pool import LIMIT_SECONDS, Pool, judge_one
from fuzz.program import Program
from ziggurat.parallel.spatial import SpatialTensor, dispatch, memory, tensor
from ziggurat.parallel.spatial.geometry import partition
from ziggurat.parallel.spatial.layout import AxisCutsTwice, Dims, Factor
from ziggurat.parallel.spatial.operations import moments, normalization, pointwise, resample, windows
from ziggurat.parallel.spatial.table import TABLE, Call, wrap

PLAN = "sp=2"
MOST_PROGRAMS = 2000
Compute = Callable[[Call], Any]


def instead(*names: str) -> Callable[[Callable[[Compute, Call], Any]], Callable[[], None]]:
    """Make a fault of a function that computes some operations: it is given what computes them rightly, and the call."""

    def enter(compute: Callable[[Compute, Call], Any]) -> Callable[[], None]:
        def plant() -> None:
            for name in names:
                entry = TABLE[name]
                TABLE[name] = replace(entry, run=functools.partial(compute, entry.run))

        plant.__name__, plant.__doc__ = compute.__name__, compute.__doc__
        return plant

    return enter


def halo_is_one_row_short() -> None:
    """The outermost row of each halo is zeros."""

    class Short(windows.Halos):
        def wait(self) -> list[Tensor]:
            found = super().wait()
            for owner, rows in zip(self.owners, found, strict=True):
                rows.select(self.plan.dim, 0 if owner < self.rank else -1).zero_()
            return found

    windows.Halos = Short


def gradient_of_halo_is_lost() -> None:
    """What other workers have computed of the gradient of a worker's rows is not added."""

    class Lost(windows.ReturnedRows):
        def wait(self) -> Tensor:
            before = self.result.clone()
            self.returns.add_to(self.result)
            return before

    windows.ReturnedRows = Lost


@instead("getitem")
def slice_begins_one_row_early(rightly: Compute, call: Call) -> Any:
    """A slice of rows that begins at an odd row begins one row too early, and ends so."""
    x, index = call.args
    if isinstance(index, tuple) and len(index) > 2 and isinstance(index[2], slice):
        start, stop, step = index[2].indices(x.shape[2])
        if start % 2 and start < stop and step == 1:
            call = replace(call, args=(x, (*index[:2], slice(start - 1, stop - 1), *index[3:])))
    return rightly(call)


def write_does_not_reach_its_base() -> None:
    """A slice that was changed in place is not written back to what it is a slice of."""
    memory._write_back = lambda copy: None


def view_is_not_renewed() -> None:
    """A view keeps its values when what it is a view of is changed."""
    dispatch.renew = tensor.renew = lambda x: None


@instead("dropout")
def dropout_is_drawn_for_the_band(rightly: Compute, call: Call) -> Any:
    """Each worker draws the mask of its own band."""
    x, *rest = call.args
    if call.named.get("inplace") or len(rest) > 2:
        return rightly(call)
    return SpatialTensor(functional.dropout(x.local, *rest, **call.named), x.dims, x.mesh)


def draws_are_in_order_of_the_dims() -> None:
    """What is drawn like a tensor is drawn as if all tensors lay contiguous in memory."""
    pointwise.empty_whole = lambda x, dtype=None, like=False: torch.empty(
        tuple(x.shape), dtype=dtype or x.local.dtype
    )


def sum_counts_the_apex_twice() -> None:
    """A dim that an axis could cut, but that is whole, is summed over the workers, too."""
    moments.axes_of = lambda x, dims: [f.axis for d in dims for f in x.dims[d] if f.axis is not None]


@instead("group_norm")
def group_norm_is_of_the_band(rightly: Compute, call: Call) -> Any:
    """Each worker normalizes by the moments of its own band."""
    x, *rest = call.args
    return wrap(functional.group_norm(x.local, *rest, **call.named), x)


@instead("softmax")
def softmax_is_of_the_band(rightly: Compute, call: Call) -> Any:
    """Each worker divides by the sum of its own band."""
    x, *rest = call.args
    return wrap(call.func(x.local, *rest, **call.named), x)


def two_dims_of_one_axis() -> None:
    """Rows are cut before columns are gathered, and nobody looks whether an axis cuts both meanwhile: workers hold different rows."""
    one_dim, rightly = tensor.one_dim_an_axis, pointwise.align

    def unchecked(dims: Dims) -> Dims:
        try:
            return one_dim(dims)
        except AxisCutsTwice:
            return dims

    def align(x: SpatialTensor, dims: Dims, operation: str) -> SpatialTensor:
        for d, wanted in enumerate(dims):
            if not pointwise._stays(x.dims[d], wanted) and not any(f.is_cut for f in x.dims[d]):
                x = pointwise._slice_dim(x, d, wanted)
        return rightly(x, dims, operation)

    tensor.one_dim_an_axis, pointwise.align = unchecked, align


@instead("pixel_shuffle")
def pixel_shuffle_has_wrong_bounds(rightly: Compute, call: Call) -> Any:
    """The rows are taken to be cut as a map of their extent is, not where they come from."""
    y = rightly(call)
    dims = [
        (Factor(f.size, f.axis, partition(f.size, len(f.bounds) - 1)),) if len(dim) == 1 and f.bounds else dim
        for dim in y.dims
        for f in dim[:1]
    ]
    return SpatialTensor(y.local, tuple(dims), y.mesh)


def interpolation_rounds_its_source() -> None:
    """The row that is nearest is found by rounding up where two are equally near."""
    rightly = resample.Scaling._nearest

    def nearest(self: Any, index: Tensor, place: Tensor, step: Tensor) -> Tensor:
        if self.mode == "nearest" and self.after % self.before:
            return (place * step).round().long().clamp(max=self.before - 1)
        return rightly(self, index, place, step)

    resample.Scaling._nearest = nearest


def running_variance_of_the_band() -> None:
    """The running variance is corrected by the number of values of the band."""
    normalization._check_count = lambda x: x.local.numel() // x.local.shape[1]


def mean_of_bands() -> None:
    """Moments of bands are joined as if all bands had equally many rows."""
    rightly = normalization.combine_moments
    normalization.combine_moments = lambda counts, mean, variance, axis: rightly(
        [1] * len(counts), mean, variance, axis
    )


FAULTS: tuple[Callable[[], None], ...] = (
    halo_is_one_row_short,
    gradient_of_halo_is_lost,
    slice_begins_one_row_early,
    write_does_not_reach_its_base,
    view_is_not_renewed,
    dropout_is_drawn_for_the_band,
    draws_are_in_order_of_the_dims,
    sum_counts_the_apex_twice,
    group_norm_is_of_the_band,
    softmax_is_of_the_band,
    two_dims_of_one_axis,
    pixel_shuffle_has_wrong_bounds,
    interpolation_rounds_its_source,
    running_variance_of_the_band,
    mean_of_bands,
)


@dataclass(frozen=True)
class Search:
    """What came of the search for a planted fault.

    Attributes:
        name: Of the fault.
        num_programs: That were tried, the one that found it among them.
        program: That found it; None if none did.
        finding: What came of it.
        seconds: Of the search.
    """

    name: str
    num_programs: int
    program: Program | None
    finding: Finding | None
    seconds: float

    def line(self) -> str:
        """Return the search as a row of a table."""
        if self.program is None or self.finding is None:
            return f"| {self.name} | not found in {self.num_programs} programs | | |"
        how = (
            f"{self.finding.verdict} {self.finding.error:.0e}" if self.finding.error else self.finding.verdict
        )
        return f"| {self.name} | {self.num_programs} | {self.program.seed} | {how} |"


def find(
    fault: Callable[[], None],
    seeds: Iterable[int] = range(MOST_PROGRAMS),
    plan: str = PLAN,
    limit: float = LIMIT_SECONDS,
) -> Search:
    """Look for a program that is exact without a fault, and not with it."""
    begin, count = time.monotonic(), 0
    faulty, sound = Pool(plan, limit, fault), Pool(plan, limit)
    try:
        for seed in seeds:
            count += 1
            program = generate(seed)
            finding = judge_one(faulty, program)
            if finding.is_fault and judge_one(sound, program).verdict == "exact":
                return Search(fault.__name__, count, program, finding, time.monotonic() - begin)
    finally:
        faulty.close()
        sound.close()
    return Search(fault.__name__, count, None, None, time.monotonic() - begin)


def find_all(faults: Sequence[Callable[[], None]] = FAULTS, limit: float = LIMIT_SECONDS) -> bool:
    """Look for each fault, and print the table; returns whether all were found."""
    print("| planted | programs | seed | verdict |\n|---|---|---|---|", flush=True)
    all_found = True
    for number, fault in enumerate(faults):
        seeds = itertools.islice(itertools.count(number * MOST_PROGRAMS), MOST_PROGRAMS)
        search = find(fault, seeds, limit=limit)
        print(search.line(), flush=True)
        all_found &= search.program is not None
    return all_found

"""What a kernel takes: the table that plans are compared by.

A table is of one machine, so many threads and so many workers that compute at once. What it has measured it knows; of other
kernels it says what those that are alike tell, and how far off it may be:

    measured   the kernel itself                                         residual: its spread
    layer      a line through the same layer's at other sizes            residual: of a point by the line through all others
    operator   a line through all of the operator                        likewise; above its points, as steep as the next
    work       a line through all that compute, or all that move bytes   likewise
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from ziggurat.planning.amounts import is_free, layer_of, operator_text, text_of, work_of
from ziggurat.planning.fits import Line, Point, fit_line
from ziggurat.planning.measuring import Conditions, Measured, measure_kernels
from ziggurat.planning.program import Kernel
from ziggurat.strategies.costs.cache import MeasurementCache
from ziggurat.system.platform import processor_name

FILE = "kernels.json"
UNKNOWN = 1.0  # the residual of what nothing tells
HOW = Literal["measured", "layer", "operator", "work", "free"]

Measures = Callable[[Sequence[Kernel], Conditions], dict[Kernel, Measured]]


class Cost(NamedTuple):
    """What a kernel takes.

    Attributes:
        seconds: Without what calls it.
        residual: How far off that may be, relative to it.
        how: It is known.
    """

    seconds: float
    residual: float
    how: HOW


class Entry(NamedTuple):
    """A kernel that was measured.

    Attributes:
        seconds: It takes.
        spread: Of the passes.
        work: What `fit_line` goes by.
        operator: It is of.
    """

    seconds: float
    spread: float
    work: float
    operator: str


@dataclass(frozen=True)
class Machine:
    """What seconds are of.

    Attributes:
        processor: Its name, and how many cores there are.
        torch: Version of PyTorch.
        threads: Of each worker.
        workers: That compute at once.
    """

    processor: str
    torch: str
    threads: int = 1
    workers: int = 1

    @staticmethod
    def here(threads: int = 1, workers: int = 1) -> Machine:
        """Return this machine."""
        return Machine(processor_name(), torch.__version__, threads, workers)

    @property
    def key(self) -> str:
        """The key in a file of measurements."""
        return f"kernels of {self.processor}, torch {self.torch}, {self.threads} threads, {self.workers} workers, without calls, from the heap"


class CostTable:
    """Seconds of kernels on one machine.

    Args:
        machine: Whose they are.
        measure: Measures kernels.

    Attributes:
        machine: Whose they are.
        entries: What was measured: of each layer its kernels, by their text.
    """

    def __init__(self, machine: Machine, measure: Measures = measure_kernels) -> None:
        self.machine = machine
        self.entries: dict[str, dict[str, Entry]] = {}
        self._measure = measure
        self._costs: dict[Kernel, Cost] = {}
        self._lines: dict[tuple[str, str], Line | None] = {}
        self._refused: set[Kernel] = set()

    def seconds(self, kernel: Kernel) -> float:
        """Return what a kernel takes.

        Raises:
            ValueError: If nothing tells: no kernel was measured.
        """
        return self.cost(kernel).seconds

    def residual(self, kernel: Kernel) -> float:
        """Return how far off `seconds` may be, relative to it.

        Raises:
            ValueError: As `seconds`.
        """
        return self.cost(kernel).residual

    def known(self, kernel: Kernel) -> bool:
        """Return whether a kernel was measured, or takes nothing."""
        return is_free(kernel) or text_of(kernel) in self.entries.get(layer_of(kernel), {})

    def cost(self, kernel: Kernel) -> Cost:
        """Return what a kernel takes, and how that is known.

        Raises:
            ValueError: As `seconds`.
        """
        found = self._costs.get(kernel)
        if found is None:
            found = self._costs[kernel] = self._find(kernel)
        return found

    def measure(self, kernels: Iterable[Kernel], conditions: Conditions | None = None) -> None:
        """Measure those kernels that are not known; those that cannot be are told by others that are alike.

        Args:
            kernels: In the order of a program, with what it calls again.
            conditions: Passes and the longest time; threads and workers are the table's.
        """
        one_of_each: dict[str, Kernel] = {}  # of those that take the same
        sequence = []
        for kernel in kernels:
            if not self.known(kernel) and kernel not in self._refused:
                sequence.append(one_of_each.setdefault(text_of(kernel), kernel))
        given = replace(
            conditions or Conditions(), threads=self.machine.threads, workers=self.machine.workers
        )
        for kernel, one in self._measure(sequence, given).items() if sequence else ():
            self._add(kernel, one)
        self._refused.update(kernel for kernel in sequence if not self.known(kernel))
        self._costs.clear()
        self._lines.clear()

    def write(self, cache: MeasurementCache) -> None:
        """Keep the table in a file of measurements, beside others."""
        cache.write(
            self.machine.key,
            {
                layer: {text: list(e) for text, e in several.items()}
                for layer, several in self.entries.items()
            },
        )

    @staticmethod
    def read(cache: MeasurementCache, machine: Machine, measure: Measures = measure_kernels) -> CostTable:
        """Return the table of a file of measurements; an empty one where the file has none that can be used."""
        table = CostTable(machine, measure)
        found = cache.read(machine.key)
        if found is not None:
            try:
                table.entries = _entries(found)
            except ValueError:
                cache.discard(machine.key)
        return table

    def _add(self, kernel: Kernel, measured: Measured) -> None:
        seconds = max(measured.seconds, 1e-9)
        entry = Entry(seconds, measured.spread, amount(kernel), operator_text(kernel))
        self.entries.setdefault(layer_of(kernel), {})[text_of(kernel)] = entry

    def _find(self, kernel: Kernel) -> Cost:
        if is_free(kernel):
            return Cost(0.0, 0.0, "free")
        layer, operator, work = layer_of(kernel), operator_text(kernel), amount(kernel)
        same = self.entries.get(layer, {})
        if (entry := same.get(text_of(kernel))) is not None:
            return Cost(entry.seconds, entry.spread, "measured")
        of_layer = self._line("layer", layer)
        of_operator = self._line("operator", operator)
        of_work = self._line("work", "flops" if work_of(kernel).flops else "bytes") or self._line("work", "")
        slope = of_work.slope if of_work is not None else None
        if of_layer is not None and len({e.work for e in same.values()}) > 1:
            return Cost(of_layer.at(work, slope), _residual(of_layer, of_operator, of_work), "layer")
        wider = of_operator or of_work
        if wider is None:
            raise ValueError(
                f"nothing was measured that tells what {kernel.name} takes: measure some kernels"
            )
        told, residual = wider.at(work, slope), _residual(wider, of_work)
        if not same:
            return Cost(told, residual, "operator" if of_operator else "work")
        (one, *_) = same.values()  # of one size: the wider line, moved through it
        there = wider.at(one.work, slope)
        if work_of(kernel).flops and there > 0:
            return Cost(one.seconds * told / there, residual, "layer")
        return Cost(max(one.seconds + told - there, min(one.seconds, told)), residual, "layer")

    def _line(self, kind: Literal["layer", "operator", "work"], name: str) -> Line | None:
        key = (kind, name)
        if key not in self._lines:
            points = self._points(kind, name)
            self._lines[key] = fit_line(points) if points else None
        return self._lines[key]

    def _points(self, kind: str, name: str) -> list[Point]:
        if kind == "layer":
            return [(one.work, one.seconds) for one in self.entries.get(name, {}).values()]
        several = [one for each in self.entries.values() for one in each.values()]
        if kind == "operator":
            return [(one.work, one.seconds) for one in several if one.operator == name]
        computes = ("convolution", "mm", "product_attention", "linear", "mv")
        return [
            (one.work, one.seconds)
            for one in several
            if not name or any(word in one.operator for word in computes) == (name == "flops")
        ]


def amount(kernel: Kernel) -> float:
    """Return the work that the time of a kernel grows with: arithmetic where it has some, else bytes; one at least."""
    work = work_of(kernel)
    return float(max(work.flops or work.num_bytes, 1))


def _residual(*lines: Line | None) -> float:
    """Return that of the first line that has one."""
    return next((line.residual for line in lines if line is not None and line.residual is not None), UNKNOWN)


def _entries(found: Any) -> dict[str, dict[str, Entry]]:
    """Return entries from what a file holds.

    Raises:
        ValueError: If they are none.
    """
    try:
        return {
            layer: {
                text: Entry(float(one[0]), float(one[1]), float(one[2]), str(one[3]))
                for text, one in each.items()
            }
            for layer, each in found.items()
        }
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"no costs of kernels: {type(error).__name__}: {error}") from error

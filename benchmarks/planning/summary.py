"""What a table of cells says: errors of each estimator, and what it costs to take the plan that a forecast calls the best."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

from cells import UNSEEN, Cell, num_workers


def errors_of(cells: Sequence[Cell]) -> str:
    """Return the errors of time and memory in some lines: of quiet cells those of seconds, of all those of the processor's and bytes."""
    quiet = [one for one in cells if one.is_quiet]
    lines = [
        f"{len(cells)} cells of {len({one.network for one in cells})} networks; {len(quiet)} were taken while the machine did nothing else"
    ]
    timed: list[tuple[str, list[Cell], Callable[[Cell], tuple[float, float]]]] = [
        ("seconds", quiet, lambda one: (one.forecast, one.taken)),
        ("  of networks not seen before", [c for c in quiet if c.network in UNSEEN], lambda one: (one.forecast, one.taken)),
        ("seconds, linear", quiet, lambda one: (one.linear, one.taken)),
        ("seconds, ParaDL", quiet, lambda one: (one.paradl, one.taken)),
        ("seconds of the processor", list(cells), lambda one: (one.forecast_processor, one.processor)),
        ("bytes", list(cells), lambda one: (one.forecast_bytes, one.counted_bytes)),
        ("bytes, ParaDL", list(cells), lambda one: (one.paradl_bytes, one.counted_bytes)),
        ("bytes, MemTracker", list(cells), lambda one: (one.torch_bytes, one.counted_bytes)),
    ]  # fmt: skip
    for name, some, pair in timed:
        lines.append(_line(name, [told / real - 1 for told, real in map(pair, some) if told and real]))
    lines += ["", "by axis, seconds of quiet cells:"]
    for axes in sorted({_axes(one) for one in quiet}):
        lines.append(_line(f"  {axes}", [c.forecast / c.taken - 1 for c in quiet if _axes(c) == axes]))
    return "\n".join(lines)


def _axes(cell: Cell) -> str:
    named = ",".join(part.partition("=")[0] for part in cell.plan.split()[0].split(","))
    return f"{named} ({cell.purpose})"


def _line(name: str, errors: Sequence[float]) -> str:
    if not errors:
        return f"{name:32} no cell"
    sizes = sorted(map(abs, errors))
    high = sizes[math.ceil(0.95 * len(sizes)) - 1]
    return (
        f"{name:32} {len(sizes):4} cells   mean {statistics.mean(sizes):6.1%}   95 of 100 within {high:6.1%}   worst {sizes[-1]:6.1%}   "
        f"from {min(errors):+.1%} to {max(errors):+.1%}"
    )


def regret_of(
    cells: Sequence[Cell], seconds: Callable[[Cell], float] = lambda one: one.forecast
) -> list[float]:
    """Return of each case by how much the plan that was chosen takes longer than the best one that was measured; infinity if it has no room.

    A case is a network, a size, a purpose, a number of workers and a limit of memory: none, or one that the plan with the
    most bytes does not keep. What fits is judged by forecast when a plan is chosen, by count when it is held to account.

    Args:
        cells: Quiet ones are used, with bytes counted.
        seconds: By which a plan is chosen.
    """
    found = []
    usable = sorted(
        (one for one in cells if one.is_quiet and one.counted_bytes),
        key=lambda one: (one.network, one.shape, one.purpose, num_workers(one.plan)),
    )
    for _, group in itertools.groupby(
        usable, key=lambda one: (one.network, one.shape, one.purpose, num_workers(one.plan))
    ):
        several = list(group)
        if len(several) < 2:
            continue
        most = sorted({one.counted_bytes for one in several})
        for limit in (math.inf, *([(most[-1] + most[-2]) / 2] if len(most) > 1 else [])):
            allowed = [one for one in several if one.forecast_bytes <= limit]
            fitting = [one for one in several if one.counted_bytes <= limit]
            if not allowed:
                found.append(math.inf)
                continue
            chosen = min(allowed, key=seconds)
            best = min(one.taken for one in fitting)
            found.append(chosen.taken / best - 1 if chosen in fitting else math.inf)
    return found


def format_regret(cells: Sequence[Cell]) -> str:
    """Return the regrets of the forecast, and of what others would choose, in some lines."""
    by: dict[str, Callable[[Cell], float]] = {
        "forecast": lambda one: one.forecast,
        "ParaDL": lambda one: one.paradl or math.inf,
        "always dp": lambda one: 0.0 if one.plan.startswith("dp") else 1.0,
    }
    lines = []
    for name, seconds in by.items():
        regrets = regret_of(cells, seconds)
        if not regrets:
            return "no case: no two plans of one network, size and number of workers were measured in peace, with their bytes counted"
        within = sum(one <= 0.03 for one in regrets) / len(regrets)
        lines.append(
            f"chosen by {name:10} {len(regrets)} cases   within 3 % of the best: {within:.0%}   worst {max(regrets):.1%}   "
            f"without room: {sum(one == math.inf for one in regrets)}"
        )
    return "\n".join(lines)

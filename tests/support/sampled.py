"""Long tables of cases: ``make test`` takes a selection, the same each time, in which every value of every parameter occurs.

@pytest.mark.sampled(12)                        make test: 12 of the cases
@pytest.mark.parametrize(...)                   make test-all: all of them

@pytest.mark.sampled(0)                         a long test that make test-all alone takes, of what shorter ones show in part
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pytest


def selected(cases: Mapping[str, Mapping[str, object]], number: int) -> set[str]:
    """Return the names of some cases: the fewest that hold every value of every parameter, then by the hash of their names.

    Args:
        cases: From the name of each to its values by parameter.
        number: Of cases that are returned, at most. Where it is too small for all values, some do not occur.
    """
    left = sorted(cases, key=lambda name: hashlib.sha256(name.encode()).digest())
    chosen: list[str] = []
    seen: set[tuple[str, object]] = set()
    while left and len(chosen) < number:
        best = max(left, key=lambda name: len(cases[name].items() - seen))  # the first of equal ones
        seen |= cases[best].items()
        left.remove(best)
        chosen.append(best)
    return set(chosen)


def leave_to_the_sweep(items: Iterable[pytest.Item]) -> None:
    """Mark as ``slow`` what is not selected from a table of cases that has the mark ``sampled``."""
    tables: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("sampled"):
            tables[item.nodeid.partition("[")[0]].append(item)
    for table in tables.values():
        _leave(table)


def _leave(table: Sequence[pytest.Function]) -> None:
    marker = table[0].get_closest_marker("sampled")
    assert marker is not None
    (number,) = marker.args
    cases = {
        item.nodeid: dict(_values(item.callspec.params if hasattr(item, "callspec") else {}))
        for item in table
        if not item.get_closest_marker("slow")
    }
    kept = selected(cases, number)
    for item in table:
        if item.nodeid not in kept:
            item.add_marker(pytest.mark.slow)


def _values(parameters: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the values of a case, those within a tuple one by one."""
    for name, value in parameters.items():
        if isinstance(value, tuple):
            yield from _values({f"{name}.{place}": one for place, one in enumerate(value)})
        else:
            yield name, _key(value)


def _key(value: object) -> object:
    """Return what says whether two cases have one value: other objects than plain ones are the same where they are one object."""
    return (type(value), value) if isinstance(value, str | int | float | None) else id(value)

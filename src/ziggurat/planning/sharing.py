"""Things that go on at once and share what there is: cores, and the cables of machines.

Each runs at the rate that the scarcest of its resources leaves it: with ``n`` users of a resource of capacity ``c`` that is
``min(1, c / n)``, as a scheduler that is fair has it over any time longer than its slices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

Resource = Hashable


@dataclass
class _Running:
    """Something that goes on.

    Attributes:
        left: Seconds of it that are left, at full rate.
        resources: That it uses.
        rate: At which it runs now.
    """

    left: float
    resources: tuple[Resource, ...]
    rate: float = 1.0


class Sharing:
    """What goes on now.

    Args:
        capacity: How many users of each resource run at full rate.

    Attributes:
        now: Seconds.

    Example:
        >>> sharing = Sharing({"core": 1})
        >>> sharing.begin("a", 1.0, ("core",)); sharing.begin("b", 2.0, ("core",))
        >>> sharing.next_end(), sharing.advance(sharing.next_end()), sharing.next_end()
        (2.0, ['a'], 3.0)
    """

    def __init__(self, capacity: Mapping[Resource, float]) -> None:
        self.capacity, self.now = capacity, 0.0
        self._running: dict[Hashable, _Running] = {}
        self._users: Counter[Resource] = Counter()

    def begin(self, what: Hashable, seconds: float, resources: tuple[Resource, ...]) -> None:
        """Let something begin now.

        Args:
            what: Its name.
            seconds: It takes at full rate.
            resources: That it uses until it ends.
        """
        self._running[what] = _Running(seconds, resources)
        self._users.update(resources)
        self._pace(resources)

    def next_end(self) -> float:
        """Return when the next thing ends if no other begins before; infinity if nothing goes on."""
        return self.now + min((one.left / one.rate for one in self._running.values()), default=math.inf)

    def advance(self, until: float) -> list[Hashable]:
        """Let time go on to the next end, or less, and return what has ended by then."""
        passed, self.now = until - self.now, until
        ended = []
        for what, one in self._running.items():
            one.left -= passed * one.rate
            if one.left <= 1e-12 * until:
                ended.append(what)
        touched: list[Resource] = []
        for what in ended:
            resources = self._running.pop(what).resources
            self._users.subtract(resources)
            touched += resources
        self._pace(touched)
        return ended

    def _pace(self, touched: tuple[Resource, ...] | list[Resource]) -> None:
        """Set the rates of what uses some resources."""
        for one in self._running.values():
            if any(resource in touched for resource in one.resources):
                one.rate = min(1.0, *(self.capacity[used] / self._users[used] for used in one.resources))

"""What fixes a run's bits and stands in no config: decisions that measurements have made.

Where a model is cut, and by which costs its branches are placed, is measured, and comes out otherwise each time. Equal decisions
give equal bits. So they belong to a run's state, and go into its checkpoints; a file beside the config is a cache only.

A decision is looked up in this order:

    given       in the run's state: from its checkpoint, or made before in this run
    cached      in the file of the run's folder
    measured    now
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ziggurat.errors import UserError
from ziggurat.strategies.costs.cache import MeasurementCache

T = TypeVar("T")


@dataclass
class Decisions:
    """The decisions of a run, as JSON has them.

    Attributes:
        made: By key, such as ``pp=2,1f1b,max_bytes=0,none`` for a cut, or ``lp`` for the costs of the calls.

    Example:
        >>> decisions = Decisions()
        >>> decisions.record("lp", {"stem": {"seconds": 0.5, "draws": False}})
        >>> Decisions.from_json(decisions.to_json()) == decisions
        True
    """

    made: dict[str, Any] = field(default_factory=dict)

    def record(self, key: str, value: Any) -> None:
        """Take a decision into the run's state; one of the same key is replaced.

        Raises:
            TypeError: If JSON cannot have it.
        """
        self.made[key] = json.loads(json.dumps(value))  # so that it is what a checkpoint gives back

    def find(self, key: str, read: Callable[[Any], T]) -> T | None:
        """Return a decision; None if there is none of this key.

        Args:
            key: Which one.
            read: From JSON to what it means; raises ValueError where it means nothing.

        Raises:
            UserError: If it means nothing.
        """
        if key not in self.made:
            return None
        try:
            return read(self.made[key])
        except ValueError as error:
            raise UserError(
                f"the run's state holds a decision under {key!r} that cannot be used ({error}): without it the run would go on "
                "in other bits; resume with the version of ziggurat that wrote the checkpoint, or start a new run from its "
                "weights"
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return a copy as JSON has it."""
        copied: dict[str, Any] = json.loads(json.dumps(self.made))
        return copied

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Decisions:
        """Return decisions from what `to_json` gave."""
        return Decisions(json.loads(json.dumps(dict(found))))


def decide(
    decisions: Decisions,
    key: str,
    cache: MeasurementCache,
    cache_key: str,
    read: Callable[[Any], T],
    write: Callable[[T], Any],
    measure: Callable[[], T],
) -> T:
    """Return a decision: the one that is given, or that is cached, or else one that is measured now, which is cached.

    It is not recorded here: what one worker decides is recorded when all know it.

    Args:
        decisions: The given ones.
        key: Under which it is given.
        cache: Of this run.
        cache_key: Under which it is cached.
        read: From JSON to the decision; raises ValueError.
        write: Its inverse.
        measure: Makes the decision.

    Raises:
        UserError: If the given one cannot be used.
    """
    given = decisions.find(key, read)
    if given is not None:
        return given
    cached = cache.read(cache_key)
    if cached is not None:
        try:
            return read(cached)
        except ValueError:
            cache.discard(cache_key)
    made = measure()
    cache.write(cache_key, write(made))
    return made

"""How many microbatches each place of the data axis takes in a step.

The canonical sum gives the same bits for any consecutive microbatches on any worker, so that a share may be as large as its worker
is fast, and may change between two steps:

    8 microbatches    even     worker 0  [0 1 2 3]        worker 1  [4 5 6 7]
                      5,3      worker 0  [0 1 2 3 4]      worker 1  [5 6 7]
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import consecutive, partition

EVEN, MEASURED = "even", "measured"
SETTING = "plan.shares"


@dataclass(frozen=True)
class Shares:
    """The microbatches of each place of the data axis.

    Attributes:
        counts: How many of a whole step are each place's, in order; none where they are as even as possible.
        replicas: Of a run by local SGD: each takes as many microbatches, and a place those of its replicas; 0 of other runs.
    """

    counts: tuple[int, ...] = ()
    replicas: int = 0

    @classmethod
    def read(cls, text: str, replicas: int = 0) -> Shares:
        """Return what ``plan.shares`` says of the first step.

        Example:
            >>> Shares.read("5,3").counts, Shares.read("measured").counts
            ((5, 3), ())
        """
        if text in (EVEN, MEASURED):
            return cls(replicas=replicas)
        return cls(tuple(int(count) for count in text.split(",")))

    def parts(self, num_microbatches: int, num_places: int) -> list[range]:
        """Return the microbatches of each place in a step that has so many.

        A step with others than the counts make together (the last one of an epoch) is cut at the same proportions. Counts of
        another number of places, with which a run may have gone on, count as even.

        Example:
            >>> Shares((5, 3)).parts(8, 2), Shares((5, 3)).parts(4, 2), Shares((5, 3)).parts(8, 4)[0]
            ([range(0, 5), range(5, 8)], [range(0, 2), range(2, 4)], range(0, 2))
            >>> Shares(replicas=4).parts(8, 3)
            [range(0, 4), range(4, 6), range(6, 8)]
        """
        if self.replicas:
            each = [len(part) for part in partition(num_microbatches, self.replicas)]
            of_places = partition(self.replicas, num_places)
            return consecutive([sum(each[number] for number in mine) for mine in of_places])
        if len(self.counts) != num_places:
            return partition(num_microbatches, num_places)
        whole = sum(self.counts)
        bounds = [
            before * num_microbatches // whole for before in itertools.accumulate(self.counts, initial=0)
        ]
        return consecutive([stop - start for start, stop in itertools.pairwise(bounds)])

    def __str__(self) -> str:
        """Return the counts as the setting has them."""
        return ",".join(map(str, self.counts)) or EVEN


def shares_fault(text: str, num_places: int, num_microbatches: int) -> str | None:
    """Return why the counts of ``plan.shares`` do not fit a run; None if they do, or it has none."""
    counts = Shares.read(text).counts
    if not counts or (len(counts) == num_places and sum(counts) == num_microbatches):
        return None
    return (
        f"{SETTING} must name the microbatches of each of the {num_places} workers (or groups of workers) that take other samples, together "
        f"{num_microbatches}: got {len(counts)} that make {sum(counts)} together ('{text}'); an example is "
        f"{','.join(str(len(part)) for part in partition(num_microbatches, num_places))}"
    )


def refuse_uneven(parts: Sequence[range], num_microbatches: int, why: str) -> None:
    """Refuse parts that are not as even as possible.

    Raises:
        UserError: With what is wrong with them.
    """
    if list(parts) != partition(num_microbatches, len(parts)):
        raise UserError(f"{why}: got {SETTING}={','.join(str(len(part)) for part in parts)}")

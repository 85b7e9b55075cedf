"""Which shares workers of unequal speed should have, from what the last steps took: pure functions, the same on every worker.

A step takes as long as its slowest place computes, and then sums as many subtree roots as there are::

    seconds(counts) = max over places of counts[place] * seconds_each[place]  +  root_seconds * roots(counts)

16 microbatches, the second worker half as fast: 8 + 8 takes 16 units and 2 roots, 12 + 4 takes 12 and 3, 11 + 5 takes 11 and 5.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ziggurat.parallel.collectives.canonical import Span, consecutive, partition, subtrees

AT_ONCE = 0.25  # of a step: so much is not waited for
MOST_GAIN = 0.3  # that is ever asked for
WIDTH = 12  # bounds between two places that are tried, next to the one that times alone would choose


@dataclass(frozen=True)
class Speeds:
    """What the last steps took, as all workers know it.

    Attributes:
        seconds_each: Of a microbatch on each place of the data axis.
        root_seconds: Of one more subtree root in the exchange.
        noise: By which part of them the seconds of a microbatch may be wrong, as far as single steps differ.
    """

    seconds_each: tuple[float, ...]
    root_seconds: float = 0.0
    noise: float = 0.0

    def seconds(self, counts: Sequence[int]) -> float:
        """Return how long a step would take with so many microbatches on each place."""
        computing = max(count * each for count, each in zip(counts, self.seconds_each, strict=True))
        return computing + self.root_seconds * num_roots(counts)


def num_roots(counts: Sequence[int]) -> int:
    """Return how many subtree roots all workers together bring to the exchange.

    Example:
        >>> num_roots([8, 8]), num_roots([12, 4]), num_roots([11, 5])
        (2, 3, 5)
    """
    node = Span(0, sum(counts))
    return sum(len(subtrees(part, node)) for part in consecutive(counts))


def best_counts(num_microbatches: int, speeds: Speeds) -> tuple[int, ...]:
    """Return the counts with which a step is shortest; each place has one microbatch at least, so that it is measured again.

    Bounds between places are tried next to where times alone would set them, and where the tree has large subtrees: of few
    microbatches all. Among these the result is the best.

    Raises:
        ValueError: If there are fewer microbatches than places.

    Example:
        >>> best_counts(16, Speeds((1.0, 2.0))), best_counts(16, Speeds((1.0, 2.0), root_seconds=0.6))
        ((11, 5), (12, 4))
    """
    num_places = len(speeds.seconds_each)
    if num_microbatches < num_places:
        raise ValueError(f"{num_places} places need a microbatch each: got {num_microbatches}")
    greedy = list(itertools.accumulate(_fastest(num_microbatches, speeds.seconds_each)))
    node = Span(0, num_microbatches)
    # of each bound: {roots so far: (longest place, bounds)}, the shortest for each number of roots
    known: dict[int, dict[int, tuple[float, tuple[int, ...]]]] = {0: {0: (0.0, ())}}
    for place, each in enumerate(speeds.seconds_each):
        rest = num_places - place - 1
        found: dict[int, dict[int, tuple[float, tuple[int, ...]]]] = {}
        for stop in _bounds(greedy[place], num_microbatches) if rest else [num_microbatches]:
            best = found.setdefault(stop, {})
            for start, reached in known.items():
                if not start < stop <= num_microbatches - rest:
                    continue
                more, seconds = len(subtrees(range(start, stop), node)), (stop - start) * each
                for roots, (longest, bounds) in reached.items():
                    new = (max(longest, seconds), (*bounds, stop))
                    if new < best.get(roots + more, (math.inf, ())):
                        best[roots + more] = new
        known = found
    last = known[num_microbatches]
    _, _, bounds = min(
        (longest + speeds.root_seconds * roots, roots, bounds) for roots, (longest, bounds) in last.items()
    )
    return tuple(stop - start for start, stop in itertools.pairwise((0, *bounds)))


def _fastest(num_microbatches: int, seconds_each: Sequence[float]) -> list[int]:
    """Return the counts with which the slowest place is done first, one at least on each: one microbatch after the other is given."""
    counts = [1] * len(seconds_each)
    for _ in range(num_microbatches - len(counts)):
        next_ = min(range(len(counts)), key=lambda place: (counts[place] + 1) * seconds_each[place])
        counts[next_] += 1
    return counts


def _bounds(near: int, num_microbatches: int) -> list[int]:
    """Return where a bound between two places may be: next to a number, and at multiples of powers of two about it."""
    found = set(range(near - WIDTH // 2, near + WIDTH // 2 + 1))
    for level in range(num_microbatches.bit_length()):
        found |= {(near >> level) << level, ((near >> level) + 1) << level}
    return sorted(bound for bound in found if 0 < bound < num_microbatches)


def noise_of(seconds: Sequence[float]) -> float:
    """Return the standard error of the median of some numbers, as a part of it, if they are normally distributed.

    Example:
        >>> round(noise_of([1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.0]), 3)
        0.033
    """
    median = statistics.median(seconds)
    deviation = 1.4826 * statistics.median(abs(one - median) for one in seconds)
    return 1.2533 * deviation / len(seconds) ** 0.5 / median if median > 0 else 0.0


@dataclass
class Adaptation:
    """Shares that follow the workers' speeds, and do not hunt.

    Other shares are taken where two measurements in a row say that a step would be shorter by `gain` at least, and by twice the noise; or
    one, by `AT_ONCE`.
    To go back to shares that were left asks for twice the gain of the time before (up to `MOST_GAIN`), as what comes and goes is noise.

    Attributes:
        counts: The present shares.
        gain: By which part of it a step must be shorter.
    """

    counts: tuple[int, ...]
    gain: float = 0.05
    left: dict[tuple[int, ...], int] = field(default_factory=dict)
    waited: bool = False

    @classmethod
    def of(cls, counts: Sequence[int], num_microbatches: int, num_places: int) -> Adaptation:
        """Return the start of a run, with given shares or even ones."""
        even = [len(part) for part in partition(num_microbatches, num_places)]
        return cls(tuple(counts) or tuple(even))

    def follow(self, speeds: Speeds) -> bool:
        """Take a measurement, and return whether the shares are others now."""
        best = best_counts(sum(self.counts), speeds)
        now, then = speeds.seconds(self.counts), speeds.seconds(best)
        asked = min(MOST_GAIN, max(self.gain * 2 ** self.left.get(best, 0), 2 * speeds.noise))
        if best == self.counts or now - then < now * asked:
            self.waited = False
            return False
        if not self.waited and now - then < AT_ONCE * now:
            self.waited = True
            return False
        self.left[self.counts] = self.left.get(self.counts, 0) + 1
        self.counts, self.waited = best, False
        return True

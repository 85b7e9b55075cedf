"""Who takes part where something is measured and decided for all."""

from __future__ import annotations

from typing import NamedTuple

from ziggurat.parallel.collectives.workers import Workers


class Team(NamedTuple):
    """The workers that a decision is for.

    Attributes:
        workers: All of them; the first one measures.
        network: Those that compute parts of the network for the same microbatches.
        data: Those that take other microbatches.
    """

    workers: Workers
    network: Workers
    data: Workers

"""Numbers that a network draws from NumPy's and Python's generators between its calls: each microbatch has a trace of its own.

    def forward(self, x):
        x = self.stem(x) * random.uniform(0.5, 1.5)     a number in a call

A trace runs this very code, without memory for tensors, but with the generators as they are. So a trace that is made with the states that
they have before a microbatch has the numbers of that microbatch; and whoever runs its calls brings the generators between two calls into
the states in which the network has left them there. What may differ from trace to trace are numbers in calls, and not which calls there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np

from ziggurat.parallel.graph.generators import Generators, generators_as_before
from ziggurat.parallel.graph.graph import Graph
from ziggurat.parallel.graph.keeping import name_of_function

OTHER_KEYS = range(1, 8)
"""A network that draws is traced with each of these, too: so a choice between two calls is mostly seen before anything is trained."""


def key_otherwise(key: int) -> None:
    """Bring NumPy's and Python's generators into states of our own."""
    random.seed(key)
    np.random.seed(key)


def has_same_calls(graph: Graph, other: Graph) -> bool:
    """Whether two graphs have the same calls, but for what these are given beside tensors."""

    def words(one: Graph) -> list[tuple[object, ...]]:
        calls = [
            (call.layer, None if call.function is None else name_of_function(call.function), call.uses, call.states, call.writes,
             call.gradients, call.autocast)
            for call in one.calls
        ]  # fmt: skip
        return [*calls, tuple(one.starts.items()), tuple(one.output_values()), tuple(one.numbers)]

    return words(graph) == words(other)


def is_keyed(begin: Callable[[], None]) -> bool:
    """Whether a function brings NumPy's and Python's generators into states of its own, whatever they were; leaves all as they were."""
    states = []
    with generators_as_before():
        for key in (1, 2):
            key_otherwise(key)
            begin()
            states.append(Generators.now())
    changed = states[1].changed_since(states[0])
    return changed.numpy is None and changed.python is None

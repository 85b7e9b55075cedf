"""What each call of a network costs: the one table that cuts, placements, memory and plans are made from.

A cost belongs to an operation, the shapes and type of its inputs, and the number of threads: so those of one network tell
about another that has the same operations.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ziggurat.parallel.graph.graph import Call, Graph


@dataclass(frozen=True)
class Operation:
    """What is computed, as far as its time depends on it.

    Attributes:
        name: Of the function, or of the layer's class with its settings: ``Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))``.
        shapes: Of the tensors that go in.
        dtype: Of the first of them; under autocast, the type that it computes in.
        device: ``cpu`` or the name of the GPU.
        threads: Of the CPU.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    device: str
    threads: int


@dataclass(frozen=True)
class CallCost:
    """What one call costs.

    Attributes:
        seconds: Of its forward pass.
        draws: Whether it draws random numbers.
        backward_seconds: Of its backward pass; None where that was not measured.
        output_bytes: Of what it makes.
        kept_bytes: Of what it is the first to keep from forward to backward; None where that was not measured.
        weight_bytes: Of the parameters and buffers that it reads.
        operation: What it computes; None where that is not known.
    """

    seconds: float
    draws: bool = False
    backward_seconds: float | None = None
    output_bytes: int = 0
    kept_bytes: int | None = None
    weight_bytes: int = 0
    operation: Operation | None = None


Costs = Mapping[str, CallCost]  # by the name of the call, see `call_names`
UNKNOWN = CallCost(0.0, draws=True)  # of a call that was not measured: it may draw random numbers


def call_names(graph: Graph) -> list[str]:
    """Return a name for each call, by which it is found again in the graph of another size of image.

    Example:
        >>> call = Call("stem.conv", None, (), {}, (), ())
        >>> call_names(Graph([call, call]))
        ['stem.conv', 'stem.conv:2']
    """
    counts: Counter[str] = Counter()
    names = []
    for call in graph.calls:
        name = call.layer if call.function is None else f"{call.layer} {function_name(call)}"
        counts[name] += 1
        names.append(name if counts[name] == 1 else f"{name}:{counts[name]}")
    return names


def function_name(call: Call) -> str:
    """Return the name of the function that a call is of; empty where a layer itself is called."""
    function = call.function
    if function is None:
        return ""
    if isinstance(function, functools.partial):  # that overwrites its arguments
        function = function.args[0]
    return str(getattr(function, "__name__", type(function).__name__))


def costs_of(graph: Graph, costs: Costs) -> list[CallCost]:
    """Return the cost of each call of a graph, in order; of one that was not measured, `UNKNOWN`."""
    return [costs.get(name, UNKNOWN) for name in call_names(graph)]


def to_json(costs: Costs) -> dict[str, Any]:
    """Return costs as JSON has them."""
    return {name: asdict(cost) for name, cost in costs.items()}


def from_json(found: Any) -> dict[str, CallCost]:
    """Return costs from what `to_json` gave; what is missing but the seconds and `draws` is not known.

    Raises:
        ValueError: If they are none.
    """
    try:
        return {name: _cost(one) for name, one in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no costs of calls: {type(error).__name__}: {error}") from error


def _cost(found: Mapping[str, Any]) -> CallCost:
    known = dict(found)
    operation = known.pop("operation", None)
    if operation is not None:
        shapes = tuple(tuple(int(size) for size in shape) for shape in operation["shapes"])
        operation = Operation(**{**operation, "shapes": shapes})
    seconds, draws = float(known.pop("seconds")), bool(known.pop("draws"))
    return CallCost(seconds, draws, operation=operation, **known)


def seconds_by_operation(costs: Costs) -> dict[Operation, tuple[float, float | None]]:
    """Return the seconds of forward and backward of each operation: the mean over the calls of it.

    Those of backward are None where they were not measured of every call.
    """
    of_operation: dict[Operation, list[CallCost]] = {}
    for cost in costs.values():
        if cost.operation is not None:
            of_operation.setdefault(cost.operation, []).append(cost)
    found: dict[Operation, tuple[float, float | None]] = {}
    for operation, several in of_operation.items():
        back = [cost.backward_seconds for cost in several if cost.backward_seconds is not None]
        mean_back = sum(back) / len(back) if len(back) == len(several) else None
        found[operation] = (sum(cost.seconds for cost in several) / len(several), mean_back)
    return found

"""Where a graph may be cut, a memory of several names is whole: stages that are handed copies compute what the network computes.

Each network makes a memory, gives it a second name, changes it through one and reads it through the other; what lies between is a
place for a cut. The second names are views, copies, and what is either, as the order of memory is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ziggurat.errors import UserError
from ziggurat.parallel.graph.graph import Graph, Value
from ziggurat.parallel.graph.runner import StageRunner
from ziggurat.parallel.graph.stages import make_stages
from ziggurat.parallel.graph.trace import Tracer, spec_of

NAMES: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda made: made.view(made.shape),
    "expand": lambda made: made.expand_as(made),
    "columns": lambda made: made[..., 1:],
    "transposed": lambda made: made.transpose(2, 3),
    "contiguous": lambda made: made.contiguous(),
    "channels last": lambda made: made.to(memory_format=torch.channels_last),
    "reshape": lambda made: made.reshape(made.shape[0], -1),
    "double": lambda made: made.double(),
    "detached": lambda made: made.detach(),
    "layer": nn.Identity(),
    "flattened": nn.Flatten(),
    "clone": lambda made: made.clone(),
    "checkpoint": lambda made: checkpoint(torch.tanh, made, use_reentrant=False),
}


def halve(first: Tensor, second: Tensor) -> None:
    first.mul_(0.5)


def halve_second(first: Tensor, second: Tensor) -> None:
    second.mul_(0.5)


def add_second(first: Tensor, second: Tensor) -> None:
    first += second.reshape(first.shape) if second.numel() == first.numel() else second.mean()


def add_first(first: Tensor, second: Tensor) -> None:
    second += first.mean()


def set_rows(first: Tensor, second: Tensor) -> None:
    second[:, :1] = 0.25


class Changes(nn.Module):
    """A layer that is one call, and changes what it is given: it returns nothing, or a part of it."""

    def __init__(self, change: Callable[[Tensor, Tensor], None], returns: bool) -> None:
        super().__init__()
        self.change, self.returns = change, returns
        self.__name__ = f"layer {change.__name__}{' returns' if returns else ''}"

    def forward(self, first: Tensor, second: Tensor) -> Tensor | None:
        self.change(first, second)
        return first[:, :, 1:] if self.returns else None


CHANGES = (
    halve, halve_second, add_second, add_first, set_rows,
    Changes(halve, False), Changes(set_rows, False), Changes(halve, True), Changes(set_rows, True),
)  # fmt: skip


class Named(nn.Module):
    """A memory with two names, that is changed twice."""

    def __init__(self, name: str, changes: tuple[Callable[[Tensor, Tensor], None], ...], last: bool) -> None:
        super().__init__()
        self.first, self.side = nn.Conv2d(2, 4, 1).to(memory_format=torch.channels_last), nn.Conv2d(4, 4, 1)
        self.second, self.changes, self.last = NAMES[name], changes, last
        self.layers = nn.ModuleList(one for one in changes if isinstance(one, nn.Module))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = self.first(x)
        side = self.side(first.clone())
        second = self.second(first)
        for change in self.changes:
            change(first, second)
            side = side + self.side(side)
        late = (first if self.last else second)[:, 1:]
        self.changes[0](first, second)
        return side, first + 1, second + 1, late * 2


def cuts(graph: Graph) -> list[int]:
    """Return the numbers of all calls before which nothing forbids a cut."""
    closed = graph.parted_ranges()
    return [n for n in range(1, len(graph.calls)) if not any(first < n <= last for first, last in closed)]


def in_stages(model: nn.Module, graph: Graph, places: list[int], images: Tensor) -> tuple[Tensor, ...]:
    """Return the outputs of stages, each of which is handed copies."""
    runner = StageRunner(model)
    known: dict[tuple[int, Value], Tensor] = {}
    for stage in make_stages(graph, places):
        wanted = {v: known[n, v].detach().clone() for n, values in stage.receives.items() for v in values}
        wanted |= {Value(-1, 0): images} if stage.number == 0 else {}
        held = runner.forward(stage, graph, wanted)
        known |= {(stage.number, value): tensor.detach() for value, tensor in held.sent.items()}
    assert isinstance(held.outputs, tuple)
    return held.outputs


CASES = [
    (name, changes, last)
    for name in NAMES
    for changes in itertools.product(CHANGES, repeat=2)
    for last in (True, False)
]


@pytest.mark.sampled(40)
@pytest.mark.parametrize(
    "case", CASES, ids=[f"{n}-{'-'.join(c.__name__ for c in cs)}-{last}" for n, cs, last in CASES]
)
def test_a_memory_of_two_names_is_whole_wherever_it_may_be_cut(
    case: tuple[str, tuple[Callable[[Tensor, Tensor], None], ...], bool],
) -> None:
    torch.manual_seed(0)
    name, changes, last = case
    model = Named(name, changes, last).double()
    images = torch.randn(2, 2, 3, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = model(images.clone())
    try:
        graph = Tracer(model, images.device).trace(spec_of(images))
    except UserError:  # by name: what a checkpoint has computed, changed through a view of it
        assert name == "checkpoint"
        return
    for places in [list(some) for n in (1, 2, 3) for some in itertools.combinations(cuts(graph), n)]:
        with torch.no_grad():
            found = in_stages(model, graph, places, images)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=f"cut before calls {places}")


def test_copies_may_be_cut_apart() -> None:
    model = Named("clone", (halve, add_first), True)
    graph = Tracer(model, torch.device("cpu")).trace(spec_of(torch.zeros(1, 2, 3, 5)))
    assert len(cuts(graph)) >= 3


@pytest.mark.parametrize("returns", [True, False])
def test_what_a_layer_changes_is_with_it_where_calls_are_in_no_order(returns: bool) -> None:
    """Under lp what a worker has made it sends from there, and not from where a layer has changed it."""
    model = Named("clone", (Changes(set_rows, returns), halve), True)
    graph = Tracer(model, torch.device("cpu")).trace(spec_of(torch.zeros(1, 2, 3, 5)))
    layer = next(n for n, call in enumerate(graph.calls) if call.layer == "layers.0")
    made = graph.calls[layer].writes[0].call
    assert (made, layer) in graph.overwritten_ranges()

"""One trace: what is kept of it is bounded, it says what uses which weights, and it leaves other threads alone."""

from __future__ import annotations

import functools
import gc
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ziggurat.parallel.branches.branches import Branches
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.cannot_cut import CannotCut
from ziggurat.parallel.graph.costs import CallCost, call_names
from ziggurat.parallel.graph.recent import MOST_KEPT
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.graph.uses import observe_uses
from ziggurat.parallel.pipeline.pipeline import Pipeline


def images_of_many_sizes(count: int) -> Iterator[Tensor]:
    return (torch.empty(1, 3, 4 + number, 4) for number in range(count))


def test_graphs_of_the_sizes_that_came_last_are_kept() -> None:
    tracer = Tracer(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()))
    first = spec_of(next(images_of_many_sizes(1)))
    graph = tracer.trace(first)
    for images in images_of_many_sizes(MOST_KEPT):
        tracer.trace(spec_of(images))
    assert tracer.trace(first) is graph
    for images in images_of_many_sizes(MOST_KEPT + 5):
        tracer.trace(spec_of(images))
        assert len(tracer.graphs.kept) <= MOST_KEPT
    assert tracer.trace(first) is not graph, "it went, and is traced again"


def test_stages_and_pieces_of_the_sizes_that_came_last_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
    pipeline = Pipeline(model, Tracer(model), (), Workers())
    costs = dict.fromkeys(call_names(Tracer(model).trace(spec_of(torch.empty(1, 3, 4, 4)))), CallCost(1.0))
    branches = Branches(model, Tracer(model), costs, Workers())
    for images in images_of_many_sizes(MOST_KEPT + 5):
        spec = spec_of(images)
        graph, stages = pipeline.stages_of(spec)
        assert pipeline.stages_of(spec)[1] is stages
        assert stages[0].calls[0] is graph.calls[0], "of this graph, not of one that had its place in memory"
        pieces = branches.pieces_of(spec)
        assert branches.pieces_of(spec) is pieces
    assert len(pipeline.stages.kept) == len(branches.known.kept) == MOST_KEPT


class Uses(nn.Module):
    """Uses a weight of a layer that never runs, a layer twice, and one inside a layer that is one call."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(8, 8)
        self.reached = nn.Linear(8, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.twice(self.twice(x)))
        return self.encoder(nn.functional.linear(x, self.reached.weight))


@pytest.mark.parametrize("mode", [True, False])
def test_the_trace_says_of_uses_what_a_run_says(mode: bool) -> None:
    model = Uses().train(mode)
    images = torch.zeros(2, 3, 8)
    with torch.no_grad():
        traced = Tracer(model).trace(spec_of(images)).uses
    seen = observe_uses(model, images)
    assert traced is not None
    assert traced.runs["twice"] == 2
    assert traced.within["reached.weight"] == {""}
    assert traced.within["block.0.weight"] == {"", "block", "block.0"}
    if mode:  # (in evaluation one fused kernel computes the encoder: which weights it takes is the same)
        assert traced.within["encoder.linear1.weight"] == {"", "encoder", "encoder.linear1"}
    assert (traced.runs, traced.within) == (seen.runs, seen.within)


class Doubles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        if x.is_meta:
            tracing.set()
            assert done.wait(10)
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


tracing, done = threading.Event(), threading.Event()


class Custom(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Doubles.apply(x)


def test_another_thread_goes_on_while_a_network_is_traced() -> None:
    """Its own calls of custom functions are neither noted nor hindered, and its gradients are right."""
    found: list[Tensor] = []

    def train() -> None:
        assert tracing.wait(10)
        x = torch.ones(3, requires_grad=True)
        Doubles.apply(x).sum().backward()
        assert x.grad is not None
        found.append(x.grad)
        done.set()

    thread = threading.Thread(target=train)
    thread.start()
    graph = Tracer(Custom()).trace(spec_of(torch.empty(1, 3, 4, 4)))
    thread.join()
    assert len(graph.calls) == 1
    assert found[0].tolist() == [2, 2, 2]


def test_threads_may_share_a_tracer() -> None:
    tracer = Tracer(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(20))))
    lengths: list[int] = []

    def trace(number: int) -> None:
        for images in images_of_many_sizes(10):
            lengths.append(len(tracer.trace(spec_of(images[..., : 1 + number])).calls))

    threads = [threading.Thread(target=trace, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [20] * 30


class Draws(nn.Module):
    """Draws a number between layers that draw none."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x * 2 if random.random() < 2 else x)


def test_who_draws_between_plain_layers_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ModuleDict({"x": Draws()})["x"])
    around = nn.ModuleList([nn.Sequential(model, nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1)])

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = around

        def forward(self, x: Tensor) -> Tensor:
            return self.parts[1](self.parts[0](x))

    with pytest.raises(CannotCut, match=r"the layer 'parts\.0\.0\.1' draws from Python's generator"):
        Tracer(Network()).trace(spec_of(torch.empty(1, 3, 4, 4)))


def test_a_plain_layer_with_a_hook_that_draws_is_called_as_it_is() -> None:
    for register in (nn.Module.register_forward_hook, nn.Module.register_forward_pre_hook):
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.ReLU()))
        register(model[0], lambda *_: random.random() and None)
        graph = Tracer(model).trace(spec_of(torch.empty(1, 3, 4, 4)))
        assert [call.layer for call in graph.calls] == ["0", "1.0"]


def remember() -> Tensor:
    return torch.ones(1)


class Remembers(nn.Module):
    """Has a tensor from a cache that lies in a module."""

    def forward(self, x: Tensor) -> Tensor:
        return x * remember()


@pytest.mark.parametrize("freezes", ["before", "after", "twice"])
def test_a_cache_of_a_module_forgets_what_a_trace_has_put_into_it(
    monkeypatch: pytest.MonkeyPatch, freezes: str
) -> None:
    """Whether it was frozen before the first trace, since, or again."""
    others = Tracer(nn.Sequential(nn.ReLU()))
    spec = spec_of(torch.empty(1, 3, 4, 4))
    if freezes == "after":
        others.trace(spec)  # all caches of modules were looked for
    cached = functools.lru_cache(remember)
    monkeypatch.setitem(globals(), "remember", cached)
    for _ in range({"twice": 2}.get(freezes, 1)):
        gc.freeze()
        others.trace(spec) if freezes == "twice" else None
    assert cached not in gc.get_objects()
    Tracer(Remembers()).trace(spec)
    assert cached.cache_info().currsize == 0
    assert Remembers()(torch.ones(1)).item() == 1


def test_caches_are_looked_for_in_classes_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the name of a class's module is no text, and in methods of what is no layer."""

    class Odd:
        __slots__ = ("place",)

    class OfOdd(Odd):
        pass

    Odd.__module__, OfOdd.__module__ = vars(Odd)["place"], __name__

    class Helper:
        cached = staticmethod(functools.lru_cache(lambda: torch.ones(1)))

    Helper.__module__ = __name__
    monkeypatch.setitem(globals(), "OfOdd", OfOdd)
    monkeypatch.setitem(globals(), "Helper", Helper)
    monkeypatch.setitem(globals(), "remember", lambda: Helper.cached())
    Tracer(Remembers()).trace(spec_of(torch.empty(1, 3, 4, 4)))
    assert Helper.cached.cache_info().currsize == 0


def test_what_nobody_sees_forgets_a_trace_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that lies in no module, class or layer: it holds a tensor of the trace, and is found by that."""
    holder = [functools.lru_cache(maxsize=4)(lambda key: torch.ones(1))]
    monkeypatch.setitem(globals(), "remember", lambda: holder[0](1))
    Tracer(Remembers()).trace(spec_of(torch.empty(1, 3, 4, 4)))
    assert holder[0].cache_info().currsize == 0
    assert Remembers()(torch.ones(1)).item() == 1

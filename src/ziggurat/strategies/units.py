"""Which modules are sharded as one piece: fsdp gathers the weights of a unit before its forward, and drops them after.

This is right only for weights that are used while the unit's forward runs. A network may reach into its parts
(``F.conv2d(x, self.conv.weight)``, attention that calls its projection's weight), tie weights, or call a part for every
level of a pyramid. So the trace of the network says within which modules each weight is used, and a unit is a module

- whose forward runs once in the pass (a head that runs on every level is gathered with what calls it), and
- while which all uses of its parameters lie, and
- which no tensor enters that is used more than once inside, and elsewhere, too: `fully_shard` sees each tensor that enters as one, so its gradients
  from inside would be added up first, and rounded otherwise than on one worker (a stage that begins with two branches, and whose input also
  goes to a pyramid: its layers are units instead).

Of these the smallest that have enough bytes are taken. What remains is the root's, and stays gathered for the whole pass. That is all of a
network that draws numbers while it runs: by them it may skip layers, on one worker and not on another, which would then gather weights
of different units together. Of one that cannot be traced, as it looks at values, workers make sure of it as they run (`sharded.UnitOrder`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.cannot_cut import CannotCut, DrawsNumbers
from ziggurat.parallel.graph.faults import KINDS
from ziggurat.parallel.graph.graph import INPUT, Graph, Value
from ziggurat.parallel.graph.trace import ImageSpec, Tracer
from ziggurat.parallel.graph.uses import Uses, observe_uses


class Units(NamedTuple):
    """What is sharded each as one piece.

    Attributes:
        names: Of modules, inner ones first; the model is not among them.
        is_traced: Whether a trace has found them: then they run in one order, whatever the values are.
    """

    names: list[str]
    is_traced: bool = True


def find_units(model: nn.Module, shape: Sequence[int], unit_bytes: int) -> Units:
    """Return the modules that are sharded each as one piece.

    What is looked at is the trace, which needs no weights. Where there is none (what the model computes depends on values, it
    cannot be copied, or a layer hides what it does), the model itself is run once, on black images.

    Args:
        model: With whole weights. Buffers and random numbers are as before afterwards.
        shape: Of images that it takes, ``(B, C, H, W)``.
        unit_bytes: Parameters of the smallest unit.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)))
        >>> find_units(model, (1, 3, 4, 4), unit_bytes=200)
        Units(names=['1'], is_traced=True)
    """
    try:
        graph = _traced(model, shape)
    except DrawsNumbers:
        return Units([])
    traced = None if graph is None else graph.uses
    uses = _observed_uses(model, shape) if traced is None else traced
    regrouping = set() if graph is None else _regrouping(graph, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    units: list[str] = []
    taken: set[int] = set()
    for module_name, module in reversed(
        list(model.named_modules())
    ):  # parts come before what they are parts of
        mine = [p for p in module.parameters() if id(p) not in taken]
        is_closed = all(
            module_name in uses.within.get(names[id(p)], {module_name}) for p in module.parameters()
        )
        size = sum(p.numel() * p.element_size() for p in mine)
        is_right = uses.runs[module_name] == 1 and is_closed and module_name not in regrouping
        if module is not model and is_right and size >= unit_bytes:
            units.append(module_name)
            taken |= {id(p) for p in mine}
    return Units(units, traced is not None)


def _like(model: nn.Module) -> Tensor:
    """Return a tensor of the type of a model's weights, where they are."""
    return next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))


def _regrouping(graph: Graph, model: nn.Module) -> set[str]:
    """Return the modules that a tensor enters which is used more than once inside, and elsewhere, too."""
    opaque = {name for name, module in model.named_modules() if any(module.children())}
    every: Counter[Value] = Counter(graph.output_values())
    inside: dict[str, Counter[Value]] = defaultdict(Counter)
    for call in graph.calls:
        # of a layer that is one call, with layers inside, nobody knows how often it uses what enters
        times = 2 if call.function is None and call.layer in opaque else 1
        for value in call.uses:
            every[value] += times
            for name in _around(call.layer):
                inside[name][value] += times
    return {
        name
        for name, counts in inside.items()
        for value, count in counts.items()
        if 1 < count < every[value]
        and (value.call == INPUT or name not in _around(graph.calls[value.call].layer))
    }


def _around(layer: str) -> list[str]:
    """Return the modules that a layer lies in, and itself.

    Example:
        >>> _around("stem.conv")
        ['', 'stem', 'stem.conv']
    """
    parts = layer.split(".") if layer else []
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def _traced(model: nn.Module, shape: Sequence[int]) -> Graph | None:
    """Return the graph of a forward pass without gradients, and what it uses; None where it cannot be traced.

    Raises:
        DrawsNumbers: If it draws numbers, by which it may choose.
    """
    like = _like(model)
    images = torch.empty(*shape, dtype=like.dtype, device="meta")
    spec = ImageSpec(tuple(images.shape), tuple(images.stride()), images.dtype)
    try:
        with torch.no_grad():
            graph = Tracer(model, None if like.is_meta else like.device).trace(spec, KINDS)
    except DrawsNumbers:
        raise
    except CannotCut:
        return None
    if graph.draws_numbers or graph.numbers:
        raise DrawsNumbers(f"{type(model).__name__} draws numbers while it runs")
    return graph


def _observed_uses(model: nn.Module, shape: Sequence[int]) -> Uses:
    """Return what a model uses of itself, run once on black images."""
    like = _like(model)
    return observe_uses(model, torch.zeros(*shape, dtype=like.dtype, device=like.device))

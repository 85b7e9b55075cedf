"""Running one stage on one microbatch: forward from what it has received, backward from the gradients of what it sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.graph import Call, Graph, Value, fill, tensors_in
from ziggurat.parallel.graph.recompute import recomputed
from ziggurat.parallel.graph.stages import Stage
from ziggurat.parallel.spatial import SpatialTensor, band_of


def like(tensor: Tensor, local: Tensor) -> Tensor:
    """Return a local tensor as what `tensor` is."""
    return SpatialTensor(local, tensor.dims, tensor.mesh) if isinstance(tensor, SpatialTensor) else local


@dataclass
class Held:
    """What a stage keeps of a microbatch between forward and backward.

    Attributes:
        leaves: The received values as autograd has them, those that have a gradient.
        sent: The values that others need.
        outputs: What the network returns; of the last stage.
        loss: The microbatch's share; of the last stage.
    """

    leaves: dict[Value, Tensor] = field(default_factory=dict)
    sent: dict[Value, Tensor] = field(default_factory=dict)
    outputs: Any = None
    loss: Tensor | None = None


def _ignore(number: int, made: list[Tensor]) -> None:
    """Take note of nothing."""


def _ignore_begin(number: int) -> None:
    """Take note of nothing."""


class StageRunner:
    """Runs the calls of stages with a network's own layers and weights.

    Args:
        model: The network; layers of other stages need no weights.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.states = {**dict(model.named_parameters()), **dict(model.named_buffers())}

    def forward(
        self,
        stage: Stage,
        graph: Graph,
        received: Mapping[Value, Tensor],
        after_call: Callable[[int, list[Tensor]], None] = _ignore,
        again: bool = False,
        before_call: Callable[[int], None] = _ignore_begin,
    ) -> Held:
        """Run the calls of a stage.

        Args:
            stage: The stage.
            graph: Which it is of.
            received: The values that it needs; those with a gradient become leaves.
            after_call: Is told the number of each call in the graph, and the tensors that it has made.
            again: Keep nothing of the inside: backward computes it again.
            before_call: Is told the number of each call in the graph before it is made.

        Returns:
            What backward needs, with what is to be sent, and the network's outputs on the last stage.
        """
        held = Held()
        given = {value: self._leaf(value, tensor, held) for value, tensor in received.items()}

        def compute() -> dict[Value, Tensor]:
            return self._compute(stage, graph, given, before_call, after_call)

        if again and torch.is_grad_enabled():
            changed = {n for call in stage.calls for n in call.states} & graph.written_states
            buffers = [self.states[name] for name in sorted(changed)]
            values = recomputed(compute, buffers, [band_of(tensor) for tensor in given.values()])
        else:
            values = compute()
        held.sent = {value: values[value] for value in stage.sent()}
        if stage.first + len(stage.calls) == len(graph.calls):
            held.outputs = fill(graph.outputs, values, self.states.__getitem__)
        return held

    def _compute(
        self,
        stage: Stage,
        graph: Graph,
        given: Mapping[Value, Tensor],
        before_call: Callable[[int], None],
        after_call: Callable[[int, list[Tensor]], None],
    ) -> dict[Value, Tensor]:
        """Return the values that are left after the calls of a stage."""
        values = dict(given)
        for value in stage.overwrites & given.keys():
            values[value] = like(given[value], band_of(given[value]).clone())
        for place, (call, arguments) in enumerate(zip(stage.calls, stage.arguments, strict=True)):
            filled = arguments.filled(values, self.states.__getitem__)
            if stage.first + place in graph.numbers:
                graph.numbers[stage.first + place].set()
            before_call(stage.first + place)
            result = self._run(call, *filled)
            made = [result] if isinstance(result, Tensor) else tensors_in(result)
            after_call(stage.first + place, made)
            for number, tensor in enumerate(made):
                value = Value(stage.first + place, number)
                values[value] = tensor.clone() if value in graph.copied else tensor
            for value in stage.forgets.get(place, ()):
                values.pop(value, None)
        end = stage.first + len(stage.calls)
        if end == len(graph.calls) and end in graph.numbers:  # drawn after the last call
            graph.numbers[end].set()
        return values

    @staticmethod
    def backward(held: Held, gradients: Mapping[Value, Tensor]) -> dict[Value, Tensor | None]:
        """Run backward from the loss and the gradients of what was sent; parameters receive theirs.

        Args:
            held: Of the same microbatch's forward; nothing of it is alive afterwards.
            gradients: Of the sent values that have any.

        Returns:
            The gradients of the received values: None where the stage does not depend on one.
        """
        roots = [band_of(held.sent[value]) for value in gradients]
        given = list(gradients.values())
        leaves, loss = held.leaves, held.loss
        held.sent, held.leaves, held.outputs, held.loss = {}, {}, None, None
        if roots:
            torch.autograd.backward(roots, given, retain_graph=loss is not None)
        if loss is not None:
            loss.backward()
        return {value: leaf.grad for value, leaf in leaves.items()}

    def _leaf(self, value: Value, tensor: Tensor, held: Held) -> Tensor:
        """Return a received value as autograd has it."""
        local = band_of(tensor)
        if torch.is_grad_enabled() and local.requires_grad:
            leaf = local if local.is_leaf else local.detach().requires_grad_()
            held.leaves[value] = leaf
            local = leaf
        return like(tensor, local)

    def _run(self, call: Call, args: Any, kwargs: Any) -> Any:
        module = self.modules[call.layer]
        gradients: AbstractContextManager[Any] = (
            nullcontext() if call.gradients or not torch.is_grad_enabled() else torch.no_grad()
        )
        with gradients, _autocast(call):
            if call.function is None:
                return module(*args, **kwargs)
            return _call_in(module, call.function, args, kwargs)


def _call_in(self: nn.Module, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call a function where a layer called it: messages find the layer's name by ``self`` on the stack."""
    return function(*args, **kwargs)


def _autocast(call: Call) -> AbstractContextManager[Any]:
    """Turn autocast off where the network did."""
    for kind in ("cpu", "cuda"):
        if torch.is_autocast_enabled(kind) and not call.autocast:
            return torch.autocast(kind, enabled=False)
    return nullcontext()

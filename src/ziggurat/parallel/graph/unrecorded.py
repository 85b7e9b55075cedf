"""What a network does beside the calls that its trace holds: each is a fault of the trace, by which it may be refused.

It keeps tensors, changes its weights, asks how memory lies, registers hooks, sets the modes of layers. The recorder says what it sees; here
is judged whether a run of the recorded calls would do the same.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ziggurat.parallel.graph.faults import Faults, Kind
from ziggurat.parallel.graph.graph import INPUT, Graph, Value
from ziggurat.parallel.graph.keeping import (
    Origins,
    is_plain_function,
    kept_by,
    states_of,
    tensors_kept_by,
)
from ziggurat.torch_internals.hooks import ASKED, has_gradient_hooks, has_gradient_hooks_for_all
from ziggurat.torch_internals.tensors import memory_key, version_of

OF_MEMORY = frozenset(
    [
        "stride", "is_contiguous", "storage_offset", "data_ptr", "untyped_storage", "storage", "is_set_to", "dim_order",
        "_base", "_version",
    ]
)  # fmt: skip
"""What a tensor answers by how it lies in memory."""


class Unrecorded:
    """Takes note of what one call of a network does that is in none of the recorded calls.

    Args:
        meta_model: The network.
        name_of: From a tensor to its name as a parameter or buffer; empty for any other.
        values: The tensors of the trace so far, by ``id``; the recorder adds to them.
        before: Of a call of the same network before, to be compared with.

    Attributes:
        faults: What was found.
        origins: What tensors are made of.
    """

    def __init__(
        self,
        meta_model: nn.Module,
        name_of: Callable[[Tensor], str],
        values: Mapping[int, Value],
        before: Unrecorded | None = None,
    ) -> None:
        self.meta_model, self.name_of, self.values = meta_model, name_of, values
        self.faults = Faults()
        self.origins: Origins = Origins(name_of, before.origins if before else None)
        self.states = states_of(meta_model)
        self.memories = {memory_key(tensor): name for name, tensor in self.states.items()}
        self.wanted: list[Tensor] = []  # whose gradient is to be kept
        self.held = kept_by(meta_model)
        self.modes = {name: module.training for name, module in meta_model.named_modules()}

    # -- while the network is called -----------------------------------------------------------------------------------

    def enter(self, name: str, module: nn.Module, layer: str) -> None:
        """Look at a layer that begins within another."""
        if module.training is not self.modes[name]:
            mode = "training" if module.training else "evaluation"
            self.faults.note("mode", layer, f"puts '{name}' into {mode} mode (train, eval)")

    def look_for_hooks(self, name: str, module: nn.Module) -> None:
        """Take note of hooks on the gradients that go through a layer which is not called as one."""
        if has_gradient_hooks(module) or has_gradient_hooks_for_all():
            said = "has a hook on the gradients that go through it, and layers in it"
            self.faults.note("hook", name, said, has_line=False)

    def question(self, func: Callable[..., Any], args: Any, layer: str) -> None:
        """Take note of a question that the trace answers otherwise than a run, and of what is assigned to a tensor."""
        name = getattr(func, "__name__", "")
        asked = field_of(func) if name in ("__get__", "__set__") else name
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is None:
            return
        if asked in ("requires_grad", "requires_grad_") and name != "__get__" and self.name_of(first):
            self.faults.note("mode", layer, f"says whether a parameter has a gradient ({asked})")
        elif name == "__set__" and asked != "requires_grad":
            self.faults.note("state", layer, f"assigns to the {asked} of a tensor (.{asked} = x)")
        elif asked == "grad_fn" and id(first) in self.values and not _is_called_by_torch():
            self.faults.note("hook", layer, "asks how a tensor was made (.grad_fn)")
        elif asked in OF_MEMORY and id(first) in self.values and self.values[id(first)].call != INPUT:
            self.faults.note("memory", layer, f"asks how a tensor lies in memory ({asked})")

    def question_inside(
        self, func: Callable[..., Any], args: Any, given: Sequence[Tensor], own: set[int], layer: str
    ) -> None:
        """Look at a call within a layer that is one call.

        Args:
            func: What is called.
            args: With what.
            given: The tensors among all its arguments.
            own: The ``id`` of each tensor that the layer was given, or has made.
            layer: Where.
        """
        name = getattr(func, "__name__", "")
        asks, sets = name in ASKED, name == "__set__" and field_of(func) == "data"
        for tensor in given:
            if id(tensor) in self.values and id(tensor) not in own and not self.name_of(tensor):
                self.faults.note("hidden", layer, "uses a tensor that it was not given")
        if (asks or sets) and args and (id(args[0]) in self.values or self.name_of(args[0])):
            if asks:
                self.faults.note(
                    "hook", layer, f"asks for the gradient of a tensor that it was given ({name})"
                )
            else:
                self.faults.note("state", layer, "assigns to the data of a tensor (.data = x)")
        self.given(given, [], given, layer)

    def given(
        self, given: Sequence[Tensor], changed: Sequence[int], used: Sequence[Tensor], layer: str
    ) -> None:
        """Take note of tensors that the network has kept from the call before, or changes for the next one.

        Args:
            given: To a function.
            changed: Numbers of those that it has changed.
            used: Those that it was called with in their places: tensors without memory.
            layer: Where.
        """
        for number, (tensor, one) in enumerate(zip(given, used, strict=True)):
            if self.origins.is_stale(tensor) and (number in changed or not self.origins.is_constant(tensor)):
                self.faults.note("state", layer, "uses a tensor that it has kept from the call before")
            elif one is not tensor and version_of(one):
                self.faults.note("state", layer, "changes a tensor in place that it holds itself")

    def hook(self, name: str, tensor: Tensor, hook: Any, layer: str) -> RemovableHandle:
        """Look at a hook that is registered on a tensor's gradient, and return what the network is given for it."""
        is_made = id(tensor) in self.values and self.values[id(tensor)].call != INPUT
        if name != "register_hook" or not is_made or not is_plain_function(hook):
            self.faults.note(
                "hook", layer, f"registers a hook ({name}) that holds more than numbers, or on no map"
            )
        return _Handle(self.faults, layer)

    def written_state(self, tensor: Tensor, layer: str) -> str:
        """Return the name of the parameter or buffer that a changed tensor is, or whose memory it lies in; empty for others."""
        if name := self.name_of(tensor):
            return name
        name = self.memories.get(memory_key(tensor), "")
        if name and version_of(states_of(self.meta_model)[name]) != version_of(tensor):
            self.faults.note("state", layer, f"changes '{name}' out of autograd's sight (.data)")
        return name

    # -- after it ------------------------------------------------------------------------------------------------------

    def end(self, graph: Graph, outputs: Sequence[Tensor]) -> None:
        """Take note of what the network has left behind.

        Args:
            graph: What was recorded.
            outputs: The tensors that the network returns.
        """
        after = states_of(self.meta_model)
        for name in {**self.states, **after}:
            layer, _, key = name.rpartition(".")
            if self.states.get(name) is not after.get(name):
                self.faults.note("state", layer, f"assigns its parameter or buffer '{key}'", has_line=False)
            elif name in graph.written_states and isinstance(self.states[name], nn.Parameter):
                self.faults.note("state", layer, f"changes its parameter '{key}' in place", has_line=False)
        for name, key, tensor in tensors_kept_by(self.meta_model):
            said = f"keeps a tensor that it has computed in its attribute '{key}'"
            if id(tensor) in self.origins.heirs:
                self.faults.note("state", name, f"{said}, from that of the call before", has_line=False)
            elif self.origins.is_kept(tensor):
                self.faults.note("kept", name, said, has_line=False)
        if any(one is tensor for one in self.wanted for tensor in outputs):
            self.faults.note(
                "hook", "", "returns a tensor whose gradient it wants kept (retain_grad)", has_line=False
            )

    def compare(self, again: Unrecorded) -> None:
        """Compare with what was seen when the network was called again: it must do the same each time."""
        for kind, said in again.faults.found.items():
            self.faults.found.setdefault(kind, said)
        kept, after = again.held, kept_by(self.meta_model)
        changes = [place for place in {**kept, **after} if kept.get(place) != after.get(place)]
        for name, key in changes:
            said = f"keeps its attribute '{key}' from one call to the next, and changes it"
            self.faults.note("state", name, said, has_line=False)
        place = self.origins.differs_at(again.origins)
        if place is not None:
            layer, function = place
            where_kept: Kind = "outer" if self.held == kept == after else "state"
            said = f"calls '{function}' otherwise when it is called again"
            self.faults.note(where_kept, layer, said, has_line=False)


def field_of(func: Callable[..., Any]) -> str:
    """Return the name of the attribute that a function gets or sets."""
    return str(getattr(getattr(func, "__self__", None), "__name__", ""))


def _is_called_by_torch() -> bool:
    """Whether it is PyTorch that has called the function which is looked at, and not the network."""
    frame = sys._getframe(3)
    return str(frame.f_globals.get("__name__", "")).startswith("torch.")


class _Handle(RemovableHandle):
    """What a network is given for a hook that is not registered while it is traced."""

    def __init__(self, faults: Faults, layer: str) -> None:
        super().__init__(OrderedDict())
        self.faults, self.layer = faults, layer

    def remove(self) -> None:
        """Take note that the network removes the hook."""
        self.faults.note("hook", self.layer, "removes a hook that it has registered")

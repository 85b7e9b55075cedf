"""Hooks on gradients: they see what they see on one worker, or are refused by name.

On one worker a hook on a parameter sees the gradient of one whole microbatch. What it would see under a plan:

| axis | ``register_hook`` | ``register_post_accumulate_grad_hook`` |
|---|---|---|
| dp | the same | what this worker alone has accumulated: refused |
| pp | the same; a part, where several stages use the parameter: refused | likewise |
| tp | the same; layers whose parameters have hooks are not split | likewise |
| sp, lp | a part: refused | a part: refused |
| fsdp | nothing, as rows take the parameter's place: refused | likewise |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.gradients import is_own_hook
from ziggurat.parallel.runtime.frames import innermost_layer, line_of_network
from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.parallel.tensor.split import SplitTensor
from ziggurat.torch_internals.hooks import (
    has_gradient_hooks,
    has_gradient_hooks_for_all,
    hooks_on,
    seeing_hooks,
)

if TYPE_CHECKING:
    from ziggurat.strategies.base import Strategy
    from ziggurat.strategies.mesh import Mesh

REMEDY = "change the gradient where it is complete, in the step() of the optimizer, or take a plan of {plans} alone"
OWN = ("ziggurat.", "torch.distributed.")  # who registers hooks of its own, and knows what they see


@dataclass(frozen=True)
class HookRules:
    """What hooks on gradients would see under a plan.

    Attributes:
        parts: Axes whose workers have parts of each microbatch's gradient, in words; empty if there are none.
        rows: The axis whose workers have rows of each parameter; likewise.
        samples: The axis whose workers take other microbatches; likewise.
        cuts_images: Whether images are cut.
        is_alone: Whether there is one worker: then hooks are no concern.
    """

    parts: str = ""
    rows: str = ""
    samples: str = ""
    cuts_images: bool = False
    is_alone: bool = False

    @classmethod
    def of(cls, mesh: Mesh) -> HookRules:
        """Return the rules of a mesh."""

        def named(is_meant: Callable[[Strategy], bool]) -> str:
            return " and ".join(one.axis for one in mesh.strategies if is_meant(one))

        return cls(
            named(lambda one: one.parts_of_gradients),
            named(lambda one: one.frees_storage),
            named(lambda one: one.spreads_samples),
            mesh.spatial is not None,
            mesh.workers.size == 1,
        )

    def refuse(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        layers: Iterable[tuple[str, nn.Module]] = (),
        is_shared: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Refuse the hooks of a network that would see something else than on one worker.

        Args:
            parameters: With their names.
            layers: With theirs; asked where images are cut.
            is_shared: Whether workers have parts of the gradient of one parameter.

        Raises:
            UserError: Naming each.
        """
        if self.is_alone:
            return
        faults = [
            fault
            for name, parameter in parameters
            if parameter.requires_grad and (fault := self._fault_of(name, parameter, is_shared))
        ]
        if self.cuts_images:
            faults += [_fault_of_layer(name, layer) for name, layer in layers if has_gradient_hooks(layer)]
            if has_gradient_hooks_for_all():
                faults.append(
                    "a hook is registered on the gradients of all layers, which under sp are parts: remove it, or take a plan "
                    "without sp; see torch.nn.modules.module.register_module_full_backward_hook"
                )
        if faults:
            raise UserError(faults)

    def _fault_of(self, name: str, parameter: Tensor, is_shared: Callable[[str], bool]) -> str:
        """Return why the hooks of a parameter are refused; empty if they are not."""
        before, after = hooks_on(parameter)
        after = [hook for hook in after if not is_own_hook(hook)]
        if not before and not after:
            return ""
        what = f"the parameter '{name}' has a hook on its gradient"
        if self.rows:
            return f"{what}, and under {self.rows} rows of it take its place, without the hook; {REMEDY.format(plans='dp, pp and tp')}"
        if self.parts:
            return f"{what}, of which a worker has a part only under {self.parts}; {REMEDY.format(plans='dp, pp and tp')}"
        if is_shared(name):
            return f"{what}, of which several stages or workers have a part each; {REMEDY.format(plans='dp')}"
        if after and self.samples:
            return (
                f"{what} (register_post_accumulate_grad_hook), which under {self.samples} sees what one worker has accumulated; "
                f"use register_hook, which sees each microbatch's gradient, or {REMEDY.format(plans='pp and tp')}"
            )
        return ""

    def watching(self) -> AbstractContextManager[None]:
        """Return a context in which a network computes: hooks that it registers meanwhile are refused where they see a part.

        Raises:
            UserError: From where a hook is registered, with the line of the network's code.
        """
        return nullcontext() if self.is_alone else seeing_hooks(self._see)

    def _see(self, asked: str, tensor: Tensor) -> None:
        if isinstance(tensor, SpatialTensor) or _is_of_engine():
            return  # which says itself what it is asked for
        if isinstance(tensor, SplitTensor):
            why = "a tensor of which each worker has a part (tp)"
        elif isinstance(tensor, nn.Parameter) and asked != "retain_grad":
            why = "a parameter: each microbatch would add one, of this worker's microbatches alone"
        elif self.cuts_images and tensor.requires_grad:
            why = "a tensor that is not cut, of whose gradient each worker has a part (sp)"
        else:
            return
        caller = sys._getframe(2)
        layer, line = innermost_layer(caller) or "?", line_of_network(caller)
        place = f"the layer '{layer}'" + (f" ({line})" if line else "")
        raise UserError(
            f"{asked} in {place} asks for the gradient of {why}; change the loss, or the tensor in forward, instead, or take "
            "a plan of dp"
        )


def _fault_of_layer(name: str, layer: nn.Module) -> str:
    place = f"the layer '{name}' ({type(layer).__name__})" if name else f"the network {type(layer).__name__}"
    return (
        f"{place} has a hook on the gradients that go through it, of which under sp a worker has parts; change the loss, or the "
        "map in forward, instead, or take a plan without sp"
    )


def _is_of_engine() -> bool:
    """Whether it is neither the network nor PyTorch in its name that registers a hook."""
    caller = str(sys._getframe(3).f_globals.get("__name__", ""))
    return caller.startswith(OWN)

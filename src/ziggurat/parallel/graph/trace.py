"""Recording what a network computes, by calling it on tensors that have a shape and no memory.

This is the one trace of a network: stages, branches, pairs of layers that are split, and units that are gathered all come from it.

Plain symbolic tracing (``torch.fx``) stops where a network looks at a shape: ours pad images of odd sizes, a feature pyramid
asks for the size of the finer map, transformers cut windows. Here shapes are known: every size of image has a record of its
own, which takes milliseconds. The record is the same on every worker, and needs no weights.

What depends on the *values* of tensors (``if mask.any()``) cannot be recorded, and is refused by name. So is a number that is drawn
outside of a layer that is one call, and not as a tensor: it would be the same ever after. A layer whose inside cannot be seen
(scripted code) is taken as one call.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.graph.caches import caches_as_before, closed_over, emptied_on_error, forget_hollow
from ziggurat.parallel.graph.cannot_cut import CannotCut, DrawsNumbers
from ziggurat.parallel.graph.faults import REMEDIES
from ziggurat.parallel.graph.generators import generators_as_before
from ziggurat.parallel.graph.graph import INPUT, Call, Graph, Value, hook_gradient, tensors_in
from ziggurat.parallel.graph.meta import META, meta_copy
from ziggurat.parallel.graph.numbers import OTHER_KEYS, has_same_calls, is_keyed, key_otherwise
from ziggurat.parallel.graph.recent import Recent
from ziggurat.parallel.graph.recorder import Recorder, Unseen
from ziggurat.parallel.graph.state_names import named, names_of_states, state_name
from ziggurat.torch_internals.modules import is_batch_norm


@dataclass(frozen=True)
class ImageSpec:
    """What a record depends on, of the images of a microbatch.

    Attributes:
        shape: Of the whole images.
        strides: Likewise.
        dtype: Their type.
        requires_grad: Whether their gradient is asked for: a custom function is then seen where it is the first that they go through.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool = False


def spec_of(images: Tensor) -> ImageSpec:
    """Return what a record depends on; of images that are cut over workers, of the whole."""
    shape = tuple(images.shape)
    strides = torch.empty(shape, device=META).stride() if type(images) is not Tensor else images.stride()
    return ImageSpec(shape, tuple(strides), images.dtype, images.requires_grad)


class Tracer:
    """A network without weights, which is called to be recorded.

    Args:
        model: Any module that takes one tensor. It is not changed, and may lose its weights afterwards.
        device: Where it will compute.
    """

    def __init__(self, model: nn.Module, device: torch.device | None = None) -> None:
        self.model = model
        self.device = device or torch.device("cpu")
        try:
            self.meta_model = meta_copy(model, named)
        except (RuntimeError, TypeError) as error:
            raise CannotCut(
                f"{type(model).__name__} cannot be cut into stages: it cannot be copied ({error}); run it without pp, lp and tp"
            ) from error
        self.opaque: set[str] = set()
        names = dict((*model.named_buffers(), *model.named_parameters()))
        # a network's own functions may hold its weights, and a copy of the network has these functions
        self.real = {id(tensor): (weakref.ref(tensor), name) for name, tensor in names.items()}
        self.compared: set[tuple[bool, ...]] = set()  # modes in which it does the same each time
        self.graphs = Recent[Any, Graph]()
        self.lock = threading.Lock()  # hooks and modes of the copy are of one trace at a time

    def trace(self, spec: ImageSpec, allow: Collection[str] = ()) -> Graph:
        """Return what the network computes of images of a size, in its present modes of training.

        The graphs of the sizes and modes that were asked for last are kept, `recent.MOST_KEPT` of them.

        Args:
            spec: The size.
            allow: Kinds of faults (`faults.Kind`) that do not matter: of a graph that is looked at, and not run; ``numbers`` where each
                microbatch has its own, see `trace_microbatch`.

        Raises:
            CannotCut: If it depends on values, or returns what holds tensors out of sight; or if the trace does not hold
                all that the network does.
        """
        modes = tuple(module.training for module in self.model.modules())
        key = (spec, modes, torch.is_autocast_enabled(self.device.type), torch.is_grad_enabled())

        with self.lock:
            graph = self.graphs.get(key, lambda: self._record(spec, modes))
        what = f"{type(self.model).__name__} cannot be cut into stages"
        found = [(kind, said) for kind, said in graph.faults.items() if kind not in allow]
        if found:
            kind_of_error = DrawsNumbers if any(kind == "numbers" for kind, _ in found) else CannotCut
            raise kind_of_error([f"{what}: {said}; {REMEDIES[kind]}" for kind, said in found])
        return graph

    def trace_microbatch(self, spec: ImageSpec, graph: Graph, begin: Callable[[], None]) -> Graph:
        """Return the graph of a microbatch: that of its size, or where the network draws numbers between its calls one with the numbers of it.

        Args:
            spec: The size.
            graph: What `trace` has returned for it, with numbers allowed.
            begin: Keys the generators for the microbatch.

        Raises:
            DrawsNumbers: If the network computes something else by what it draws, or `begin` keys no generators.
        """
        if not graph.numbers:
            return graph
        what, said = f"{type(self.model).__name__} cannot be cut into stages", graph.faults["numbers"]
        if not is_keyed(begin):
            raise DrawsNumbers(
                f"{what}: {said}, and images are not keyed where nothing is trained; {REMEDIES['numbers']}"
            )
        modes = tuple(module.training for module in self.model.modules())
        with self.lock, generators_as_before():
            begin()
            own = self._record(spec, modes)
        if own.faults.keys() - graph.faults.keys() or not has_same_calls(own, graph):
            raise DrawsNumbers(
                f"{what}: {said}, and what it computes depends on it otherwise than by a number in a call; {REMEDIES['numbers']}"
            )
        return own

    def _record(self, spec: ImageSpec, modes: tuple[bool, ...]) -> Graph:
        made: list[weakref.ref[Tensor]] = []
        try:
            graph = self._record_what_is_seen(spec, modes, made)
        except CannotCut as error:  # whoever goes on without a trace must not find anything of it
            forget_hollow(made, error)
            raise
        if left := forget_hollow(made, known=_held_by_hooks(graph)):
            raise UserError(
                f"{type(self.model).__name__} keeps a tensor of shape {tuple(left[0].shape)} that it has computed out of its modules' sight (in a "
                "global variable, or an object that is no dict), where a trace leaves one without values; keep it in an attribute of the "
                "layer, or in a dict, or compute it anew in each call"
            )
        return graph

    def _record_what_is_seen(
        self, spec: ImageSpec, modes: tuple[bool, ...], made: list[weakref.ref[Tensor]]
    ) -> Graph:
        """Call the network until every layer that cannot be seen is taken as one call; add to `made` the tensors of all calls."""
        while True:
            # what a call leaves in the network is no other size's
            recorder = Recorder(
                self._copy(modes), self.device, self.opaque, type(self.model).__name__, self._name_of, made
            )
            try:
                graph = self._run(recorder, spec, modes)
                if graph.numbers and type(self.model) is nn.Sequential:
                    return replace(_chain(self.model, self.meta_model), draws_numbers=True)
                return graph
            except DrawsNumbers:
                if type(self.model) is nn.Sequential:
                    return replace(_chain(self.model, self.meta_model), draws_numbers=True)
                raise
            except Unseen as error:  # take the layer as one call, and try again
                if error.layer in self.opaque or not error.layer:
                    raise CannotCut(
                        f"{type(self.model).__name__} cannot be cut into stages: '{error.layer or 'its forward'}' "
                        "computes tensors in code that cannot be recorded (scripted, compiled, gradients that it asks for itself, or a custom "
                        "autograd function by a name that was given to its `apply` before: call `apply` of its class there); run it without pp, lp and tp"
                    ) from None
                self.opaque.add(error.layer)
            # what PyTorch and a network's own code raise on tensors without values
            except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
                if type(self.model) is nn.Sequential:
                    return _chain(self.model, self.meta_model)
                raise CannotCut(
                    f"{type(self.model).__name__} cannot be cut into stages: what it computes must depend on shapes "
                    f"alone, not on values of tensors; in '{recorder.layer}' {type(error).__name__}: "
                    f"{str(error).splitlines()[0] if str(error) else ''}; put such code into a layer of an "
                    "nn.Sequential, or run it without pp, lp and tp"
                ) from error

    def _copy(self, modes: tuple[bool, ...]) -> nn.Module:
        """Return a network without weights to be called, in modes of training."""
        copied = meta_copy(self.meta_model, named)
        for module, mode in zip(copied.modules(), modes, strict=True):
            module.training = mode
        norms: list[Any] = [module for module in copied.modules() if is_batch_norm(module)]
        for norm in norms:
            if norm.momentum is None:  # it reads how many batches it has seen, on which no trace depends
                norm.momentum = 1.0
        return copied

    def _run(self, recorder: Recorder, spec: ImageSpec, modes: tuple[bool, ...]) -> Graph:
        images = torch.empty_strided(
            spec.shape, spec.strides, dtype=spec.dtype, device=META, requires_grad=spec.requires_grad
        )
        with caches_as_before(self.meta_model), emptied_on_error(recorder):
            with generators_as_before():
                graph = recorder.run(images)
            if modes not in self.compared:
                with generators_as_before():  # the same numbers: a layer that is one call may draw some
                    recorder.run_again(images)
                for key in OTHER_KEYS if graph.numbers else ():
                    with generators_as_before():
                        key_otherwise(key)
                        recorder.run_with_other_numbers(images)
                self.compared |= {modes} if not graph.faults.keys() - {"numbers"} else set()
        return graph

    def _name_of(self, tensor: Tensor) -> str:
        """Return the name of a parameter or buffer, of the copy or of the network itself; empty for other tensors."""
        if name := state_name(tensor):
            return name
        reference, name = self.real.get(id(tensor), (None, ""))
        return name if reference is not None and reference() is tensor else ""


def _held_by_hooks(graph: Graph) -> list[Tensor]:
    """Return the tensors that hooks hold which a network has registered: they are in the graph, and not run."""
    hooks = [call.args[1] for call in graph.calls if call.function is hook_gradient]
    return [one for hook in hooks if isinstance(hook, FunctionType) for one in tensors_in(closed_over(hook))]


def _chain(model: nn.Sequential, meta_model: nn.Module) -> Graph:
    """Return the graph of layers that are called one after the other, without a look inside."""
    graph, value = Graph(), Value(INPUT, 0)
    for number, (name, child) in enumerate(model.named_children()):
        graph.calls.append(
            Call(name, None, (value,), {}, (value,), names_of_states(meta_model.get_submodule(name)))
        )
        graph.starts[name] = number
        graph.written_states |= {f"{name}.{key}" for key, _ in child.named_buffers()}
        value = Value(number, 0)
    graph.outputs = value
    return graph

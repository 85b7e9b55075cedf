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

import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle

from ziggurat.parallel.graph.caches import caches_as_before
from ziggurat.parallel.graph.cannot_cut import CannotCut, DrawsNumbers
from ziggurat.parallel.graph.draws import DrawWatch
from ziggurat.parallel.graph.faults import REMEDIES, Faults, Kind
from ziggurat.parallel.graph.finite import FiniteWatch, answered_as_traced
from ziggurat.parallel.graph.generators import generators_as_before
from ziggurat.parallel.graph.graph import (
    INPUT,
    Call,
    Constant,
    Graph,
    State,
    Value,
    hook_gradient,
    tensors_in,
    values_in,
)
from ziggurat.parallel.graph.keeping import (
    Origins,
    is_plain_function,
    kept_by,
    states_of,
    tensors_kept_by,
)
from ziggurat.parallel.graph.meta import meta_copy
from ziggurat.parallel.graph.recent import Recent
from ziggurat.parallel.graph.uses import UseWatch
from ziggurat.torch_internals.containers import tree_map
from ziggurat.torch_internals.functions import (
    FunctionMode,
    checkpoint_by_hooks,
    is_primitive,
    seeing_apply,
    unseen,
)
from ziggurat.torch_internals.hooks import ASKED, has_gradient_hooks, has_gradient_hooks_for_all
from ziggurat.torch_internals.modules import NORMS
from ziggurat.torch_internals.tensors import memory_key, version_of

META = torch.device("meta")
UNLIKELY = 7_389_056_098_930_650
OF_MEMORY = frozenset(
    [
        "stride", "is_contiguous", "storage_offset", "data_ptr", "untyped_storage", "storage", "is_set_to", "dim_order",
        "_base", "_version",
    ]
)  # fmt: skip
"""What a tensor answers by how it lies in memory."""
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class _Unseen(Exception):  # noqa: N818 - caught here
    """A tensor that comes from code which cannot be recorded."""

    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.layer = layer


@dataclass(frozen=True)
class ImageSpec:
    """What a record depends on, of the images of a microbatch.

    Attributes:
        shape: Of the whole images.
        strides: Likewise.
        dtype: Their type.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


def spec_of(images: Tensor) -> ImageSpec:
    """Return what a record depends on; of images that are cut over workers, of the whole."""
    shape = tuple(images.shape)
    strides = torch.empty(shape, device=META).stride() if type(images) is not Tensor else images.stride()
    return ImageSpec(shape, tuple(strides), images.dtype)


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
            self.meta_model = meta_copy(model, _named)
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
            allow: Kinds of faults (`faults.Kind`) that do not matter, as the graph is looked at, and not run.

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
            raise CannotCut([f"{what}: {said}; {REMEDIES[kind]}" for kind, said in found])
        return graph

    def _record(self, spec: ImageSpec, modes: tuple[bool, ...]) -> Graph:
        while True:
            copied = meta_copy(
                self.meta_model, _named
            )  # what a call leaves in the network is no other size's
            for module, mode in zip(copied.modules(), modes, strict=True):
                module.training = mode
            recorder = _Recorder(copied, self.device, self.opaque, type(self.model).__name__, self._name_of)
            images = torch.empty_strided(spec.shape, spec.strides, dtype=spec.dtype, device=META)
            try:
                with caches_as_before(self.meta_model):
                    with generators_as_before():
                        graph = recorder.run(images)
                    if modes not in self.compared:
                        with (
                            generators_as_before()
                        ):  # the same numbers: a layer that is one call may draw some
                            recorder.run_again(images)
                        self.compared |= {modes} if not graph.faults else set()
                    return graph
            except DrawsNumbers:
                if type(self.model) is nn.Sequential:
                    return replace(_chain(self.model, self.meta_model), draws_numbers=True)
                raise
            except _Unseen as error:  # take the layer as one call, and try again
                if error.layer in self.opaque or not error.layer:
                    raise CannotCut(
                        f"{type(self.model).__name__} cannot be cut into stages: '{error.layer or 'its forward'}' "
                        "computes tensors in code that cannot be recorded (scripted or compiled); run it without pp, lp and tp"
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

    def _name_of(self, tensor: Tensor) -> str:
        """Return the name of a parameter or buffer, of the copy or of the network itself; empty for other tensors."""
        if name := _state_name(tensor):
            return name
        reference, name = self.real.get(id(tensor), (None, ""))
        return name if reference is not None and reference() is tensor else ""


def _chain(model: nn.Sequential, meta_model: nn.Module) -> Graph:
    """Return the graph of layers that are called one after the other, without a look inside."""
    graph, value = Graph(), Value(INPUT, 0)
    for number, (name, child) in enumerate(model.named_children()):
        graph.calls.append(
            Call(name, None, (value,), {}, (value,), _states_of(meta_model.get_submodule(name)))
        )
        graph.starts[name] = number
        graph.written_states |= {f"{name}.{key}" for key, _ in child.named_buffers()}
        value = Value(number, 0)
    graph.outputs = value
    return graph


def _states_of(meta_model: nn.Module) -> tuple[str, ...]:
    """Return the names of a layer's parameters and buffers; of what layers share, the first name."""
    return tuple(_state_name(t) for t in (*meta_model.parameters(), *meta_model.buffers()))


def _named(tensor: Tensor, name: str) -> Tensor:
    tensor.state_name = name  # type: ignore[attr-defined]  # the recorder asks for it
    return tensor


def _state_name(tensor: Tensor) -> str:
    """Return the name of a parameter or buffer of a tracer; empty for other tensors."""
    name: str = getattr(tensor, "state_name", "")
    return name


def is_whole(module: nn.Module) -> bool:
    """Whether a layer is taken as one call: one of PyTorch's, or one without layers in it."""
    if isinstance(module, CONTAINERS):
        return False
    own = type(module).__module__.startswith("torch.nn.")
    return own or isinstance(module, (*NORMS, torch.jit.ScriptModule)) or not any(module.children())


class _Recorder(FunctionMode):
    """Sees every call while a network runs on tensors without memory.

    Args:
        meta_model: The network.
        device: Where it will compute.
        opaque: Names of layers that are taken as one call each.
        what: The network's class, for messages.
        name_of: From a tensor to its name as a parameter or buffer; empty for any other.
        before: What has seen the same network before, to be compared with.
    """

    def __init__(
        self,
        meta_model: nn.Module,
        device: torch.device,
        opaque: set[str],
        what: str,
        name_of: Callable[[Tensor], str],
        before: _Recorder | None = None,
    ) -> None:
        super().__init__()
        self.meta_model, self.device, self.opaque = meta_model, device, opaque
        self.graph = Graph()
        self.values: dict[int, Value] = {}
        self.kept: list[Tensor] = []  # or an id might come again
        self.layers: list[str] = [""]
        self.counts: dict[str, int] = {}
        self.inside = 0  # of a layer that is one call
        self.what, self.name_of = what, name_of
        self.draws = DrawWatch(what)
        self.faults = Faults()
        self.origins: Origins = Origins(name_of, before.origins if before else None)
        self.memories = {memory_key(tensor): name for name, tensor in states_of(meta_model).items()}
        self.given: set[int] = set()  # to the layer that is one call, or made in it
        self.states: dict[str, None] = {}  # that it uses
        self.wanted: list[Tensor] = []  # whose gradient is to be kept
        self.finite = FiniteWatch()
        self.watch = UseWatch(name_of)
        self.modes: dict[str, bool] = {}  # of each layer, when the network is called
        self.pending: tuple[Any, Any, list[tuple[Tensor, int]]] | None = None

    @property
    def layer(self) -> str:
        """The layer that is being called."""
        return self.layers[-1]

    def run(self, images: Tensor) -> Graph:
        """Call the network."""
        torch.manual_seed(UNLIKELY)  # a key that the network gives is another one
        self.draws = DrawWatch(self.what)
        self._name(images, Value(INPUT, 0))
        self.origins.add(images)
        self.watch.enter("")
        states = states_of(self.meta_model)
        self.held = kept_by(self.meta_model)
        self.modes = {name: module.training for name, module in self.meta_model.named_modules()}
        self._look_for_hooks("", self.meta_model)
        hooks = []
        for name, module in self.meta_model.named_modules():
            if name:
                enter, leave = (
                    _not_seeing(partial(self._enter, name)),
                    _not_seeing(partial(self._leave, name)),
                )
                hooks.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
                hooks.append(module.register_forward_hook(leave, with_kwargs=True))
        try:
            with torch.device(META), seeing_apply(self._see_apply), self:
                outputs = self.meta_model(images)
        finally:
            for hook in hooks:
                hook.remove()
        self.draws.check("")
        self.graph.outputs = tree_map(self._mark, outputs)
        self.graph.uses = self.watch.uses
        self._look_after(states, tensors_in(outputs))
        self.graph.faults = self.faults.found
        if not self.graph.output_values():
            raise TypeError(f"it returns {type(outputs).__name__}, in which no tensors are found")
        return self.graph

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            answer = self.finite.answer(func, tensors_in((args, kwargs)))
            if answer is not None:
                return answer  # the layer asks by itself when it is called
            result = self._call_inside(func, args, kwargs)
        elif func == torch.Tensor.device.__get__:
            return self.device
        elif is_primitive(func):
            raise _Unseen(self.layer)  # from within an operator that scripted code has called
        elif getattr(func, "__name__", "") in ASKED:
            return self._ask_for_gradient(func, args, kwargs)
        else:
            self._look_at_question(func, args)
            result = self._call(func, args, kwargs)
        self.watch.call(func, (*args, *kwargs.values()), result)
        return result

    def _call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function without memory, and note the call if it has made or changed a tensor."""
        given = tensors_in((args, kwargs))
        self.draws.before_call(func, (*args, *kwargs.values()), given, self.layer)
        answer = self.finite.answer(func, given)
        if answer is not None:
            self._note(self.layer, partial(answered_as_traced, answer, self.layer), args, kwargs, [], [])
            return answer
        versions = [(tensor, version_of(tensor)) for tensor in given]
        on_meta, on_meta_named = tree_map(_on_meta, (args, kwargs))
        result = func(*on_meta, **on_meta_named)
        made = tensors_in(result)
        self.draws.after_call(func, given, made)
        self.finite.after_call(func, given, made)
        changed = [number for number, (t, version) in enumerate(versions) if version_of(t) != version]
        self._look_at_given(given, changed, tensors_in((on_meta, on_meta_named)))
        self.origins.call(
            self.layer, func, (args, kwargs), given, [*made, *(versions[n][0] for n in changed)]
        )
        if made or changed:
            known = {id(tensor) for tensor in made}
            unreturned = [n for n in changed if id(versions[n][0]) not in known]
            if unreturned:
                func, made = (
                    partial(_call_and_keep, func, unreturned),
                    [*made, *(versions[n][0] for n in unreturned)],
                )
            self._note(self.layer, func, args, kwargs, made, [versions[n][0] for n in changed])
        return result

    def _note(
        self,
        layer: str,
        func: Callable[..., Any] | None,
        args: Any,
        kwargs: Any,
        made: list[Tensor],
        changed: list[Tensor],
    ) -> None:
        marked_args, marked_kwargs = tree_map(self._mark, (args, kwargs))
        states = {name: None for t in tensors_in((args, kwargs)) if (name := self.name_of(t))}
        if func is None:
            states |= dict.fromkeys(_states_of(self.meta_model.get_submodule(layer))) | self.states
        writes = [self.values[id(tensor)] for tensor in changed if id(tensor) in self.values]
        self.graph.written_states |= {name for t in changed if (name := self._written_state(t))}
        number = len(self.graph.calls)
        self.graph.calls.append(
            Call(
                layer,
                func,
                marked_args,
                marked_kwargs,
                tuple(dict.fromkeys(values_in((marked_args, marked_kwargs)))),
                tuple(states),
                torch.is_grad_enabled(),
                torch.is_autocast_enabled(self.device.type),
                tuple(writes),
            )
        )
        for place, tensor in enumerate(made):
            self._name(tensor, Value(number, place))

    def _name(self, tensor: Tensor, value: Value) -> None:
        self.values[id(tensor)] = value
        tensor.is_traced = True  # type: ignore[attr-defined]  # another trace that meets it asks
        self.kept.append(tensor)
        self.graph.memory_of[value] = memory_key(tensor)
        self.graph.num_bytes[value] = tensor.numel() * tensor.element_size()

    def _mark(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in self.values:
            return self.values[id(leaf)]
        if name := self.name_of(leaf):
            return State(name)
        if not leaf.is_meta or self.origins.is_stale(
            leaf
        ):  # (`device` says here where the network will compute)
            return Constant(leaf)
        if getattr(leaf, "is_traced", False):
            raise CannotCut(
                f"{self.draws.what} cannot be cut into stages: '{self.layer or 'its forward'}' keeps a tensor from one call to the next "
                "(in a cache), which a trace has no values for; compute it anew in each call, or run it without pp, lp and tp"
            )
        raise _Unseen(self.layer)

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Note that a layer begins; return its arguments where a device among them is not that of the trace."""
        self.watch.enter(name)
        if self.inside:
            self.inside += 1
            return None
        self.draws.check(self.layer)
        count = self.counts[name] = self.counts.get(name, 0) + 1
        self.graph.starts[name if count == 1 else f"{name}:{count}"] = len(self.graph.calls)
        if module.training is not self.modes[name]:
            mode = "training" if module.training else "evaluation"
            self.faults.note("mode", self.layer, f"puts '{name}' into {mode} mode (train, eval)")
        self.layers.append(name)
        if not is_whole(module) and name not in self.opaque:
            self._look_for_hooks(name, module)
        else:
            self.inside = 1
            given = tensors_in((args, kwargs))
            self.given, self.states = set(map(id, given)), {}
            states = [*given, *module.buffers(), *module.parameters()]
            args, kwargs = tree_map(lambda leaf: leaf, (args, kwargs))  # a layer may append to a list
            self.pending = (args, kwargs, [(tensor, version_of(tensor)) for tensor in states])
            if any(isinstance(value, torch.device) for value in (*args, *kwargs.values())):
                return tree_map(_on_meta, (args, kwargs))
        return None

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        self.watch.leave()
        if self.inside > 1:
            self.inside -= 1
            return
        if not self.inside:
            self.draws.check(name)
        else:
            self.draws.forget()  # what a layer draws that is one call, it draws anew each time
            assert self.pending is not None
            args, kwargs, versions = self.pending
            self.inside = 0
            self._note_layer(name, args, kwargs, result, versions)
        self.layers.pop()

    def _note_layer(
        self, name: str, args: Any, kwargs: Any, result: Any, versions: list[tuple[Tensor, int]]
    ) -> None:
        module = self.meta_model.get_submodule(name)
        changed = [tensor for tensor, version in versions if version_of(tensor) != version]
        if isinstance(module, NORMS) and module.training and module.track_running_stats:
            changed += [buffer for buffer in module.buffers() if all(buffer is not c for c in changed)]
        made = tensors_in(result)
        for tensor in made:
            self.origins.give(tensor)
        self._note(name, None, args, kwargs, made, changed)

    def _see_apply(self, cls: Any, args: Any, kwargs: Any, apply: Callable[..., Any]) -> Any:
        """Take a custom autograd function as one call: what its forward does is not what is differentiated."""
        self.watch.use((*args, *kwargs.values()))
        if self.inside:
            return apply(*args, **kwargs)
        if cls is CheckpointFunction:
            return checkpoint_by_hooks(*args)
        if any(isinstance(one, (nn.Module, FunctionType, MethodType)) for one in (*args, *kwargs.values())):
            raise CannotCut(
                f"{cls.__name__} in '{self.layer}' is a custom autograd function that is given a function or a layer, whose weights "
                "cannot be followed: give it tensors only, or run it without pp, lp and tp"
            )
        self.draws.check(self.layer)
        self.inside = 1
        with unseen():
            self.given = set(map(id, tensors_in((args, kwargs))))
        try:
            result = apply(*args, **kwargs)
        finally:
            self.inside = 0
        self.draws.forget()
        with unseen():
            given, made = tensors_in((args, kwargs)), tensors_in(result)
            self.origins.call(self.layer, cls, (args, kwargs), given, made)
            self._note(self.layer, _Apply(cls), args, kwargs, made, [])
        return result

    # -- what is not among the calls -----------------------------------------------------------------------------------

    def run_again(self, images: Tensor) -> None:
        """Call the network a second time, and compare: it must do the same each time."""
        if self.faults.found.keys() - {"kept"}:
            return
        kept = kept_by(self.meta_model)
        again = _Recorder(self.meta_model, self.device, self.opaque, self.what, self.name_of, self)
        again.run(torch.empty_like(images))
        for kind, said in again.faults.found.items():
            self.faults.found.setdefault(kind, said)
        after = kept_by(self.meta_model)
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

    def _call_inside(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function within a layer that is one call: it is not noted, as the layer runs it each time."""
        given = tensors_in((args, kwargs))
        self.draws.before_number(func, given, self.layer)
        name = getattr(func, "__name__", "")
        asks, sets = name in ASKED, name == "__set__" and field_of(func) == "data"
        for tensor in given:
            if state := self.name_of(tensor):
                self.states[state] = None
            elif id(tensor) in self.values and id(tensor) not in self.given:
                self.faults.note("hidden", self.layer, "uses a tensor that it was not given")
        if (asks or sets) and args and (id(args[0]) in self.values or self.name_of(args[0])):
            if asks:
                self.faults.note(
                    "hook", self.layer, f"asks for the gradient of a tensor that it was given ({name})"
                )
            else:
                self.faults.note("state", self.layer, "assigns to the data of a tensor (.data = x)")
        self._look_at_given(given, [], given)
        result = func(*args, **kwargs)
        made = tensors_in(result)
        self.draws.after_call(func, given, made)
        self.finite.after_call(func, given, made)
        self.origins.call(self.layer, func, (args, kwargs), given, made, inner=True)
        self.given |= set(map(id, made))
        return result

    def _ask_for_gradient(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Note that a hook is registered on a gradient, as a call: this tensor is of the trace."""
        name = func.__name__
        if name == "retain_grad":  # it does no harm unless somebody gets at the tensor afterwards
            self.wanted.append(args[0])
            return None
        bound = dict(zip(("self", "hook"), args, strict=False)) | kwargs
        tensor, hook = bound["self"], bound["hook"]
        is_made = id(tensor) in self.values and self.values[id(tensor)].call != INPUT
        if name != "register_hook" or not is_made or not is_plain_function(hook):
            self.faults.note(
                "hook", self.layer, f"registers a hook ({name}) that holds more than numbers, or on no map"
            )
        self._note(self.layer, hook_gradient, (tensor, hook), {}, [], [])
        return _Handle(self.faults, self.layer)

    def _look_at_question(self, func: Callable[..., Any], args: Any) -> None:
        """Take note of a question that the trace answers otherwise than a run, and of what is assigned to a tensor."""
        name = getattr(func, "__name__", "")
        asked = field_of(func) if name in ("__get__", "__set__") else name
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if first is None:
            return
        if name == "__set__" and asked != "requires_grad":
            self.faults.note("state", self.layer, f"assigns to the {asked} of a tensor (.{asked} = x)")
        elif asked == "grad_fn" and id(first) in self.values and not _is_called_by_torch():
            self.faults.note("hook", self.layer, "asks how a tensor was made (.grad_fn)")
        elif asked in OF_MEMORY and id(first) in self.values and self.values[id(first)].call != INPUT:
            self.faults.note("memory", self.layer, f"asks how a tensor lies in memory ({asked})")

    def _look_at_given(self, given: list[Tensor], changed: list[int], used: list[Tensor]) -> None:
        """Take note of tensors that the network has kept from the call before, or changes for the next one.

        Args:
            given: To a function.
            changed: Numbers of those that it has changed.
            used: Those that it was called with in their places: tensors without memory.
        """
        for number, (tensor, one) in enumerate(zip(given, used, strict=True)):
            if self.origins.is_stale(tensor) and (number in changed or not self.origins.is_constant(tensor)):
                self.faults.note("state", self.layer, "uses a tensor that it has kept from the call before")
            elif one is not tensor and version_of(one):
                self.faults.note("state", self.layer, "changes a tensor in place that it holds itself")

    def _look_for_hooks(self, name: str, module: nn.Module) -> None:
        """Take note of hooks on the gradients that go through a layer which is not called as one."""
        if has_gradient_hooks(module) or has_gradient_hooks_for_all():
            said = "has a hook on the gradients that go through it, and layers in it"
            self.faults.note("hook", name, said, has_line=False)

    def _look_after(self, states: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> None:
        """Take note of what the network has left behind.

        Args:
            states: Its parameters and buffers before.
            outputs: What it returns.
        """
        after = states_of(self.meta_model)
        for name in {**states, **after}:
            layer, _, key = name.rpartition(".")
            if states.get(name) is not after.get(name):
                self.faults.note("state", layer, f"assigns its parameter or buffer '{key}'", has_line=False)
            elif name in self.graph.written_states and isinstance(states[name], nn.Parameter):
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

    def _written_state(self, tensor: Tensor) -> str:
        """Return the name of the parameter or buffer that a tensor is, or whose memory it lies in; empty for others."""
        if name := self.name_of(tensor):
            return name
        name = self.memories.get(memory_key(tensor), "")
        if name and version_of(states_of(self.meta_model)[name]) != version_of(tensor):
            self.faults.note("state", self.layer, f"changes '{name}' out of autograd's sight (.data)")
        return name


@dataclass(frozen=True)
class _Apply:
    """A custom autograd function."""

    function: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function.apply(*args, **kwargs)


def _not_seeing(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook of the trace's own, which must not see itself."""

    def call(*args: Any) -> Any:
        with unseen():
            return hook(*args)

    return call


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


def _call_and_keep(
    func: Callable[..., Any], which: list[int], *args: Any, **kwargs: Any
) -> tuple[Any, list[Tensor]]:
    """Call a function that overwrites arguments, and return these, too."""
    given = tensors_in((args, kwargs))
    return func(*args, **kwargs), [given[number] for number in which]


def _on_meta(leaf: Any) -> Any:
    """Return an argument as it is where nothing has memory."""
    if isinstance(leaf, torch.device):
        return META
    if isinstance(leaf, str) and leaf.partition(":")[0] in ("cpu", "cuda"):
        return "meta"
    if isinstance(leaf, Tensor) and leaf.device != META:
        return leaf.to(META)
    return leaf

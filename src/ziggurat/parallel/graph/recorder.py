"""Seeing every call of a network that runs on tensors without memory, and noting it down."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from ziggurat.parallel.graph.caches import emptied_on_error
from ziggurat.parallel.graph.called import Applied, call_and_keep, is_called_unseen
from ziggurat.parallel.graph.cannot_cut import CannotCut, DrawsNumbers
from ziggurat.parallel.graph.draws import REMEDY, DrawWatch, said_of
from ziggurat.parallel.graph.finite import FiniteWatch, answered_as_traced
from ziggurat.parallel.graph.generators import Generators
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
from ziggurat.parallel.graph.keeping import kept_by
from ziggurat.parallel.graph.meta import META, as_on_meta
from ziggurat.parallel.graph.numbers import has_same_calls
from ziggurat.parallel.graph.sharing import Sharing
from ziggurat.parallel.graph.state_names import names_of_states
from ziggurat.parallel.graph.unrecorded import Unrecorded
from ziggurat.parallel.graph.uses import UseWatch
from ziggurat.torch_internals.containers import tree_map
from ziggurat.torch_internals.convolutions import mended
from ziggurat.torch_internals.functions import (
    FunctionMode,
    checkpoint_by_hooks,
    is_primitive,
    seeing_apply,
    unseen,
)
from ziggurat.torch_internals.hollow_results import on_meta
from ziggurat.torch_internals.hooks import ASKED, num_forward_hooks
from ziggurat.torch_internals.modules import NORMS
from ziggurat.torch_internals.norm_calls import as_seen, statistics_changed_by
from ziggurat.torch_internals.tensors import memory_key, version_of

UNLIKELY = 7_389_056_098_930_650
GRADIENT_CALLS = (torch.autograd.grad, torch.Tensor.backward)
CHANGES_CHECKPOINT = "changes in place what a checkpoint has computed, through one of several views of it"
OWN_HOOKS = 2  # of the trace, on each layer
SILENT = {
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, nn.Identity, nn.Flatten,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid,
    nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample,
}  # fmt: skip
"""Layers of PyTorch's that draw no numbers: most of a network's."""
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class Unseen(Exception):  # noqa: N818 - the trace catches it
    """A tensor that comes from code which cannot be recorded."""

    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.layer = layer


def is_whole(module: nn.Module) -> bool:
    """Whether a layer is taken as one call: one of PyTorch's, or one without layers in it."""
    if isinstance(module, CONTAINERS):
        return False
    own = type(module).__module__.startswith("torch.nn.")
    return own or isinstance(module, (*NORMS, torch.jit.ScriptModule)) or not any(module.children())


def is_silent(module: nn.Module) -> bool:
    """Whether a layer draws no numbers, and nobody but the trace has hooks on it: nothing is to be looked at before and after it."""
    return type(module) in SILENT and num_forward_hooks(module) == OWN_HOOKS and "forward" not in vars(module)


class Recorder(FunctionMode):
    """Sees every call while a network runs on tensors without memory.

    Args:
        meta_model: The network.
        device: Where it will compute.
        opaque: Names of layers that are taken as one call each.
        what: The network's class, for messages.
        name_of: From a tensor to its name as a parameter or buffer; empty for any other.
        made: All tensors that are made are added to it.
        before: What has seen the same network before, to be compared with.
    """

    def __init__(
        self,
        meta_model: nn.Module,
        device: torch.device,
        opaque: set[str],
        what: str,
        name_of: Callable[[Tensor], str],
        made: list[weakref.ref[Tensor]],
        before: Recorder | None = None,
    ) -> None:
        super().__init__()
        self.meta_model, self.device, self.opaque = meta_model, device, opaque
        self.modules = dict(meta_model.named_modules())
        self.graph, self.made = Graph(), made
        self.values: dict[int, Value] = {}
        self.kept: list[Tensor] = []  # or an id might come again
        self.layers: list[str] = [""]
        self.counts: dict[str, int] = {}
        self.inside = 0  # of a layer that is one call
        self.what, self.name_of = what, name_of
        self.draws = DrawWatch(what)
        self.drawing: set[str] = set()  # layers that are one call, and draw
        self.unrecorded: Unrecorded = Unrecorded(
            meta_model, name_of, self.values, before.unrecorded if before else None
        )
        self.origins = self.unrecorded.origins
        self.given, self.states = set[int](), dict[str, None]()  # of the layer that is one call
        self.finite, self.default_dtype = FiniteWatch(), torch.get_default_dtype()
        self.watch, self.sharing = UseWatch(name_of), Sharing()
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
        self.unrecorded.look_for_hooks("", self.meta_model)
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
        self._look_for_draws("")
        self.graph.outputs = tree_map(self._mark, outputs)
        self.graph.memory_of = {value: self.sharing.root(key) for value, key in self.graph.memory_of.items()}
        if self.graph.has_other_views_of_copied():
            self.unrecorded.faults.note("checkpoint", "", CHANGES_CHECKPOINT, has_line=False)
        self.graph.uses = self.watch.uses
        self.unrecorded.end(self.graph, tensors_in(outputs))
        self.graph.faults = self.unrecorded.faults.found
        if not self.graph.output_values():
            raise TypeError(f"it returns {type(outputs).__name__}, in which no tensors are found")
        return self.graph

    def run_again(self, images: Tensor) -> None:
        """Call the network a second time, and compare: it must do the same each time."""
        if self.graph.faults.keys() - {"kept", "numbers"}:
            return
        again = Recorder(self.meta_model, self.device, self.opaque, self.what, self.name_of, self.made, self)
        with emptied_on_error(again):
            again.run(torch.empty_like(images, requires_grad=images.requires_grad))
        self.unrecorded.compare(again.unrecorded)

    def run_with_other_numbers(self, images: Tensor) -> None:
        """Call the network again, with generators in other states: it must make the same calls, and show its layers no number but as an argument.

        Raises:
            DrawsNumbers: If what it calls, keeps in an attribute, or lets a layer see by itself, depends on what it draws.
        """
        held = kept_by(self.meta_model)
        again = Recorder(self.meta_model, self.device, self.opaque, self.what, self.name_of, self.made)
        with emptied_on_error(again):
            graph = again.run(torch.empty_like(images, requires_grad=images.requires_grad))
        whole = {call.layer for call in graph.calls if call.function is None} - self.drawing - again.drawing
        seen, seen_again = (
            [one for one in other.unrecorded.origins.seen if one[0] in whole] for other in (self, again)
        )
        if not has_same_calls(self.graph, graph) or kept_by(self.meta_model) != held or seen != seen_again:
            said = self.graph.faults.get("numbers") or graph.faults.get("numbers", "it draws numbers")
            raise DrawsNumbers(
                f"{self.what} cannot be cut into stages: {said}, and what it computes depends on it otherwise than by a number in a call; {REMEDY}"
            )

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            given = tensors_in((args, kwargs))
            answer = self.finite.answer(func, given)
            if answer is not None:
                return answer  # the layer asks by itself when it is called
            result = self._call_inside(func, args, kwargs, given)
        elif func == torch.Tensor.device.__get__:
            return self.device
        elif is_primitive(func) or func in GRADIENT_CALLS:
            raise Unseen(self.layer)  # from within what scripted code has called, or autograd itself
        elif getattr(func, "__name__", "") in ASKED:
            return self._ask_for_gradient(func, args, kwargs)
        else:
            self.unrecorded.question(func, args, self.layer)
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
        with unseen():
            versions = [(tensor, version_of(tensor)) for tensor in given]
            hollow, hollow_named = tree_map(as_on_meta, (args, kwargs))
        result = on_meta(func, hollow, hollow_named)
        with unseen():
            result = self.sharing.apart(func, result, versions, tensors_in((hollow, hollow_named)))
            self._note_call(func, args, kwargs, given, versions, tensors_in((hollow, hollow_named)), result)
        return result

    def _note_call(
        self,
        func: Callable[..., Any],
        args: Any,
        kwargs: Any,
        given: list[Tensor],
        versions: list[tuple[Tensor, int]],
        used: list[Tensor],
        result: Any,
    ) -> None:
        """Note what a call has made or changed of the tensors that it was given, each with its version before."""
        made = tensors_in(result)
        self.made += map(weakref.ref, made)
        self.draws.after_call(func, given, made)
        self.finite.after_call(func, given, made)
        changed = [number for number, (t, version) in enumerate(versions) if version_of(t) != version]
        self.unrecorded.given(given, changed, used, self.layer)
        self.origins.call(
            self.layer, func, (args, kwargs), given, [*made, *(versions[n][0] for n in changed)]
        )
        if made or changed:
            known = {id(tensor) for tensor in made}
            unreturned = [n for n in changed if id(versions[n][0]) not in known]
            if unreturned:
                func, made = (
                    partial(call_and_keep, func, unreturned),
                    [*made, *(versions[n][0] for n in unreturned)],
                )
            roots = self.sharing.roots(func, made, used)
            self._note(self.layer, func, args, kwargs, made, [versions[n][0] for n in changed], roots)

    def _note(
        self,
        layer: str,
        func: Callable[..., Any] | None,
        args: Any,
        kwargs: Any,
        made: list[Tensor],
        changed: list[Tensor],
        roots: Sequence[Tensor] = (),
    ) -> None:
        """Add a call.

        Args:
            layer: That is called, or calls.
            func: None where the layer itself is called.
            args: With what.
            kwargs: The same.
            made: The tensors that it returns, or has changed.
            changed: Of its arguments, those that it has changed.
            roots: Of `made`, those that are the whole of a memory that it has made.
        """
        if torch.get_default_dtype() is not self.default_dtype:
            self.unrecorded.faults.note("mode", layer, "gives new tensors another type (set_default_dtype)")
        marked_args, marked_kwargs = tree_map(self._mark, (args, kwargs))
        states = {name: None for t in tensors_in((args, kwargs)) if (name := self.name_of(t))}
        if func is None:
            states |= dict.fromkeys(names_of_states(self.meta_model.get_submodule(layer))) | self.states
        writes = [self.values[id(tensor)] for tensor in changed if id(tensor) in self.values]
        for tensor in changed:
            value = self.values.get(id(tensor))
            done = self.sharing.written(tensor, value)
            if done == "copied" and value is not None:
                self.graph.copied.add(value)
            elif done:
                self.unrecorded.faults.note("checkpoint", self.layer, CHANGES_CHECKPOINT)
        written = [*changed, *statistics_changed_by(func, args, kwargs)]
        self.graph.written_states |= {
            name for t in written if (name := self.unrecorded.written_state(t, self.layer))
        }
        number = len(self.graph.calls)
        self.graph.calls.append(
            Call(
                layer,
                mended(as_seen(func)),
                marked_args,
                marked_kwargs,
                tuple(dict.fromkeys(values_in((marked_args, marked_kwargs)))),
                tuple(states),
                torch.is_grad_enabled(),
                torch.is_autocast_enabled(self.device.type),
                tuple(writes),
            )
        )
        new = set(map(id, roots))
        for place, tensor in enumerate(made):
            value = Value(number, place)
            if id(tensor) in new or self.values.get(id(tensor)) in self.graph.roots:  # under another name
                self.graph.roots.add(value)
            self._name(tensor, value)

    def _name(self, tensor: Tensor, value: Value) -> None:
        self.values[id(tensor)] = value
        tensor.is_traced = True  # type: ignore[attr-defined]  # another trace that meets it asks
        self.kept.append(tensor)
        self.sharing.name(tensor, value)
        self.graph.memory_of[value] = memory_key(tensor)
        self.graph.num_bytes[value] = tensor.numel() * tensor.element_size()

    def _mark(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if (value := self.values.get(id(leaf))) is not None:
            call = None if value.call == INPUT else self.graph.calls[value.call]
            if call is not None and is_called_unseen(leaf, call.function):
                raise Unseen(call.layer)
            return value
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
        raise Unseen(self.layer)

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Note that a layer begins; return its arguments where a device among them is not that of the trace."""
        self.watch.enter(name)
        if self.inside:
            self.inside += 1
            return None
        if module is not self.modules[name]:
            raise Unseen(self.layer)  # a copy of the layer, with the trace's hooks
        if not is_silent(module):
            self._look_for_draws(self.layer)
        count = self.counts[name] = self.counts.get(name, 0) + 1
        self.graph.starts[name if count == 1 else f"{name}:{count}"] = len(self.graph.calls)
        self.unrecorded.enter(name, module, self.layer)
        self.layers.append(name)
        if not is_whole(module) and name not in self.opaque:
            self.unrecorded.look_for_hooks(name, module)
        else:
            self.inside = 1
            given = tensors_in((args, kwargs))
            self.given, self.states = set(map(id, given)), {}
            states = [*given, *module.buffers(), *module.parameters()]
            args, kwargs = tree_map(lambda leaf: leaf, (args, kwargs))  # a layer may append to a list
            self.pending = (args, kwargs, [(tensor, version_of(tensor)) for tensor in states])
            if any(isinstance(value, torch.device) for value in (*args, *kwargs.values())):
                return tree_map(as_on_meta, (args, kwargs))
        return None

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
        """Note that a layer ends; return another result in its place where that is one of its arguments as it was."""
        self.watch.leave()
        apart = None
        if self.inside > 1:
            self.inside -= 1
            return apart
        if not self.inside:
            self._look_for_draws(name)
        else:
            if not is_silent(module):
                self.drawing |= {name} if self.draws.uses() else set()
                self.draws.forget()  # what a layer draws that is one call, it draws anew each time
            assert self.pending is not None
            args, kwargs, versions = self.pending
            self.inside = 0
            with unseen():
                result = apart = self.sharing.apart(None, result, versions, tensors_in((args, kwargs)))
            self._note_layer(name, args, kwargs, result, versions)
        self.layers.pop()
        return apart

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
        roots = []
        if type(module).__module__.startswith("torch.nn."):  # another may return what it holds
            used = tensors_in((args, kwargs, list(module.buffers()), list(module.parameters())))
            roots = self.sharing.roots(None, made, used)
        self._note(name, None, args, kwargs, made, changed, roots)

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
        self._look_for_draws(self.layer)
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
            self._note(self.layer, Applied(cls), args, kwargs, made, [])
        return result

    def _look_for_draws(self, layer: str) -> None:
        """Take note of numbers that were drawn since the last call."""
        used = self.draws.check(layer)
        if used is not None:
            number = len(self.graph.calls)
            self.graph.numbers[number] = self.graph.numbers.get(number, Generators()).then(used)
            self.unrecorded.faults.note(
                "numbers", layer, f"{said_of(used)}: a trace has it once and for all", has_line=False
            )

    def _call_inside(self, func: Callable[..., Any], args: Any, kwargs: Any, given: list[Tensor]) -> Any:
        """Run a function within a layer that is one call: it is not noted, as the layer runs it each time."""
        with unseen():
            self.draws.before_number(func, given, self.layer)
            self.states |= {state: None for tensor in given if (state := self.name_of(tensor))}
            self.unrecorded.question_inside(func, args, given, self.given, self.layer)
        result = on_meta(func, args, kwargs)
        with unseen():
            self.sharing.call(func, given, result)
            made = tensors_in(result)
            self.made += map(weakref.ref, made)
            self.draws.after_call(func, given, made)
            self.finite.after_call(func, given, made)
            self.origins.call(self.layer, func, (args, kwargs), given, made, inner=True)
            self.given |= set(map(id, made))
        return result

    def _ask_for_gradient(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Note that a hook is registered on a gradient, as a call: this tensor is of the trace."""
        name = func.__name__
        if name == "retain_grad":  # it does no harm unless somebody gets at the tensor afterwards
            self.unrecorded.wanted.append(args[0])
            return None
        bound = dict(zip(("self", "hook"), args, strict=False)) | kwargs
        tensor, hook = bound["self"], bound["hook"]
        handle = self.unrecorded.hook(name, tensor, hook, self.layer)
        self._note(self.layer, hook_gradient, (tensor, hook), {}, [], [])
        return handle


def _not_seeing(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook of the trace's own, which must not see itself."""

    def call(*args: Any) -> Any:
        with unseen():
            return hook(*args)

    return call

"""Each private part of PyTorch that is used is there, and does what its users rely on."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque, namedtuple
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils import _pytree
from torch.utils.checkpoint import checkpoint

from support.ranks import run_ranks
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.torch_internals import (
    containers,
    functions,
    hooks,
    kernels,
    machine,
    modules,
    sharding,
    storage,
    stores,
    tensors,
)


def test_views_share_a_memory_also_without_any() -> None:
    for device in ("cpu", "meta"):
        one = torch.empty(4, 4, device=device)
        assert tensors.memory_key(one) == tensors.memory_key(one[1:]) == tensors.memory_key(one.t())
        other = torch.empty(4, 4, device=device)
        assert tensors.memory_key(one) != tensors.memory_key(other)


def test_a_memory_that_others_look_into_is_told() -> None:
    one = nn.Parameter(torch.zeros(4))
    assert tensors.is_alone(one)
    for look in (lambda: one[1:], lambda: one.data, one.detach):
        view = look()
        assert not tensors.is_alone(one)
        assert not tensors.is_alone(view)
        del view
        assert tensors.is_alone(one)


def test_operators_that_change_arguments_are_told() -> None:
    aten = torch.ops.aten
    changing = (aten.add_.Tensor, aten.add.out, aten.normal_.default, aten.copy_.default)
    assert all(map(functions.changes_arguments, changing))
    assert not any(map(functions.changes_arguments, (aten.add.Tensor, aten.view.default, aten.randn.default)))


def test_a_change_through_a_view_is_seen() -> None:
    one = torch.zeros(4)
    before = tensors.version_of(one)
    one + 1
    assert tensors.version_of(one) == before
    one[1:].add_(1)
    assert tensors.version_of(one) > before
    before = tensors.version_of(one)
    one.data.add_(1)
    assert tensors.version_of(one) == before, "what goes by `.data` is out of autograd's sight"


def test_what_a_checkpoint_computes_again_is_told() -> None:
    inside: list[bool] = []

    def function(one: torch.Tensor) -> torch.Tensor:
        inside.append(tensors.is_computed_again())
        return one.tanh()

    made = checkpoint(function, torch.zeros(2, requires_grad=True), use_reentrant=False)
    assert not tensors.is_computed_again()
    made.sum().backward()
    assert inside[0]


def test_autograd_tells_views() -> None:
    one = torch.zeros(4, requires_grad=True) * 2
    assert tensors.is_view(one[1:])
    assert not tensors.is_view(one)
    assert not tensors.is_view(one[1:].clone())


def test_hooks_on_gradients_can_be_asked_for() -> None:
    layer = nn.Linear(2, 2)
    assert hooks.hooks_on(layer.weight) == ([], [])
    before = layer.weight.register_hook(torch.neg)
    after = layer.weight.register_post_accumulate_grad_hook(dir)
    assert hooks.hooks_on(layer.weight) == ([torch.neg], [dir])
    before.remove()
    after.remove()
    assert hooks.hooks_on(layer.weight) == ([], [])
    for register in (layer.register_full_backward_hook, layer.register_full_backward_pre_hook):
        assert not hooks.has_gradient_hooks(layer)
        handle = register(lambda *args: None)
        assert hooks.has_gradient_hooks(layer)
        handle.remove()
    assert not hooks.has_gradient_hooks_for_all()
    handle = nn.modules.module.register_module_full_backward_hook(lambda *args: None)
    assert hooks.has_gradient_hooks_for_all()
    handle.remove()


def test_hooks_are_seen_while_they_are_registered() -> None:
    seen: list[str] = []
    x = torch.ones(2, requires_grad=True)
    others: list[str] = []
    with hooks.seeing_hooks(lambda name, tensor: seen.append(name)):
        x.register_hook(torch.neg)
        x.register_post_accumulate_grad_hook(lambda parameter: None)
        y = x * 2
        y.retain_grad()
        hooks.keep_gradient(y)
        thread = threading.Thread(target=lambda: others.append(str(x.register_hook(torch.neg))))
        thread.start()
        thread.join()
    y.register_hook(torch.neg)
    y.sum().backward()
    assert seen == list(hooks.ASKED)
    assert len(others) == 1
    assert torch.equal(y.grad, -torch.ones(2))
    assert torch.equal(x.grad, 2 * -torch.ones(2)), "all of them act, seen or not"


class _Hollow(torch.Tensor):
    asked: list[Any] = []  # noqa: RUF012 - one list for all

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.asked.append(func)
        with tensors.as_plain_tensors():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("nothing is computed")


def test_a_subclass_has_a_shape_without_memory_and_can_be_passed_by() -> None:
    one = tensors.hollow_subclass(
        _Hollow, (2, 1 << 40), torch.float64, torch.device("cpu"), requires_grad=True
    )
    _Hollow.asked.clear()
    with tensors.as_plain_tensors():
        assert (type(one), tuple(one.shape), one.dtype, one.requires_grad) == (
            _Hollow,
            (2, 1 << 40),
            torch.float64,
            True,
        )
    assert _Hollow.asked == []
    assert one.shape[0] == 2
    assert len(_Hollow.asked) == 1


class _Asked(_Hollow):
    """Notes the operation that it is asked for."""

    by: ClassVar[list[Any]] = []

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.by.append(func)
        return True


def test_whose_data_is_set_in_inference_mode_is_asked_by_one_operation() -> None:
    one = tensors.hollow_subclass(_Asked, (2,), torch.float64, torch.device("cpu"), requires_grad=False)
    with torch.inference_mode():
        torch.zeros(3).data = one
    assert _Asked.by == [tensors.SETS_DATA]


def test_many_tensors_are_changed_at_once() -> None:
    many = [torch.ones(2), torch.ones(3, 1)]
    tensors.add_each_(many, [torch.ones(2), torch.full((3, 1), 2.0)])
    tensors.scale_each_(many, torch.tensor(2.0))
    assert [t.flatten().tolist() for t in many] == [[4, 4], [6, 6, 6]]
    tensors.lerp_each_(many, [torch.zeros(2), torch.zeros(3, 1)], 0.5)
    assert [t.flatten().tolist() for t in many] == [[2, 2], [3, 3, 3]]


def test_containers_are_walked_through_in_order() -> None:
    given = {"a": [torch.ones(1), 2], "b": (torch.zeros(1), None)}
    leaves, spec = containers.tree_flatten(given)
    assert len(containers.tree_leaves(given)) == len(leaves) == 4
    assert containers.tree_unflatten(leaves, spec) == given
    assert containers.tree_map(lambda leaf: 0, given) == {"a": [0, 0], "b": (0, 0)}
    assert containers.tree_map_only(int, lambda leaf: leaf + 1, given)["a"][1] == 3


def test_containers_that_are_not_walked_by_hand_are_pytorch_s() -> None:
    pair = namedtuple("pair", "x y")
    given = (
        pair(1, [2.0]),
        OrderedDict(c=(3, "4")),
        torch.Size([5, 6]),
        {"d": {}, "e": [None, ()]},
        deque([7, 8]),
    )
    assert containers.tree_leaves(given) == _pytree.tree_leaves(given) == [1, 2.0, 3, "4", 5, 6, None, 7, 8]
    mapped = containers.tree_map(repr, given)
    assert mapped == _pytree.tree_map(repr, given)
    assert list(map(type, mapped)) == list(map(type, _pytree.tree_map(repr, given)))


def test_hooks_that_see_a_layer_being_called_are_counted() -> None:
    layer = nn.Linear(1, 1)
    assert hooks.num_forward_hooks(layer) == 0
    layer.register_forward_hook(lambda *_: None)
    layer.register_forward_pre_hook(lambda *_: None)
    assert hooks.num_forward_hooks(layer) == 2


def test_bases_of_layers() -> None:
    norms = (nn.BatchNorm1d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.InstanceNorm2d(2))
    assert all(isinstance(norm, modules.NORMS) for norm in norms)
    assert not isinstance(nn.GroupNorm(1, 2), modules.NORMS)
    assert isinstance(nn.Conv1d(1, 1, 1), modules.CONVOLUTION)
    assert isinstance(nn.ConvTranspose3d(1, 1, 1), modules.CONVOLUTION)
    assert not isinstance(nn.Linear(1, 1), modules.CONVOLUTION)


def test_hooks_around_forward_are_seen() -> None:
    layer = nn.Linear(1, 1)
    assert not modules.has_forward_hooks(layer)
    for register in (layer.register_forward_hook, layer.register_forward_pre_hook):
        hook = register(lambda *given: None)
        assert modules.has_forward_hooks(layer)
        hook.remove()
        assert not modules.has_forward_hooks(layer)


def test_states_are_replaced_where_they_are() -> None:
    layer = nn.BatchNorm2d(2)
    layer.register_buffer("unsaved", torch.zeros(1), persistent=False)
    layer.twin = layer.weight
    assert [name for name, _ in modules.own_states(layer)] == [
        "weight", "bias", "twin", "running_mean", "running_var", "num_batches_tracked", "unsaved",
    ]  # fmt: skip
    for name, tensor in modules.own_states(layer):
        is_parameter = isinstance(tensor, nn.Parameter)
        modules.replace_state(layer, name, nn.Parameter(tensor + 1) if is_parameter else tensor + 1)
    assert "unsaved" not in layer.state_dict()
    assert (layer.weight.tolist(), layer.running_mean.tolist(), layer.unsaved.tolist()) == (
        [2, 2],
        [1, 1],
        [1],
    )
    assert isinstance(layer.bias, nn.Parameter)


def test_layers_are_replaced_where_they_are() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(1, 1))
    modules.replace_layer(model, "0", nn.Tanh())
    assert [type(layer) for layer in model] == [nn.Tanh, nn.Linear]


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_a_convolution(transposed: bool) -> None:
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(
        (3, 4, 3, 3) if transposed else (4, 3, 3, 3), dtype=torch.float64, requires_grad=True
    )
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    places = (2, 2), (1, 1), (1, 1), transposed, (0, 0), 1
    out = torch.convolution(x, weight, bias, *places)
    gradient = torch.randn_like(out)
    wanted = torch.autograd.grad(out, (x, weight, bias), gradient)
    found = kernels.convolution_gradients(gradient, x, weight, [4], *places, [True, True, True])
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert kernels.convolution_gradients(gradient, x, weight, None, *places, [False, True, False])[0] is None


def test_gradients_of_a_norm_in_evaluation() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mean, variance = torch.randn(3, dtype=torch.float64), torch.rand(3, dtype=torch.float64) + 1
    out = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, 1e-5)
    gradient = torch.randn_like(out)
    wanted = torch.autograd.grad(out, (x, weight, bias), gradient)
    found = kernels.batch_norm_gradients(gradient, x, weight, mean, variance, 1e-5, [True, True, True])
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_moments_of_channels(dtype: torch.dtype, format: torch.memory_format) -> None:
    x = torch.randn(2, 3, 5, 4).to(dtype).contiguous(memory_format=format)
    mean, variance = kernels.channel_moments(x)
    assert mean.dtype == torch.promote_types(dtype, torch.float32)
    wanted, wanted_mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
    torch.testing.assert_close(mean.double(), wanted_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance.double(), wanted, rtol=1e-5, atol=1e-6)


def test_pooling_and_its_gradient() -> None:
    x = torch.randn(2, 3, 7, 6, requires_grad=True)
    sizes = [3, 3], [2, 2], [1, 1], [1, 1], False
    wanted = functional.max_pool2d(x, 3, 2, 1)
    gradient = torch.randn_like(wanted)
    out, indices = kernels.max_pool2d(x.detach(), *sizes)
    assert torch.equal(out, wanted)
    found = kernels.max_pool2d_gradient(gradient, x.detach(), indices, *sizes)
    assert torch.equal(found, torch.autograd.grad(wanted, x, gradient)[0])


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 2


def test_a_custom_function_is_seen_by_the_thread_that_asks() -> None:
    original = torch.autograd.Function.__dict__["apply"]
    seen: list[Any] = []

    def see(cls: Any, args: Any, kwargs: Any, apply: Any) -> Any:
        seen.append(cls)
        return apply(*args, **kwargs)

    inside, done = threading.Event(), threading.Event()
    gradients: list[Tensor] = []

    def elsewhere() -> None:
        inside.wait(10)
        x = torch.ones(2, requires_grad=True)
        _Twice.apply(x).sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with functions.seeing_apply(see):
        inside.set()
        assert done.wait(10)
        assert seen == [], "another thread's calls are its own"
        x = torch.ones(2, requires_grad=True)
        _Twice.apply(x).sum().backward()
    thread.join()
    assert seen == [_Twice]
    assert x.grad is not None
    assert x.grad.tolist() == gradients[0].tolist() == [2, 2]
    assert torch.autograd.Function.__dict__["apply"] is original


def test_functions_and_operators_are_seen() -> None:
    calls: list[str] = []

    class OfFunctions(functions.FunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(func.__name__)
            return func(*args, **(kwargs or {}))

    class OfOperators(functions.DispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    one = torch.ones(2)
    with OfFunctions(), OfOperators():
        torch.relu(one)
    assert calls == ["relu", "aten.relu.default"]


def test_operators_of_decompositions_are_told_apart() -> None:
    import torch._prims

    assert functions.is_primitive(torch.ops.prims.add.default)
    assert not functions.is_primitive(torch.ops.aten.add.Tensor)
    assert not functions.is_primitive(torch.add)


def _shard_in_another_order(workers: Workers) -> None:
    """Rows and gathered weights in channels-last, as without sharding; gradients through a function of ours."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 5, 3, bias=False).to(memory_format=torch.channels_last)
    whole, order = model.weight.detach().clone(), (0, 2, 3, 1)
    expected = nn.functional.conv2d(images := torch.ones(2, 3, 4, 4), leaf := whole.clone().requires_grad_())
    expected.sum().backward()
    model.weight.data = model.weight.data.contiguous()
    unit = fully_shard(model, mesh=workers.device_mesh())
    sharding.sum_gradients(unit)
    sharding.keep_memory_order(unit, {(model, "weight"): order})
    calls: list[tuple[int, ...]] = []

    def add_up(rows: Tensor, gradient: Tensor) -> None:
        calls.append(tuple(gradient.shape))
        rows.copy_(gradient.view(workers.size, -1)[workers.rank])

    sharding.sum_rows_by(unit, add_up)
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(module.weight.stride()))
    assert torch.equal(model(images), expected)
    model(images).sum().backward()
    assert seen == [whole.stride(), whole.stride()]
    weight = model.weight
    assert isinstance(weight, DTensor)
    own = sharding.own_rows(weight)
    rows = weight.to_local()
    assert torch.equal(rows, whole[own.first : own.first + own.size])
    assert rows.permute(order).is_contiguous()
    assert calls == [(workers.size * 3 * 27,)], "rows of three and two, padded"
    gradient = weight.grad
    assert isinstance(gradient, DTensor)
    assert leaf.grad is not None
    assert torch.equal(gradient.to_local(), leaf.grad[own.first : own.first + own.size])


def test_sharded_weights_in_another_memory_order() -> None:
    run_ranks(_shard_in_another_order, 2)


def _shard(workers: Workers) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1))
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    whole = [parameter.detach().clone() for parameter in model.parameters()]
    mesh = workers.device_mesh()
    for module in (model[0], model):
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        sharding.sum_gradients(module)
    for parameter, all_rows in zip(model.parameters(), whole, strict=True):
        assert isinstance(parameter, DTensor)
        own = sharding.own_rows(parameter)
        first = min(own.first, len(all_rows))
        assert torch.equal(parameter.to_local(), all_rows[first : first + own.size])
    x = torch.ones(1, 3, 2, 2)
    with torch.no_grad():
        before = model(x)
    assert not isinstance(model[1].weight, DTensor), "the root's weights stay gathered"
    assert sharding.noted_passes(model) == 2, "one of each unit"
    sharding.drop_gathered(model)
    assert sharding.noted_passes(model) == 0, "a model that is only evaluated does not keep more and more"
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    with torch.no_grad():  # what is gathered after a change of the shards is new
        for parameter in model.parameters():
            assert isinstance(parameter, DTensor)
            parameter.to_local().mul_(2)
        after = model(x)
    sharding.drop_gathered(model)
    assert not torch.equal(before, after)
    model(x).sum().backward()  # and a step is as ever: the gradient is the sum
    gradient = model[1].bias.grad
    assert isinstance(gradient, DTensor)
    assert gradient.full_tensor().tolist() == [4 * workers.size] * 2


def test_sharded_weights() -> None:
    run_ranks(_shard, world=2)


def test_tensors_are_stored_and_read_by_rows(tmp_path: Path) -> None:
    whole = torch.arange(12.0).view(4, 3)
    for shard, first in enumerate((0, 2), start=1):
        rows = {"a.x": whole[first : first + 2].contiguous()}
        if shard == 1:
            rows["b"] = torch.tensor(7)
        parts = {name: number for number, name in enumerate(rows, start=1)}
        files = storage.write_safetensors(tmp_path, rows, parts, {"b": (), "a.x": (first, 0)}, shard)
        assert len(files) == len(rows)
        assert all(file.suffix == ".safetensors" for file in files)
    assert storage.read_heads(tmp_path) == {"a.x": ((4, 3), torch.float32), "b": ((), torch.int64)}
    found = {"a.x": torch.zeros(4, 3), "b": torch.zeros((), dtype=torch.int64)}
    storage.read_safetensors(tmp_path, found)
    assert torch.equal(found["a.x"], whole)
    assert int(found["b"]) == 7


def _stored_by_dcp(folder: Path, tensors: dict[str, Tensor]) -> None:
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=dict.fromkeys(tensors, 1))
    torch.distributed.checkpoint.save(tensors, storage_writer=writer, no_dist=True)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same in shape, type and bytes: not all types can be compared by value."""
    flat = [t.contiguous().view(-1).view(torch.uint8) for t in (one, other)]
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(*flat)


def _read_by_dcp(folder: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {name: torch.empty_like(tensor) for name, tensor in like.items()}
    reader = HuggingFaceStorageReader(str(folder))
    torch.distributed.checkpoint.load(found, storage_reader=reader, no_dist=True)
    return found


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # DCP speaks to no other worker here
@pytest.mark.parametrize("dtype", sorted(storage.DTYPES, key=str), ids=str)
def test_what_is_stored_is_read_by_the_library_whose_form_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    """DCP and safetensors read what is written here, in boxes too; and what safetensors writes is read here."""
    draw = torch.Generator().manual_seed(0)
    raw = torch.randint(
        0, 2, (24 * dtype.itemsize,), generator=draw, dtype=torch.uint8
    )  # bytes 0 and 1: bool, too
    whole = raw.view(dtype).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    tensors = {
        "a.whole": whole,
        "a.number": raw[: dtype.itemsize].clone().view(dtype)[0],
        "a.none": whole[:0],
    }
    for shard, (first, more) in enumerate(((0, tensors), (1, {})), start=1):
        rows = {**more, "b.rows": whole[:, 2 * first : 2 + first]}
        offsets = {name: (0,) * tensor.dim() for name, tensor in rows.items()} | {
            "b.rows": (0, 2 * first, 0, 0)
        }
        parts = {name: 1 + (name == "b.rows") for name in rows}
        files = storage.write_safetensors(tmp_path, rows, parts, offsets, shard)
        for file in files:
            found = load_file(file)
            assert all(_same(found[name], rows[name]) for name in found), file
    every = {**tensors, "b.rows": whole}
    assert storage.read_heads(tmp_path) == {name: (tuple(t.shape), t.dtype) for name, t in every.items()}
    ours = {name: torch.empty_like(tensor) for name, tensor in every.items()}
    storage.read_safetensors(tmp_path, ours)
    dcp = _read_by_dcp(tmp_path, every)
    for name, tensor in every.items():
        assert _same(ours[name], tensor), name
        assert _same(dcp[name], tensor), name
        assert ours[name].stride() == tensor.stride()
    (tmp_path / "theirs").mkdir()
    _stored_by_dcp(tmp_path / "theirs", {name: tensor.contiguous() for name, tensor in every.items()})
    back = {name: torch.empty_like(tensor) for name, tensor in every.items()}
    storage.read_safetensors(tmp_path / "theirs", back)
    assert all(_same(back[name], tensor) for name, tensor in every.items())


def test_what_is_not_stored_whole_is_not_read(tmp_path: Path) -> None:
    rows = {"a": torch.ones(2, 3)}
    storage.write_safetensors(tmp_path, rows, {"a": 1}, {"a": (0, 0)}, 1)
    with pytest.raises(ValueError, match="does not hold all of a"):
        storage.read_safetensors(tmp_path, {"a": torch.empty(4, 3)})
    with pytest.raises(ValueError, match="is larger"):
        storage.read_safetensors(tmp_path, {"a": torch.empty(2, 2)})
    with pytest.raises(ValueError, match="dims"):
        storage.read_safetensors(tmp_path, {"a": torch.empty(6)})
    with pytest.raises(TypeError, match="complex128"):
        storage.write_safetensors(
            tmp_path, {"a": torch.ones(1, dtype=torch.complex128)}, {"a": 1}, {"a": (0,)}, 1
        )


def test_stores_are_those_that_are_documented(tmp_path: Path) -> None:
    for name in stores.__all__:
        assert issubclass(getattr(stores, name), torch.distributed.Store)
        assert hasattr(torch.distributed, name)
    store = stores.PrefixStore("here", stores.FileStore(str(tmp_path / "store"), 1))
    store.set("name", "value")
    assert store.get("name") == b"value"


def test_the_processor_says_what_it_has() -> None:
    assert machine.cpu_has_bf16_units() in (True, False)

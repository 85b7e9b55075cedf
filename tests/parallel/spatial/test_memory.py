"""Where spread tensors lie in memory: as PyTorch would lay the whole out, and whoever shares it sees what is changed in place."""

import inspect
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from support.conformance import CASES
from support.ranks import run_ranks
from support.whole_and_bands import Case, assert_exact, compare
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import SpatialTensor, UnsupportedOperation, cut, spatial_mesh
from ziggurat.parallel.spatial.layout import Factor, one_dim_an_axis, plain
from ziggurat.parallel.spatial.memory import MAYBE_VIEWS, make_meta, put, share_memory
from ziggurat.parallel.spatial.strides import same_strides, suggests_channels_last
from ziggurat.parallel.spatial.table import name_of
from ziggurat.torch_internals.tensors import as_plain_tensors, is_view


class Record(TorchFunctionMode):
    """Notes of each call how arguments and results lie in memory, and which results are views or arguments themselves."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        with as_plain_tensors():
            tensors = [
                [one for one in tree_leaves(some) if isinstance(one, torch.Tensor)]
                for some in ((args, kwargs), result)
            ]
            given, made = (
                [one.meta if isinstance(one, SpatialTensor) else one for one in some] for some in tensors
            )
            shared = [
                [
                    (share_memory(one, other), whole is itself)
                    for other, itself in zip(given, tensors[0], strict=True)
                ]
                for one, whole in zip(made, tensors[1], strict=True)
            ]
            sizes = [[(tuple(one.shape), one.stride(), one.dtype) for one in some] for some in (given, made)]
            parts = [one.local if isinstance(one, SpatialTensor) else one for one in tensors[1]]
            views = [part.grad_fn is not None and is_view(part) for part in parts]
        self.calls.append((name_of(func), *sizes, shared, views))
        return result


def laid_out(case, order):
    """Return the input of a case in an order of memory; None where it has no such."""
    if order == "channels last":
        image, formats = (
            torch.randn(case.shape, dtype=torch.float64),
            {4: torch.channels_last, 5: torch.channels_last_3d},
        )
        return image.contiguous(memory_format=formats[image.dim()]) if image.dim() in formats else None
    if order == "turned":
        return torch.randn(case.shape[::-1], dtype=torch.float64).permute(*range(len(case.shape))[::-1])
    if order == "transposed":
        return torch.randn((*case.shape[:-2], *case.shape[:-3:-1]), dtype=torch.float64).transpose(-1, -2)
    return torch.randn(case.shape, dtype=torch.float64)


def recorded(case, image):
    """Return what a case calls; None where PyTorch cannot compute it of an image of this size in this order of memory."""
    torch.manual_seed(0)
    function = case.function() if isinstance(case.function, type) else case.function
    function = function.double() if isinstance(function, nn.Module) else function
    with Record() as record:
        try:
            function(image)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            if isinstance(image, SpatialTensor):
                raise
            return None
    return record.calls


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.filterwarnings("ignore:.*is in beta", "ignore:.*value tensor is non-contiguous")
@pytest.mark.filterwarnings(
    "ignore:Using a target size",
    "ignore:std.*degrees of freedom",
    "ignore:input's size at dim=1 does not match",
)
@pytest.mark.parametrize(
    ("order", "dim_of_one", "with_gradient"),
    [
        *itertools.product(["contiguous", "channels last", "turned", "transposed"], [None, 0], [False, True]),
        *itertools.product(["contiguous", "channels last"], [1, 2, 3], [False]),
    ],
)
def test_every_result_lies_where_pytorch_would_put_it(order, dim_of_one, with_gradient):
    """Also whose memory it shares, whether it is an argument, and whether autograd takes it for a view; of maps of one image, channel, row or column, too.

    On one worker, so that the whole is there to be compared with.
    """
    mesh = spatial_mesh(Workers(), (1,))
    compared, wrong = 0, []
    for name, case in CASES.items():
        image = laid_out(case, order)
        if image is None or image.dim() <= (dim_of_one or 0):
            continue
        image = image if dim_of_one is None else image.narrow(dim_of_one, 0, 1)
        image.requires_grad_(with_gradient)
        spread = SpatialTensor(image, tuple(plain(size) for size in image.shape), mesh)
        put(spread, make_meta(tuple(image.shape), image.stride(), image.dtype))
        calls = [recorded(case, image)]
        if calls[0] is None:
            continue  # a view that this order does not allow, a pooling of one row
        try:
            calls.append(recorded(case, spread))
        except UnsupportedOperation:
            assert dim_of_one is not None, name  # in its own size each case is computed
            continue
        assert [call[0] for call in calls[0]] == [call[0] for call in calls[1]]
        for whole, account in zip(*calls, strict=True):
            if whole[1] != account[1]:
                continue  # a consequence of another result
            for (shape, strides, dtype), (found_shape, found, found_dtype) in zip(
                whole[2], account[2], strict=True
            ):
                compared += 1
                same = shape == found_shape and dtype == found_dtype and same_strides(shape, strides, found)
                same &= suggests_channels_last(shape, strides) == suggests_channels_last(shape, found)
                if not same or whole[3] != account[3] or not same_views(whole, account):
                    wrong.append((name, whole, account))
    assert not wrong, wrong[:3]
    assert compared > 1000


def same_views(whole, account):
    """Whether results are views as on one worker: those of some operations may be, and what they do to hooks is refused."""
    return whole[4] == account[4] or whole[0] in MAYBE_VIEWS


SLICES = {
    "rows": np.s_[:, :, 3:9], "a row": np.s_[:, :, 5], "the last row": np.s_[:, :, -1], "every third": np.s_[:, :, 1::3],
    "columns": np.s_[..., 2:7], "a position": np.s_[:, :, 4, 7], "both": np.s_[:, :, 2:9:2, 1:8:3], "an image": np.s_[0],
    "a channel and rows": np.s_[0, 1:3, 3:11], "a new dim": np.s_[:, None, :, 2:5], "none": np.s_[:, :, 5:5],
}  # fmt: skip


def set_slice(index, value):
    def function(x):
        y = x * 1
        y[index] = value(x, index)
        return y * y

    return function


def change_slice(index):
    """A slice is changed, and a slice of it; the whole and both slices are used afterwards."""

    def function(x):
        y = x * 1
        part = y[index]
        part.mul_(2)
        again = y[index]
        again += 1
        inner = part[..., 1:]
        inner.sub_(x.mean())
        return y * y * (part * again).sum() + inner.sum()

    return function


def arange_of(x, index):
    shape = torch.empty(x.shape)[index].shape
    return torch.arange(float(shape.numel()), dtype=torch.float64).reshape(shape)


def change(view, how=lambda v: v.mul_(2)):
    def function(x):
        y = x * 1
        how(view(y))
        return F.avg_pool2d(y, 3, 1, 1) * y

    return function


SHARED = {
    **{f"set {name} to a number": Case(set_slice(index, lambda x, i: 3.0)) for name, index in SLICES.items()},
    **{
        f"set {name} to its double": Case(set_slice(index, lambda x, i: (x * 2)[i]))
        for name, index in SLICES.items()
    },
    **{f"set {name} to plain values": Case(set_slice(index, arange_of)) for name, index in SLICES.items()},
    **{
        f"set {name} to the mean": Case(set_slice(index, lambda x, i: x.mean()))
        for name, index in SLICES.items()
    },
    **{f"change {name}": Case(change_slice(index)) for name, index in SLICES.items() if name != "none"},
    "windows": Case(change(lambda y: y.view(2, 4, 4, 4, 12)[:, :, :, 1]), (2, 4, 16, 12)),
    "windows of a cut that is no multiple": Case(
        change(lambda y: y.view(2, 4, 3, 8, 20)[:, :, 1]), (2, 4, 24, 20)
    ),
    "tokens": Case(change(lambda y: y.flatten(2).transpose(1, 2)[:, 20:50])),
    "a split": Case(change(lambda y: y.split([4, 9], 2)[1], lambda v: v.detach().mul_(2))),
    "a chunk": Case(change(lambda y: y.chunk(3, 2)[1], lambda v: v.detach().mul_(2))),
    "narrow": Case(change(lambda y: y.narrow(2, 2, 7))),
    "select": Case(change(lambda y: y.select(3, 2))),
    "transposed": Case(change(lambda y: y.transpose(2, 3)[:, :, 1:])),
    "relu of a slice": Case(change(lambda y: y[:, :, 4:], lambda v: F.relu(v, inplace=True))),
    "a slice of a slice": Case(change(lambda y: y[:, :, 2:11][:, :, 1:6][:, 2])),
    "detached": Case(change(lambda y: y, lambda v: v.detach().mul_(2))),
    "contiguous": Case(change(lambda y: y.contiguous()[:, :, 5:])),
    "same size, bilinear": Case(change(lambda y: F.interpolate(y, size=y.shape[2:], mode="bilinear"))),
    "same size, nearest": Case(change(lambda y: F.interpolate(y, scale_factor=1))),
    "no padding": Case(change(lambda y: F.pad(y, (0, 0, 0, 0)))),
    "the same bins": Case(change(lambda y: F.adaptive_avg_pool2d(y, y.shape[2:]))),
    "rolled by nothing": Case(change(lambda y: y.roll(0, 2))),
    "a copy": Case(change(lambda y: y.clone())),
    "one joined": Case(change(lambda y: torch.cat([y], 2))),
    "in evaluation": Case(change(lambda y: F.dropout(y, 0.5, training=False))),
}


def told_to(function, *args, **named):
    """A slice is taken before a function is told by an argument to change the whole."""

    def computed(x):
        y = x * 1
        part = y[:, :, 3:9]
        function(y, *args, **named)
        return part * 3

    return computed


BEFORE_INPLACE = {
    "alpha_dropout": (0.5, False), "celu": (0.5,), "dropout": (0.5, True), "dropout2d": (0.5, True), "elu": (0.5,),
    "feature_alpha_dropout": (0.5, False), "hardtanh": (-1.0, 1.0), "leaky_relu": (0.5,), "rrelu": (0.1, 0.3, False),
    "threshold": (0.1, 0.2),
}  # fmt: skip
OF_OTHER_DIMS = ("dropout1d", "dropout3d")
TOLD = {
    name: function
    for name, function in sorted(vars(F).items())
    if inspect.isfunction(function) and "inplace" in inspect.signature(function).parameters
    if not name.startswith("_") and name not in OF_OTHER_DIMS
}
SHARED |= {
    f"{name} told by {how}": Case(told_to(function, *BEFORE_INPLACE.get(name, ()), *args, **named))
    for name, function in TOLD.items()
    for how, args, named in (("a name", (), {"inplace": True}), ("its place", (True,), {}))
}


@pytest.fixture(scope="module")
def shared():
    return {degrees: compare(SHARED, degrees) for degrees in ((2,), (3,), (2, 2))}


@pytest.mark.parametrize("degrees", [(2,), (3,), (2, 2)], ids=str)
@pytest.mark.parametrize("name", SHARED)
def test_what_is_changed_in_place_is_seen_by_all_that_share_it(shared, name, degrees):
    found = shared[degrees][name]
    if (name, degrees) == ("tokens", (2, 2)):  # both factors of a dim are cut: no slice of it can be set
        assert "UnsupportedOperation: setitem" in found
        return
    assert_exact(found)


@pytest.fixture(scope="module")
def shared_in_inference():
    return compare(SHARED, in_inference=True)


@pytest.mark.parametrize("name", SHARED)
def test_what_is_changed_in_place_is_seen_in_inference_too(shared_in_inference, name):
    """There PyTorch counts no versions of what is changed."""
    assert_exact(shared_in_inference[name])


def without_a_way_back(x):
    y = x * 1
    windows = y.unfold(2, 3, 3)
    windows.mul_(2)
    return y + 1


def test_what_cannot_be_written_back_is_refused_when_it_is_used():
    found = compare(
        {"windows": Case(without_a_way_back), "their own": Case(lambda x: (x * 1).unfold(2, 3, 3).mul_(2))}
    )
    assert "UnsupportedOperation" in found["windows"]
    assert "take a clone() of the view" in found["windows"]
    assert_exact(found["their own"])


OVERLAPPING = {
    "a row added to all": lambda x: _changed(x, lambda y: y.add_(y[:, :, 3:4])),
    "rows moved by one": lambda x: _changed(x, lambda y: y[:, :, 1:].copy_(y[:, :, :-1])),
    "rows set to their neighbours": lambda x: _changed(
        x, lambda y: y.__setitem__(np.s_[:, :, 1:5], y[:, :, 2:6])
    ),
}
APART = {
    "rows set to others": lambda x: _changed(x, lambda y: y.__setitem__(np.s_[:, :, :4], y[:, :, 5:9])),
    "added to itself": lambda x: _changed(x, lambda y: y.add_(y)),
    "every second row": lambda x: _changed(x, lambda y: y[:, :, ::2][:, :, :6].add_(y[:, :, 1::2])),
}


def _changed(x, change):
    y = x * 1
    change(y)
    return F.avg_pool2d(y, 3, 1, 1)


def test_what_is_read_and_changed_at_once_is_refused():
    for name, found in compare({name: Case(f) for name, f in OVERLAPPING.items()}).items():
        assert isinstance(found, str), name
        assert "depends on the order" in found or "single memory location" in found, found
    for name, found in compare({name: Case(f) for name, f in APART.items()}).items():
        assert not isinstance(found, str), (name, found)
        assert max(found.values()) <= 1e-10, (name, found)


def test_an_axis_has_one_dim():
    one, other = Factor(8, 0, (0, 4, 8)), Factor(6, 0)
    assert one_dim_an_axis(((one,), (other,))) == ((one,), (Factor(6),))
    assert one_dim_an_axis(((other,), (Factor(5, 0),))) == ((other,), (Factor(5),))
    with pytest.raises(ValueError, match="cuts two dims"):
        one_dim_an_axis(((one,), (one,)))


SQUARE = (2, 4, 12, 12)
AXES = {
    "plus its transpose": Case(lambda x: F.avg_pool2d(x + x.transpose(2, 3), 3, 1, 1), SQUARE),
    "its transpose first": Case(lambda x: F.avg_pool2d(x.transpose(2, 3) * x, 3, 1, 1), SQUARE),
    "times its transpose": Case(lambda x: F.avg_pool2d(x @ x.transpose(2, 3), 3, 1, 1)),
    "an outer product": Case(lambda x: F.avg_pool2d(x.mean(3)[..., None] * x.mean(3)[:, :, None], 3, 1, 1)),
    "where": Case(lambda x: F.avg_pool2d(torch.where(x > 0, x, x.transpose(2, 3)), 3, 1, 1), SQUARE),
    "joined with its transpose": Case(lambda x: F.avg_pool2d(torch.cat([x, x.transpose(2, 3)], 1), 3, 1, 1), SQUARE),
    "set to its transpose": Case(set_slice(np.s_[:, :, 2:9, 2:9], lambda x, i: x.transpose(2, 3)[i]), SQUARE),
}  # fmt: skip


@pytest.mark.parametrize("degrees", [(2,), (3,), (2, 2), (1, 2)], ids=str)
def test_dims_that_change_places(degrees):
    for name, found in compare(AXES, degrees).items():
        assert not isinstance(found, str), (name, found)
        assert max(found.values()) <= 1e-10, (name, found)


def tokens_of(x):
    return x.flatten(2).transpose(1, 2)


DRAWN = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout of tokens": lambda x: F.dropout(tokens_of(x), 0.3),
    "dropout of rows first": lambda x: F.dropout(x.permute(2, 3, 0, 1), 0.3),
    "dropout of a slice": lambda x: F.dropout(x[:, :, 2:9], 0.3),
    "dropout in place": lambda x: F.dropout(x * 1, 0.3, inplace=True),
    "dropout in place of a view": lambda x: F.dropout((x * 1).transpose(1, 3), 0.3, inplace=True),
    "dropout2d": lambda x: F.dropout2d(x, 0.3),
    "dropout2d of tokens": lambda x: F.dropout1d(tokens_of(x), 0.3),
    "dropout3d of one volume": lambda x: F.dropout3d(x, 0.3),
    "randn_like": lambda x: x + torch.randn_like(x),
    "rand_like of channels last": lambda x: x * torch.rand_like(x.contiguous(memory_format=torch.channels_last)),
    "rand_like in another order": lambda x: x * torch.rand_like(x, memory_format=torch.channels_last),
    "randint_like": lambda x: x * torch.randint_like(x, 9),
    "bernoulli": lambda x: x * torch.bernoulli(x.detach().sigmoid()),
    "bernoulli of a permuted one": lambda x: x.permute(3, 1, 0, 2) * torch.bernoulli(x.detach().sigmoid().permute(3, 1, 0, 2)),
    "bernoulli in place": lambda x: x * torch.empty_like(x).bernoulli_(0.4),
    "normal": lambda x: x * torch.normal(x.detach() * 0 + 5, 1e-1),
    "normal by two": lambda x: x * torch.normal(x.detach(), x.detach().abs() + 1),
    "normal in place": lambda x: x * torch.zeros_like(x).normal_(1.0, 2.0),
    "uniform of rows": lambda x: (x * 0)[:, :, 1:6].uniform_() + x[:, :, 1:6],
    "exponential": lambda x: x + (x.detach() * 1).transpose(2, 3).exponential_().transpose(2, 3),
    "new and normal": lambda x: x + x.new_empty(x.shape).normal_(),
}  # fmt: skip


@pytest.mark.parametrize("degrees", [(2,), (3,), (2, 2)], ids=str)
def test_random_numbers_are_those_of_the_whole(degrees):
    shapes = {"odd": (2, 4, 13, 11), "few rows": (1, 3, 5, 17)}
    cases = {f"{name}, {kind}": Case(f, shape) for name, f in DRAWN.items() for kind, shape in shapes.items()}
    for name, found in compare(cases, degrees).items():
        assert not isinstance(found, str), (name, found)
        assert max(found.values()) <= 1e-12, (name, found)


FORMS = {
    "channels and rows": lambda x: x.flatten(1, 2),
    "pixels": lambda x: x.flatten(2),
    "images, channels and rows": lambda x: x.flatten(0, 2).unsqueeze(1),
    "rows and images": lambda x: x.transpose(0, 2).flatten(1, 2),
    "tokens": tokens_of,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
}
BY_VALUES = {
    "normal": lambda x: torch.normal(x, 0.5),
    "normal of a deviation": lambda x: torch.normal(1.0, x.abs()),
    "normal of two": lambda x: torch.normal(x, x.abs()),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "bernoulli of a number": lambda x: torch.bernoulli(x, 0.3),
    "dropout": lambda x: F.dropout(x, 0.3),
    "like": torch.randn_like,
    "in place": lambda x: torch.zeros_like(x).normal_(1.0, 2.0),
}


def drawn(form, draw):
    return lambda x: form(x) * draw(form(x).detach() * 0.1 + 1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("degrees", [(2,), (3,), (2, 2)], ids=str)
def test_random_numbers_of_dims_that_are_merged(degrees):
    cases = {
        f"{draw}, {form}, {shape}": Case(drawn(FORMS[form], BY_VALUES[draw]), shape)
        for draw, form, shape in itertools.product(BY_VALUES, FORMS, [(2, 4, 13, 11), (1, 3, 4, 1)])
    }
    for name, found in compare(cases, degrees).items():
        assert not isinstance(found, str), (name, found)
        assert max(found.values()) <= 1e-12, (name, found)


W = torch.arange(4.0).view(1, 4, 1, 1)
LIKE = {
    "expand_as": lambda x: x * W.expand_as(x),
    "view_as": lambda x: x + torch.arange(float(x.numel()), dtype=torch.float64).view_as(x),
    "type_as, and summed": lambda x: x * W.type_as(x).sum(),
    "to, and summed": lambda x: x * W.to(x).sum(),
    "type_as, and a larger one": lambda x: F.interpolate(x, scale_factor=2) + W.type_as(x),
    "a plain one changed by bands": lambda x: F.avg_pool2d(torch.ones(x.shape, dtype=x.dtype).add_(x), 3, 1, 1),
    "a plain one of fewer rows": lambda x: x * torch.ones(x.shape[2], 1, dtype=x.dtype).mul_(x.mean((0, 1, 3))[:, None]),
    "zeros_like": lambda x: x + torch.zeros_like(x) + torch.full_like(x, 2),
    "a plain one changed by a mean": lambda x: x * torch.ones(4, dtype=torch.float64).mul_(x.mean((0, 2, 3)))[:, None, None],
}  # fmt: skip


@pytest.mark.parametrize("degrees", [(2,), (2, 2)], ids=str)
def test_plain_tensors_take_what_they_ask_for(degrees):
    for name, found in compare({name: Case(f) for name, f in LIKE.items()}, degrees).items():
        assert not isinstance(found, str), (name, found)
        assert max(found.values()) <= 1e-12, (name, found)


class Keeping(nn.Module):
    """Adds columns, of which each worker has its own rows, to a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("kept", torch.zeros(8))

    def forward(self, x):
        self.kept.add_(x.mean((0, 1, 3)))
        return x


def changed_by_bands(workers):
    bands = cut(torch.rand(2, 4, 8, 6), spatial_mesh(workers, (2,)))
    with pytest.raises(UnsupportedOperation, match="change it by a sum or a mean"):
        Keeping()(bands)
    with pytest.raises(UnsupportedOperation, match="another shape in place"):
        bands.unsqueeze_(0)
    assert bands.is_contiguous()
    assert bands.stride() == (192, 48, 6, 1)
    return True


def test_what_is_refused():
    assert all(run_ranks(changed_by_bands, 2))


def pieces_of(seed):
    """Return a random chain of views, as functions."""
    draw = random.Random(seed)
    views = [
        lambda y: y[:, :, draw.randrange(1, 4) :], lambda y: y[..., : -draw.randrange(1, 4)], lambda y: y.transpose(2, 3),
        lambda y: y.permute(0, 2, 3, 1).permute(0, 3, 1, 2), lambda y: y[:, :, ::2], lambda y: y[:, 1:], lambda y: y.contiguous(),
        lambda y: y.reshape(*y.shape[:2], -1).reshape(y.shape),
    ]  # fmt: skip
    chosen = [draw.choice(views) for _ in range(draw.randrange(1, 5))]
    numbers = [draw.randrange(1 << 30) for _ in chosen]

    def function(x):
        base = part = x * 1
        kept = [base]
        for view, number in zip(chosen, numbers, strict=True):
            draw.seed(number)
            part = view(part)
            kept.append(part)
        draw.seed(seed)
        for _ in range(3):
            draw.choice(kept).mul_(1.5)
            draw.choice(kept).add_(x.mean())
        return sum(one.square().sum() * (number + 1) for number, one in enumerate(kept)) * F.avg_pool2d(
            base, 3, 1, 1
        )

    return function


@pytest.mark.sampled(1)
@pytest.mark.parametrize("degrees", [(2,), (2, 2)], ids=str)
def test_random_chains_of_views(degrees):
    cases = {str(seed): Case(pieces_of(seed), (2, 4, 17, 19)) for seed in range(40)}
    for name, found in compare(cases, degrees).items():
        assert not isinstance(found, str), (name, found)
        assert max(found.values()) <= 1e-10, (name, found)

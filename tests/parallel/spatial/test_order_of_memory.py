"""Every entry of the table, and all that takes a format of memory, in many orders of memory, against PyTorch.

On one worker, so that the whole is there to be compared with; random draws behind them on two.
"""

import copy
import inspect
import itertools
import warnings

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit
from torch.overrides import get_testing_overrides, resolve_name

from support.whole_and_bands import Case, compare
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import SpatialTensor, UnsupportedOperation, spatial_mesh
from ziggurat.parallel.spatial.layout import plain
from ziggurat.parallel.spatial.memory import make_meta, put, share_memory
from ziggurat.parallel.spatial.strides import same_strides
from ziggurat.parallel.spatial.table import TABLE

SHAPE = (2, 3, 4, 5)
ORDERS = {
    "contiguous": lambda make: make(SHAPE),
    "channels last": lambda make: make(SHAPE).contiguous(memory_format=torch.channels_last),
    "turned": lambda make: make(SHAPE[::-1]).permute(3, 2, 1, 0),
    "with gaps": lambda make: make((2, 3, 8, 5))[:, :, ::2],
    "broadcast": lambda make: make((2, 1, 4, 5)).expand(SHAPE),
}
OF_NUMBERS = ("empty", "new_empty")  # whose values are anything
NOT_SAID = ("geqrf", "svd")  # decompositions put their factors where a library wants them


def image(order, dtype=torch.float64):
    """Return an image; the same one each time."""
    generator = torch.Generator().manual_seed(0)
    return ORDERS[order](
        lambda shape: (torch.randn(shape, generator=generator, dtype=torch.float64) * 2).to(dtype)
    )


def spread_out(x):
    """Return an image as every worker, which is one, has it whole."""
    spread = SpatialTensor(x, tuple(map(plain, x.shape)), spatial_mesh(Workers(), (1,)))
    put(spread, make_meta(tuple(x.shape), x.stride(), x.dtype))
    return spread


def tensors_of(result):
    found = result if isinstance(result, (tuple, list)) else [result]
    return [one for one in found if isinstance(one, torch.Tensor)]


def differences(name, function, order, dtype=torch.float64):
    """Return in what a function's results differ on a spread tensor; None where it is refused, or is no function of one."""
    x, spread = image(order, dtype), spread_out(image(order, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.manual_seed(1)
            whole = tensors_of(function(x))
        except Exception:  # noqa: BLE001 - not a function of these arguments
            return None
        try:
            torch.manual_seed(1)
            parts = tensors_of(function(spread))
        except UnsupportedOperation:
            return None
    if len(whole) != len(parts):
        return f"{len(whole)} results, and {len(parts)}"
    found = [_difference(name, *pair, x, spread) for pair in zip(whole, parts, strict=True)]
    return ", ".join(filter(None, found))


def _difference(name, whole, part, x, spread):
    if not isinstance(part, SpatialTensor):
        return "" if torch.equal(whole, part) else "other values of a plain tensor"
    if (whole.shape, whole.dtype) != (part.shape, part.dtype):
        return f"{whole.shape} of {whole.dtype}, and {part.shape} of {part.dtype}"
    if not same_strides(whole.shape, whole.stride(), part.meta.stride()):
        return f"strides {whole.stride()}, and {part.meta.stride()}"
    if share_memory(whole, x) != share_memory(part.meta, spread.meta):
        return "a view, and a copy"
    if name.startswith(OF_NUMBERS):
        return ""
    same = torch.allclose(whole.to(torch.cdouble), part.local.to(torch.cdouble), equal_nan=True)
    return "" if same else "other values"


SPACES = {"torch": torch, "Tensor": torch.Tensor, "functional": F, "special": torch.special, "linalg": torch.linalg, "fft": torch.fft}  # fmt: skip
ARGUMENTS = {"": (), "2": (2,), "y": ("y",), "y, 2": ("y", 2), "2, 3": (2, 3)}


def functions_of_the_table():
    """Yield each function of PyTorch that has an entry, with some arguments behind the first."""
    for name, entry in TABLE.items():
        if entry.kind == "question" or name in NOT_SAID:
            continue
        for (space, owner), (text, given) in itertools.product(SPACES.items(), ARGUMENTS.items()):
            function = getattr(owner, name, None)
            if callable(function) and not inspect.isclass(function):
                yield name, f"{space}.{name}({text})", function, given


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.complex128], ids=str)
def test_every_entry(dtype):
    other = image("contiguous", dtype).flip(3)
    compared, wrong = 0, []
    for name, text, function, given in functions_of_the_table():
        if dtype != torch.float64 and len(given) > 1:
            continue
        arguments = [other if one == "y" else one for one in given]
        for order in ORDERS:
            found = differences(name, lambda x, f=function, a=arguments: f(x, *a), order, dtype)
            if found is None:
                break
            compared += 1
            wrong += [(text, order, found)] if found else []
    assert not wrong, wrong[:5]
    assert compared > 500


CASTS = [
    "float",
    "double",
    "half",
    "bfloat16",
    "int",
    "long",
    "bool",
    "short",
    "char",
    "byte",
    "cfloat",
    "cdouble",
    "chalf",
    "cpu",
    "contiguous",
    "clone",
]
LIKES = ["empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"]
FORMATS = {
    **{name: lambda x, f, name=name: getattr(x, name)(**f) for name in CASTS},
    **{name: lambda x, f, name=name: getattr(torch, name)(x, *[3][: name in ("full_like", "randint_like")], **f) for name in LIKES},
    "torch.clone": lambda x, f: torch.clone(x, **f),
    "to": lambda x, f: x.to(**f) if f else x.to(x.dtype),
    "to a type": lambda x, f: x.to(torch.float32, **f),
    "to its type, a copy": lambda x, f: x.to(torch.float64, copy=True, **f),
    "to its type, a copy by position": lambda x, f: x.to(torch.float64, False, True, **f),
    "to a device": lambda x, f: x.to("cpu", torch.float64, **f),
    "to another": lambda x, f: x.to(torch.zeros(1), **f),
    "type": lambda x, f: x.type(torch.float32, **f),
    "like, of another type": lambda x, f: torch.zeros_like(x, dtype=torch.float32, **f),
}  # fmt: skip
GIVEN = {
    "": {},
    "preserved": {"memory_format": torch.preserve_format},
    "contiguous": {"memory_format": torch.contiguous_format},
    "channels last": {"memory_format": torch.channels_last},
}
OTHERS = {
    "a deep copy": copy.deepcopy, "data": lambda x: x.data, "detached": lambda x: x.detach(), "real": lambda x: x.real, "as a tensor": torch.as_tensor,
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()), "bernoulli of a number": lambda x: torch.bernoulli(x, 0.3), "normal of two": lambda x: torch.normal(x, x.abs()),
    "normal of a deviation": lambda x: torch.normal(1.0, x.abs()), "dropout": lambda x: F.dropout(x, 0.3), "dropout2d": lambda x: F.dropout2d(x, 0.3),
    "a mask": lambda x: x[:, :, torch.tensor([True, False, True, True])], "elements by a map": lambda x: torch.arange(9.0)[x.long().abs().clamp(max=8)],
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_what_takes_a_format_of_memory(order):
    wrong, refused = [], set()
    for (name, function), (text, given) in itertools.product(FORMATS.items(), GIVEN.items()):
        found = differences(name, lambda x, f=function, g=given: f(x, g), order)
        refused |= {name} if found is None else set()
        wrong += [(name, text, found)] if found else []
    for name, function in OTHERS.items():
        found = differences(name, function, order)
        refused |= {name} if found is None else set()
        wrong += [(name, found)] if found else []
    assert not wrong, wrong[:5]
    assert refused <= {"type", "contiguous"}  # PyTorch itself takes no format there, or not each


def test_no_function_that_takes_a_format_is_left_out():
    elsewhere = {"cuda", "xpu", "ipu", "mtia"}  # devices that no test has
    asked = {"is_contiguous", "dim_order"}  # tell of it, and make nothing
    refused = {"resize_", "resize_as_"}
    for function, override in get_testing_overrides().items():
        text = function.__doc__ or ""
        if "memory_format" not in inspect.signature(override).parameters and "memory_format" not in text:
            continue
        name = resolve_name(function).rpartition(".")[2]
        assert name in FORMATS.keys() | elsewhere | asked | refused, name
        if name in refused:
            assert name.strip("_") not in TABLE


DRAWS = {
    "dropout": lambda x: F.dropout(x, 0.4),
    "bernoulli in place": lambda x: x * torch.empty_like(x).bernoulli_(0.4),
}


def behind(order, function, given, draw):
    """Draw behind what a function makes of an image of which rows are cut, in an order of memory."""
    turns = {"contiguous": lambda x: x, "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
             "turned": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0), "with gaps": lambda x: x[:, :, ::2]}  # fmt: skip

    def compute(x):
        made = function(turns[order](x * 1), given)
        return (
            draw(made.nan_to_num() * 0 + 1 if made.is_floating_point() else made.double() * 0 + 1) + x.sum()
        )

    return Case(compute, (2, 3, 9, 5))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("degrees", [(2,), (2, 2)], ids=str)
def test_random_draws_behind_a_format_of_memory(degrees):
    cases = {
        f"{name}, {text}, of {order}: {drawn}": behind(order, FORMATS[name], given, draw)
        for name in ("clone", "to", "short", "zeros_like", "rand_like")
        for text, given in GIVEN.items()
        for order in ("contiguous", "channels last", "turned", "with gaps")
        for drawn, draw in DRAWS.items()
    }
    for name, found in compare(cases, degrees).items():
        assert not isinstance(found, str), (name, found)
        assert max(found.values()) <= 1e-6, (name, found)

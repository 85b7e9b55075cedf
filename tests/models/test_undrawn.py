"""Networks whose state comes from elsewhere: nothing but the state may lack what a constructor draws."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from ziggurat.config import ModelConfig
from ziggurat.models.build import build_model
from ziggurat.models.undrawn import build_undrawn


class Plain(nn.Module):
    """Its state is all that it draws; what it computes otherwise depends on nothing drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        with torch.no_grad():  # a truncated normal, as timm draws it
            self.layer.weight.uniform_(-1, 1).erfinv_().mul_(0.02).clamp_(-2, 2)
        self.token = nn.Parameter(torch.randn(1, 5) * 0.02)
        self.register_buffer("codes", torch.rand(3))
        self.register_buffer("index", torch.arange(6).view(2, 3) - 1, persistent=False)
        self.rates = torch.linspace(0, 0.1, 4).tolist()


class Drawn(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden", torch.randn(3), persistent=False)


class DrawnInPlace(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.empty(3).uniform_()


class Shuffled(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(7), persistent=False)


class Copied(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.first = self.layer.weight.detach().clone()


class InAList(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.held = [{"first": self.layer.weight.detach() * 2 + 1}]


class WrittenInto(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(4, 3, 3, 3)
        self.table[...] = self.layer.weight.detach()


class Counted(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.number = self.layer.weight.norm().item()


class Listed(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = self.layer.bias.detach().tolist()


class InNumpy(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = self.layer.bias.detach().numpy().copy()


class Caught(Plain):
    """Its own code goes on where a value is missed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_large = "unknown"
        with contextlib.suppress(Exception):
            self.is_large = bool(self.layer.weight.sum() > 0)


class Rejected(Plain):
    """PyTorch's truncated normal draws again what is too large."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.trunc_normal_(self.layer.weight, std=0.02)


class Sized(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.chosen = (self.layer.weight > 0).nonzero()


class DrawnOften(Plain):
    """What is drawn last depends on how much was drawn before."""

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(50, 50)
        self.hidden = torch.rand(2)


HIDDEN = (
    Drawn,
    DrawnInPlace,
    Shuffled,
    Copied,
    InAList,
    WrittenInto,
    Counted,
    Listed,
    InNumpy,
    Caught,
    Rejected,
    Sized,
    DrawnOften,
)


def built(kind, is_drawn):
    """Return a network, and how often it was built."""
    calls = []

    def build():
        calls.append(kind)
        return kind()

    def seed():
        torch.manual_seed(3)

    if is_drawn:
        seed()
        return build(), 1
    return build_undrawn(build, seed), len(calls)


def beside_state(net):
    """Return what a network holds besides its state, as lists and numbers."""
    saved = set(net.state_dict())
    buffers = {name: buffer for name, buffer in net.named_buffers() if name not in saved}
    own = {name: value for name, value in vars(net).items() if not name.startswith("_")}
    return repr({name: plain(value) for name, value in (buffers | own).items()})


def plain(value):
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize("kind", [Plain, *HIDDEN])
def test_what_is_not_of_the_state_is_as_ever(kind):
    whole, _ = built(kind, is_drawn=True)
    found, times = built(kind, is_drawn=False)
    assert times == (1 if kind is Plain else 2)
    assert beside_state(found) == beside_state(whole)
    found.load_state_dict(whole.state_dict())
    pairs = zip(found.state_dict().items(), whole.state_dict().items(), strict=True)
    assert all(one == other and torch.equal(value, expected) for (one, value), (other, expected) in pairs)


def test_what_is_wrong_says_so_in_its_own_words():
    class Wrong(Plain):
        def __init__(self):
            super().__init__()
            raise LookupError("no such layer")

    with pytest.raises(LookupError, match="no such layer"):
        built(Wrong, is_drawn=False)


NAMES = (
    "fcos-test_resnet-fpn", "retinanet-resnet10t-bifpn", "spp-resnet18", "fcos-pnn", "pnn", "pyramidnet-20-8", "smp:unet/resnet18",
    "timm:vit_tiny_patch16_224", "timm:convnext_atto",
)  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", NAMES)
def test_networks_are_built_once_and_compute_what_they_would(name):
    config, images = ModelConfig(name=name, levels="p3-p4"), torch.rand(1, 3, 224, 224)
    torch.manual_seed(3)
    whole = build_model(config, 4).eval()
    calls = []

    def build():
        calls.append(name)
        return build_model(config, 4)

    found = build_undrawn(build, lambda: torch.manual_seed(3)).eval()
    assert len(calls) == 1
    found.load_state_dict(whole.state_dict())
    with torch.no_grad():
        pairs = list(zip(flat(found(images)), flat(whole(images)), strict=True))
    assert pairs
    assert all(torch.equal(one, other) for one, other in pairs)


def flat(value):
    if isinstance(value, Tensor):
        return [value]
    values = (
        value.values()
        if isinstance(value, dict)
        else value
        if isinstance(value, list | tuple)
        else vars(value).values()
    )
    return [one for each in values for one in flat(each)]

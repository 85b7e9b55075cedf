"""What networks of other people do in a traced forward: questions whether numbers are finite, caches, devices, buffers of several stages."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from support.ranks import run_ranks
from support.verdicts import make_trial, reference_of, verdict_of
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.verification.step import Outcome, Trial

QUESTIONS: dict[str, Callable[[Tensor], bool]] = {
    "all are finite": lambda x: not torch.isfinite(x).all(),
    "any is infinite or no number": lambda x: bool(torch.isinf(x).any() or torch.isnan(x).any()),
    "as methods": lambda x: bool(x.isnan().logical_or(x.isinf()).any()),
    "as operators": lambda x: bool((~x.isfinite() | x.isnan()).any()),
    "as a number": lambda x: x.detach().isnan().any().item(),
    "joined": lambda x: bool((x.isnan().any() | x.isinf().any()) & x.isnan().any()),
}


def three() -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d(3 if n == 0 else 8, 8, 3, padding=1) for n in range(3))


class Asking(nn.Module):
    """Clamps what is not finite, as DETR does after each layer."""

    def __init__(self, asks: Callable[[Tensor], bool], spoil: float = 1.0) -> None:
        super().__init__()
        self.layers, self.asks, self.spoil = three(), asks, spoil

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh() * self.spoil
            if self.asks(x):
                x = x.clamp(-1, 1)
        return x


@pytest.mark.sampled(10)
@pytest.mark.parametrize("plan", ["pp=2", "sp=2,pp=2", "fsdp=2"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_whether_numbers_are_finite(question: str, plan: str) -> None:
    if plan != "pp=2" and question != "all are finite":
        pytest.skip("one question for each plan")
    model = Asking(QUESTIONS[question]).double()
    assert verdict_of(model, plan, make_trial()).word == "exact"


@pytest.mark.parametrize("question", QUESTIONS)
def test_another_answer_is_refused(question: str) -> None:
    """What one worker would clamp is not computed otherwise."""
    verdict = verdict_of(Asking(QUESTIONS[question], float("inf")).double(), "pp=2", make_trial())
    assert verdict.word == "refused"
    assert "asks whether numbers are finite, and they are not" in verdict.why


def test_other_questions_are_still_refused() -> None:
    verdict = verdict_of(Asking(lambda x: bool((x > 9).any())).double(), "pp=2", make_trial())
    assert verdict.word == "refused"
    assert "not on values of tensors" in verdict.why


class Positions(nn.Module):
    """A layer without layers in it, which is told where to compute."""

    def forward(self, shape: torch.Size, device: torch.device, mask: Tensor) -> Tensor:
        rows = torch.arange(shape[-2], dtype=torch.float64, device=device)[:, None]
        return mask.to(torch.float64).cumsum(-1) * rows.sin()


class Placed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.positions = three(), Positions()

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape, dtype=torch.bool, device=x.device)[:, :1]
        for layer in self.layers:
            x = layer(x) + self.positions(x.shape, x.device, mask=mask)
        return x


def wrapped(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    cached = functools.lru_cache(maxsize=4)(function)

    @functools.wraps(function)
    def wrapper(*args: object) -> Tensor:
        return cached(*args)

    return wrapper


class Caching(nn.Module):
    """Keeps what depends on sizes alone."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layers, self.kind = three(), kind

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def plain(rows: int, device: torch.device) -> Tensor:
        return torch.arange(rows, dtype=torch.float64, device=device)[:, None]

    @wrapped
    def decorated(self, rows: int, device: torch.device) -> Tensor:
        return torch.arange(rows, dtype=torch.float64, device=device)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) + getattr(self, self.kind)(x.shape[2], x.device)
        return x


class Sharing(nn.Module):
    """Uses a buffer, and a parameter, in every layer: in every stage."""

    def __init__(self, dtype: torch.dtype, persistent: bool) -> None:
        super().__init__()
        self.layers = three()
        self.register_buffer("table", torch.arange(8).flip(0).to(dtype), persistent=persistent)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.frozen = nn.Parameter(torch.randn(8, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            table = self.table if not self.table.is_floating_point() else self.table.argsort()
            x = layer(x)[:, table] * self.scale + self.frozen
        return x


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "a device for a layer": Placed,
    "a cache of a static method": lambda: Caching("plain"),
    "a cache in a decorator": lambda: Caching("decorated"),
    "a buffer of several stages": lambda: Sharing(torch.int64, True),
    "a buffer that is not saved": lambda: Sharing(torch.int64, False),
    "a buffer of numbers": lambda: Sharing(torch.float64, True),
}


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_in_stages(name: str) -> None:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    trial = make_trial((4, 3, 24, 20), 2, "layers.1")
    reference = reference_of(model, trial)  # in this process: what it has cached is not taken by the trace
    assert verdict_of(model, "pp=2", trial, reference).word == "exact"


@functools.lru_cache(maxsize=4)
def rows_of(rows: int, device: torch.device) -> Tensor:
    return torch.arange(rows, dtype=torch.float64, device=device)[:, None]


class Made(dict[int, Tensor]):
    def __missing__(self, channels: int) -> Tensor:
        self[channels] = torch.arange(channels).flip(0)
        return self[channels]


ORDERS: dict[int, Tensor] = {}
MADE = Made()
LISTED: list[Tensor] = []
HOLDER = SimpleNamespace()
ORDER: Tensor | None = None


class Shuffle(nn.Module):
    """A layer without layers in it: it is called as it is, and must not find what a trace has left in its cache."""

    orders: ClassVar[dict[int, list[tuple[Tensor, int]]]] = {}

    of_class: ClassVar[Tensor | None] = None

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def plain(channels: int) -> Tensor:
        return torch.arange(channels).flip(0)

    @wrapped
    def decorated(self, channels: int) -> Tensor:
        return torch.arange(channels).flip(0)

    def elsewhere(self, channels: int) -> Tensor:
        return order_of(channels)

    def in_dict(self, channels: int) -> Tensor:
        if channels not in ORDERS:
            ORDERS[channels] = torch.arange(channels).flip(0)
        return ORDERS[channels]

    def in_dict_of_class(self, channels: int) -> Tensor:
        if channels not in self.orders:
            self.orders[channels] = [(torch.arange(channels).flip(0), channels)]
        return self.orders[channels][0][0]

    def in_subclass_of_dict(self, channels: int) -> Tensor:
        return MADE[channels]

    def in_attribute(self, channels: int) -> Tensor:
        if not hasattr(self, "order"):
            self.order = torch.arange(channels).flip(0)
        return self.order

    def in_global(self, channels: int) -> Tensor:
        global ORDER
        ORDER = torch.arange(channels).flip(0) if ORDER is None else ORDER
        return ORDER

    def in_list(self, channels: int) -> Tensor:
        if not LISTED:
            LISTED.append(torch.arange(channels).flip(0))
        return LISTED[0]

    def in_object(self, channels: int) -> Tensor:
        if not hasattr(HOLDER, "order"):
            HOLDER.order = torch.arange(channels).flip(0)
        return HOLDER.order

    def in_class(self, channels: int) -> Tensor:
        if Shuffle.of_class is None:
            Shuffle.of_class = torch.arange(channels).flip(0)
        return Shuffle.of_class

    def forward(self, x: Tensor) -> Tensor:
        return x[:, getattr(self, self.kind)(x.shape[1])]


@functools.lru_cache(maxsize=4)
def order_of(channels: int) -> Tensor:
    return torch.arange(channels).flip(0)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", ["pp=2", "fsdp=2"])
@pytest.mark.parametrize(
    "kind",
    ["plain", "decorated", "elsewhere", "in_dict", "in_dict_of_class", "in_subclass_of_dict", "in_attribute"],
)
def test_a_layer_that_is_one_call_finds_no_tensors_without_values(kind: str, plan: str) -> None:
    """BEiT's relative positions: they were read from memory that nobody had written."""
    torch.manual_seed(0)
    model = nn.Sequential(*three()[:1], Shuffle(kind), nn.Tanh(), nn.Conv2d(8, 8, 3), Shuffle(kind)).double()
    order_of.cache_clear()
    Shuffle.plain.cache_clear()
    trial = make_trial((5, 3, 24, 20), 2, "3" if plan == "pp=2" else "")
    assert run_alone_and(model, plan, trial) == "exact"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", ["pp=2", "fsdp=2"])
@pytest.mark.parametrize("kind", ["in_global", "in_list", "in_object", "in_class"])
def test_tensors_without_values_that_cannot_be_taken_back_are_refused(kind: str, plan: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*three()[:1], Shuffle(kind), nn.Tanh(), nn.Conv2d(8, 8, 3), Shuffle(kind)).double()
    trial = make_trial((5, 3, 24, 20), 2, "3" if plan == "pp=2" else "")
    assert run_alone_and(model, plan, trial) == "refused"


def run_alone_and(model: nn.Module, plan: str, trial: Trial) -> str:
    """Return the verdict of workers that have called nothing before they trace."""
    reference = run_ranks(_reference, 1, (model, trial), 60)[0]
    return verdict_of(model, plan, trial, reference).word


def _reference(workers: Workers, model: nn.Module, trial: Trial) -> Outcome:
    return reference_of(model, trial)


class CachingElsewhere(Caching):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) + rows_of(x.shape[2], x.device)
        return x


def test_a_cache_that_is_out_of_sight_is_exact_or_refused() -> None:
    trial = make_trial((5, 3, 24, 20), 2, "layers.1")  # two sizes of microbatches, two traces
    assert verdict_of(CachingElsewhere("").double(), "pp=2", trial).word in ("exact", "refused")

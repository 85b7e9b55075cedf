"""What a network does beside its calls is under every plan what it is on one worker, or it is refused by name.

That is what it keeps from call to call, hooks on its tensors, and questions about memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.ranks import run_ranks
from support.verdicts import SETTINGS
from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.plan import parse_plan
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.step import Outcome, Trial, run_step

PLANS = ("dp=2", "fsdp=2", "sp=2", "tp=2", "pp=2", "lp=2")
EVERY = set(PLANS)
UNTRACED = EVERY - {"pp=2", "lp=2"}
WHOLE = {"sp=2", "tp=2"}  # each worker computes all microbatches, with the network as it is


class Leaf(nn.Module):
    """A change of a map, as a layer without layers."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.seen = change, 0
        self.register_buffer("mean", torch.zeros(8))
        self.kept: Any = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, x)


class Levels(nn.Module):
    """Two branches after a change of a map, which forward itself makes or a layer without layers."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor], in_leaf: bool) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.fine, self.coarse = (
            nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 8, 3, padding=1))
            for _ in range(2)
        )
        self.leaf = Leaf(change)
        self.change = None if in_leaf else change

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.leaf(x) if self.change is None else self.change(self.leaf, x)
        return self.last(self.fine(x) + self.coarse(x * 0.5))


def assigned(m: Leaf, x: Tensor) -> Tensor:
    m.mean = 0.5 * m.mean + 0.5 * x.detach().mean((0, 2, 3))
    return x - m.mean[:, None, None]


def by_data(m: Leaf, x: Tensor) -> Tensor:
    m.mean.data = 0.5 * m.mean.data + torch.full_like(m.mean, 0.5)
    return x * m.mean[:, None, None]


def counted(m: Leaf, x: Tensor) -> Tensor:
    m.seen += 1
    return x / m.seen


def counted_unused(m: Leaf, x: Tensor) -> Tensor:
    m.seen += 1
    return x


def first_is_other(m: Leaf, x: Tensor) -> Tensor:
    m.seen, scale = 1, 1.0 if m.seen else 2.0
    return x * scale


def appended(m: Leaf, x: Tensor) -> Tensor:
    m.kept.setdefault("shapes", []).append(tuple(x.shape))
    return x / len(m.kept["shapes"])


def carried(m: Leaf, x: Tensor) -> Tensor:
    before = m.kept.get("map", 0.5)
    m.kept["map"] = x.detach().tanh()
    return x * before


def decayed(m: Leaf, x: Tensor) -> Tensor:
    m.kept["rate"] = m.kept.get("rate", torch.ones((), dtype=x.dtype)) * 0.5
    return x * m.kept["rate"]


def cached(m: Leaf, x: Tensor) -> Tensor:
    if tuple(x.shape) not in m.kept:
        m.kept[tuple(x.shape)] = torch.linspace(0, 1, x.shape[1], dtype=x.dtype).view(1, -1, 1, 1)
    return x * m.kept[tuple(x.shape)]


def noted(m: Leaf, x: Tensor) -> Tensor:
    m.seen = x.shape[1]
    m.kept["size"] = tuple(x.shape[2:])
    return x * m.seen


def iterated() -> Callable[[Leaf, Tensor], Tensor]:
    factors = itertools.cycle([0.5, 1.5, 2.5])
    return lambda m, x: x * next(factors)


def hooked(m: Leaf, x: Tensor) -> Tensor:
    y = x * 1.5
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * 2 - gradient.mean())
    return y * y


def hooked_given(m: Leaf, x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: gradient / gradient.norm())
    return x * x


def hooked_with_tensor(m: Leaf, x: Tensor) -> Tensor:
    y, keep = x * 1.5, x.detach().square().mean()
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * keep)
    return y * y


def unhooked(m: Leaf, x: Tensor) -> Tensor:
    y = x * 1.5
    if y.requires_grad:
        y.register_hook(torch.neg).remove()
    return y * y


def gradient_kept(m: Leaf, x: Tensor) -> Tensor:
    y = x * 1.5
    if y.requires_grad:
        y.retain_grad()
    return y * y


def node_asked_for(m: Leaf, x: Tensor) -> Tensor:
    y = x * 1.5
    return y if y.grad_fn is None else y * len(y.grad_fn.name())


def strides_asked_for(m: Leaf, x: Tensor) -> Tensor:
    return x * x.stride(1)


def order_asked_for(m: Leaf, x: Tensor) -> Tensor:
    return x * (2 if x.is_contiguous() else 3)


# From a change to the plans under which it is exact: where forward itself makes it, and where a layer without layers does.
CHANGES: dict[str, tuple[Callable[[], Callable[[Any, Tensor], Tensor]], set[str], set[str]]] = {
    "assigned buffer": (lambda: assigned, WHOLE, WHOLE),
    "buffer by data": (lambda: by_data, WHOLE, WHOLE),
    "counter": (lambda: counted, WHOLE, WHOLE),
    "counter that nothing uses": (lambda: counted_unused, WHOLE, WHOLE),
    "another first call": (lambda: first_is_other, WHOLE, WHOLE),
    "list": (lambda: appended, WHOLE, WHOLE),
    "map of the call before": (lambda: carried, WHOLE, WHOLE),
    "number in a tensor": (lambda: decayed, WHOLE, WHOLE),
    "iterator": (iterated, {"sp=2"}, {"sp=2"}),
    "table": (lambda: cached, EVERY, EVERY),
    "shapes": (lambda: noted, EVERY, EVERY),
    "hook of numbers": (lambda: hooked, EVERY, EVERY),
    "hook on what was given": (lambda: hooked_given, EVERY, UNTRACED),
    "hook that holds a tensor": (lambda: hooked_with_tensor, UNTRACED, EVERY),
    "hook that is removed": (lambda: unhooked, UNTRACED, EVERY),
    "gradient that is kept": (lambda: gradient_kept, EVERY, EVERY),
    "node of a tensor": (lambda: node_asked_for, UNTRACED, EVERY),
    "strides": (lambda: strides_asked_for, UNTRACED, EVERY),
    "order": (lambda: order_asked_for, UNTRACED, EVERY),
}
CASES = [(name, in_leaf) for name in CHANGES for in_leaf in (False, True)]


def build(name: str, in_leaf: bool) -> Levels:
    torch.manual_seed(0)
    return Levels(CHANGES[name][0](), in_leaf).double()


def trial() -> Trial:
    images = torch.randn(4, 3, 24, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return Trial(images, 7, 2, override(RunConfig(), {**SETTINGS, "train.ema": 0.0, "pipeline.cut": "fine"}))


@pytest.fixture(scope="module")
def references() -> dict[tuple[str, bool], Outcome]:
    """The steps on one worker."""
    return {case: run_step(build(*case), trial(), make_mesh(Workers())) for case in CASES}


def _of_each(
    workers: Workers, plan: str, references: Mapping[tuple[str, bool], Outcome]
) -> dict[tuple[str, bool], tuple[float, str]]:
    """Return the largest error of each case, or why it is refused."""
    found = {}
    for case in CASES:
        try:
            errors = check_step(workers, plan, build(*case), trial(), references[case]).errors
            found[case] = (1.0 if errors is None else errors.largest, "")
        except UserError as error:
            found[case] = (0.0, str(error))
    return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", PLANS)
def test_what_is_kept(plan: str, references: dict[tuple[str, bool], Outcome]) -> None:
    size = parse_plan(plan).num_workers
    wrong = []
    for found in run_ranks(_of_each, size, (plan, references)):
        for (name, in_leaf), (error, why) in found.items():
            is_exact = plan in CHANGES[name][1 + in_leaf]
            if error > BOUNDS[torch.float64] or bool(why) is is_exact:
                wrong.append((name, in_leaf, error, why))
    assert not wrong, wrong


class Toggling(nn.Module):
    """Puts a layer into another mode in forward, and back again or not."""

    def __init__(self, is_restored: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.is_restored = is_restored
        self.stem, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.fine, self.coarse = (
            nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 8, 3, padding=1))
            for _ in range(2)
        )

    def forward(self, images: Tensor) -> Tensor:
        before = self.norm.training
        self.norm.eval()
        x = self.norm(self.stem(images))
        if self.is_restored:
            self.norm.train(before)
        return self.last(self.fine(x) + self.coarse(x * 0.5))


def _toggled(workers: Workers, plan: str, reference: Outcome, is_restored: bool) -> tuple[float, str]:
    try:
        errors = check_step(workers, plan, Toggling(is_restored).double(), trial(), reference).errors
    except UserError as error:
        return 0.0, str(error)
    assert errors is not None
    return errors.largest, ""


@pytest.mark.sampled(5)
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("is_restored", [True, False])
def test_a_mode_that_forward_changes(plan: str, is_restored: bool) -> None:
    reference = run_step(Toggling(is_restored).double(), trial(), make_mesh(Workers()))
    for error, why in run_ranks(_toggled, parse_plan(plan).num_workers, (plan, reference, is_restored)):
        assert error <= BOUNDS[torch.float64], why
        assert ("into evaluation mode" in why) == (plan in ("pp=2", "lp=2")), why

"""The gradient of a spread tensor is that of the whole, wherever it is read; hooks on it are refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from support.ranks import run_ranks
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import UnsupportedOperation, whole_tensor
from ziggurat.strategies.spread import spread

# From a map to what is kept of it, whose gradient is looked at; all of them are used afterwards.
KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "map": lambda x: x.tanh(),
    "slice": lambda x: x[:, :, 1:9] * 2,
    "tokens": lambda x: x.flatten(2).transpose(1, 2) * 2,
    "columns": lambda x: x.mean(3),
    "pooled": lambda x: x.mean((2, 3), keepdim=True),
    "apex": lambda x: nn.functional.adaptive_avg_pool2d(x, 3),
    "number": lambda x: x.square().mean(),
    "changed in place": lambda x: (x * 2).relu_(),
}


class Keeps(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.change = nn.Conv2d(3, 4, 3, padding=1), change

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        self.kept = self.change(x)
        self.kept.retain_grad()
        return x.sin().mean() + (self.kept.square() * self.kept.detach().cos()).sum()


def _gradients(workers: Workers, plan: str) -> dict[str, Tensor]:
    found = {}
    for name, change in KEPT.items():
        torch.manual_seed(0)
        model = spread(Keeps(change).double(), plan, workers)
        images = torch.randn(2, 3, 13, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        model(images).backward()
        assert model.kept.grad is not None
        found[name] = whole_tensor(model.kept.grad).detach()
    return found


@pytest.mark.parametrize(("plan", "world"), [("sp=2", 2), ("sp=1x2", 2), ("sp=2x2", 4)])
def test_gradients_that_are_kept_are_those_of_the_whole(plan: str, world: int) -> None:
    expected = _gradients(Workers(), "sp=1")
    for found in run_ranks(_gradients, world, (plan,)):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-11, atol=1e-13, msg=name)


HOOKS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "scaled": lambda gradient: gradient * 3,
    "clipped by its norm": lambda gradient: gradient / gradient.norm(),
    "centred": lambda gradient: gradient - gradient.mean(),
    "flipped": lambda gradient: gradient.flip(gradient.dim() - 1) if gradient.dim() else -gradient,
    "looked at": lambda gradient: None,
}


class Hooked(Keeps):
    """A hook on what is made of a map; the gradient of the map, and of what was hooked, is kept."""

    def __init__(self, change: Callable[[Tensor], Tensor], hook: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__(change)
        self.hook = hook

    def forward(self, images: Tensor) -> Tensor:
        self.kept = self.conv(images)
        self.kept.retain_grad()
        y = self.change(self.kept)
        y.register_hook(self.hook)
        return self.kept.sin().mean() + (y.square() * y.detach().cos()).sum()


def _hooked(workers: Workers, plan: str) -> dict[tuple[str, str], Tensor]:
    found = {}
    for name, change in KEPT.items():
        for told, hook in HOOKS.items():
            torch.manual_seed(0)
            model = spread(Hooked(change, hook).double(), plan, workers)
            generator = torch.Generator().manual_seed(1)
            model(torch.randn(2, 3, 13, 11, dtype=torch.float64, generator=generator)).backward()
            assert model.kept.grad is not None
            found[name, told] = whole_tensor(model.kept.grad).detach()
            found[name, f"{told}: weight"] = model.conv.weight.grad
    return found


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("plan", "world"), [("sp=2", 2), ("sp=1x2", 2), ("sp=2x2", 4)])
def test_hooks_see_the_gradient_of_the_whole(plan: str, world: int) -> None:
    expected = _hooked(Workers(), "sp=1")
    for found in run_ranks(_hooked, world, (plan,)):
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-11, atol=1e-13, msg=str(name))


ASKED: dict[str, Callable[[Tensor], object]] = {
    "register_post_accumulate_grad_hook": lambda x: x.register_post_accumulate_grad_hook(lambda tensor: None),
    "grad_fn.register_hook": lambda x: x.grad_fn.register_hook(lambda *gradients: None),
    "grad_fn.register_prehook": lambda x: x.grad_fn.register_prehook(lambda gradients: None),
}


def _write_through_a_view(x: Tensor) -> None:
    x[:, :, 1:9].mul_(2)
    x.register_hook(torch.neg)


def _change_what_is_watched(x: Tensor) -> None:
    rows = x[:, :, 1:9]
    rows.retain_grad()
    x.mul_(2)
    rows.sum()


# Where the rows of a view lie apart, gradients do not come by what it is a view of.
THROUGH_VIEWS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "register_hook": (_write_through_a_view, "a view of it was changed in place"),
    "an operation in place": (_change_what_is_watched, "the memory of a view that has a hook"),
}


class Asks(nn.Module):
    def __init__(self, ask: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv, self.ask = nn.Conv2d(3, 4, 3, padding=1), ask

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        assert x.grad_fn is None or x.grad_fn.name()
        self.ask(x)
        return x.mean()


def _refusals(workers: Workers) -> list[UnsupportedOperation]:
    found = []
    for ask in (*ASKED.values(), *(ask for ask, _ in THROUGH_VIEWS.values())):
        with pytest.raises(UnsupportedOperation) as refusal:
            spread(Asks(ask), "sp=2", workers)(torch.randn(2, 3, 12, 10))
        found.append(refusal.value)
    return found


def test_hooks_are_refused_by_name() -> None:
    for refusals in run_ranks(_refusals, 2):
        assert [one.operation for one in refusals] == [*ASKED, *THROUGH_VIEWS]
        reasons = [*["parts of the gradient"] * len(ASKED), *(why for _, why in THROUGH_VIEWS.values())]
        for refusal, reason in zip(refusals, reasons, strict=True):
            assert reason in refusal.reason
            assert "test_gradients_kept.py" in refusal.line

"""A hook on a gradient sees under every plan what it sees on one worker, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.nn import functional

from support.ranks import run_ranks
from support.verdicts import make_trial, verdict_of
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.spread import spread
from ziggurat.torch_internals.hooks import ASKED
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS, compare_steps
from ziggurat.verification.step import Outcome, Trial, run_step

PLANS = ("dp=2", "fsdp=2", "sp=2", "pp=2", "lp=2", "tp=2", "dp=2,sp=2", "dp=2,pp=2")


class Levels(nn.Module):
    """Two branches of a wide pair of convolutions each; the last call uses the stem's weight again.

    Args:
        inside: What forward does with itself and a map before it goes on.
    """

    def __init__(self, inside: Callable[[Levels, Tensor], object] = lambda model, x: None) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.fine, self.coarse = (
            nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.Tanh(), nn.Conv2d(32, 8, 3, padding=1))
            for _ in range(2)
        )
        self.inside = inside

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        self.inside(self, x)
        joined = self.last(self.fine(x) + self.coarse(x * 0.5))
        return joined * functional.conv2d(images, self.stem.weight.mean(0, keepdim=True), padding=1)


def clamp(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.01, 0.01)


def halve_kept(parameter: Tensor) -> None:
    parameter.grad.sign_()


# From what registers a hook to the plans under which it sees what it sees on one worker.
ON_PARAMETERS: dict[str, tuple[Callable[[Levels], object], set[str]]] = {
    "weight": (lambda m: m.last.weight.register_hook(clamp), {"dp=2", "pp=2", "tp=2", "dp=2,pp=2"}),
    "bias": (lambda m: m.stem.bias.register_hook(clamp), {"dp=2", "pp=2", "tp=2", "dp=2,pp=2"}),
    "wide": (lambda m: m.fine[0].weight.register_hook(clamp), {"dp=2", "pp=2", "tp=2", "dp=2,pp=2"}),
    "of two stages": (lambda m: m.stem.weight.register_hook(clamp), {"dp=2", "tp=2"}),
    "accumulated": (
        lambda m: m.last.weight.register_post_accumulate_grad_hook(halve_kept),
        {"pp=2", "tp=2"},
    ),
    "of several": (
        lambda m: register_multi_grad_hook([m.last.weight, m.last.bias], lambda gradients: None),
        {"dp=2", "pp=2", "tp=2", "dp=2,pp=2"},
    ),
    "on none": (lambda m: None, set(PLANS)),
}


def build(register: Callable[[Levels], object], inside: Callable[..., object] | None = None) -> Levels:
    torch.manual_seed(0)
    model = (Levels(inside) if inside else Levels()).double()
    register(model)
    return model


def _of_each(
    workers: Workers, plan: str, trial: Trial, references: Mapping[str, Outcome]
) -> dict[str, tuple[float, str]]:
    """Return the largest error under each hook on a parameter, or why it is refused."""
    found = {}
    for name, (register, _) in ON_PARAMETERS.items():
        try:
            errors = check_step(workers, plan, build(register), trial, references[name]).errors
            found[name] = (1.0 if errors is None else errors.largest, "")
        except UserError as error:
            found[name] = (0.0, str(error))
    return found


@pytest.fixture(scope="module")
def references() -> dict[str, Outcome]:
    """The steps on one worker."""
    steps = {
        name: run_step(build(register), make_trial(cut="fine"), make_mesh(Workers()))
        for name, (register, _) in ON_PARAMETERS.items()
    }
    for name in ("weight", "bias", "wide", "of two stages", "accumulated"):
        assert compare_steps(steps[name], steps["on none"]).largest > 1e-3, "it does change something"
    return steps


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", PLANS)
def test_hooks_on_parameters(plan: str, references: dict[str, Outcome]) -> None:
    size = parse_plan(plan).num_workers
    for found in run_ranks(_of_each, size, (plan, make_trial(cut="fine"), references)):
        for name, (error, why) in found.items():
            is_exact = plan in ON_PARAMETERS[name][1]
            assert bool(why) is not is_exact, (name, error, why)
            assert error <= BOUNDS[torch.float64], name
            assert not why or "has a hook on its gradient" in why


REGISTERED_INSIDE: dict[str, tuple[Callable[[Levels, Tensor], object], set[str]]] = {
    "on a parameter": (lambda m, x: m.last.weight.register_hook(clamp), set()),
    "after it is accumulated": (
        lambda m, x: m.last.weight.register_post_accumulate_grad_hook(halve_kept),
        set(),
    ),
    "on what is made of a weight": (
        lambda m, x: x.requires_grad and (m.last.weight * 2).register_hook(clamp),
        {"dp=2", "fsdp=2"},
    ),
    "on the node of what is made of a weight": (
        lambda m, x: x.requires_grad and (m.last.weight * 2).grad_fn.register_hook(lambda *gradients: None),
        {"dp=2", "fsdp=2"},
    ),
    "before the node of what is made of a weight": (
        lambda m, x: x.requires_grad and (m.last.weight * 2).grad_fn.register_prehook(lambda gradients: None),
        {"dp=2", "fsdp=2"},
    ),
    "on a node before it": (
        lambda m, x: (
            x.requires_grad
            and (m.last.weight * 2).exp().grad_fn.next_functions[0][0].register_hook(lambda *gradients: None)
        ),
        {"dp=2", "fsdp=2"},
    ),
    "the name of a node": (
        lambda m, x: x.requires_grad and (m.last.weight * 2).grad_fn.name(),
        {"dp=2", "fsdp=2", "sp=2"},
    ),
    "kept of what is made of a weight": (
        lambda m, x: x.requires_grad and (m.last.weight * 2).retain_grad(),
        {"dp=2", "fsdp=2"},
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", REGISTERED_INSIDE)
@pytest.mark.parametrize("plan", ["dp=2", "fsdp=2", "sp=2"])
def test_hooks_that_forward_registers(name: str, plan: str) -> None:
    inside, exact = REGISTERED_INSIDE[name]
    trial = make_trial(microbatches=2)
    reference = run_step(build(lambda m: None), trial, make_mesh(Workers()))
    verdict = verdict_of(build(lambda m: None, inside), plan, trial, reference)
    assert verdict.word == ("exact" if plan in exact else "refused"), verdict.why
    assert verdict.is_exact or "test_hooks.py:" in verdict.why, "it names the line"


def _spread_with_hooks(workers: Workers) -> list[str]:
    said = []
    hooked = build(lambda m: m.last.weight.register_hook(clamp))
    late, inside = build(lambda m: None), build(lambda m: None, REGISTERED_INSIDE["on a parameter"][0])
    layer = build(lambda m: m.fine.register_full_backward_hook(lambda *args: None))
    for model in (hooked, late, inside, layer):
        try:
            spread(model, "sp=2", workers)
            model.last.weight.register_hook(clamp) if model is late else None
            model(torch.randn(2, 3, 24, 20, dtype=torch.float64))
        except UserError as error:
            said.append(str(error))
    return said


def test_hooks_in_a_loop_of_ones_own() -> None:
    for said in run_ranks(_spread_with_hooks, 2):
        assert [("'last.weight'" in one, "register_hook" in one, "'fine'" in one) for one in said] == [
            (True, False, False), (True, False, False), (False, True, False), (False, False, True),
        ]  # fmt: skip


def test_what_watches_goes_away() -> None:
    before = {name: getattr(Tensor, name) for name in ASKED}
    run_step(build(lambda m: None), make_trial(), make_mesh(Workers()))
    assert {name: getattr(Tensor, name) for name in ASKED} == before

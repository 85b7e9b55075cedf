"""A network that talks to other processes by itself does under every plan what it does on one worker, or is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from support.ranks import run_ranks
from support.verdicts import make_trial, reference_of, verdict_of
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.alone import as_alone, refuse_own_groups
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.spread import spread
from ziggurat.verification.step import Trial, run_step

CPU = torch.device("cpu")
PLANS = ("dp=2", "sp=2", "fsdp=2", "pp=2")


class Counting(torch.autograd.Function):
    """Adds up over processes in forward and in backward, as quantizers and synchronized norms do."""

    @staticmethod
    def forward(ctx, x):
        count = torch.ones((), dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(count)
        return x * count

    @staticmethod
    def backward(ctx, gradient):
        count = torch.ones((), dtype=torch.float64)
        if dist.is_initialized():
            dist.all_reduce(count)
        return gradient * count


class Talks(nn.Module):
    """Averages over all processes there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x * dist.get_world_size() if dist.is_initialized() else x)


class TalksInFunction(Talks):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(Counting.apply(self.first(x)))


class Synchronized(nn.Sequential):
    def __init__(self) -> None:
        norm = nn.SyncBatchNorm(8)
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(8, 4, 1))


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).flatten(2).transpose(1, 2)


class Slow(nn.Module):
    """A batch norm whose gradient is that of its arithmetic."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        return (x - mean) * (variance + 1e-5).rsqrt()


def built(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [Talks, Synchronized])
def test_it_finds_no_other_process(kind: type[nn.Module]) -> None:
    model, trial = built(kind), make_trial(cut="1" if kind is Synchronized else "last")
    reference = reference_of(model, trial)
    for plan in PLANS:
        assert verdict_of(model, plan, trial, reference).is_exact, plan


@pytest.mark.parametrize("plan", ["dp=2", "fsdp=2", "pp=2"])
def test_nor_does_its_backward(plan: str) -> None:
    """A custom autograd function; under sp such are refused, whatever they do."""
    assert verdict_of(built(TalksInFunction), plan, make_trial(cut="last")).is_exact


def test_the_reference_is_taken_without_others_while_there_are_others() -> None:
    model, trial = built(Talks), make_trial()
    reference = reference_of(model, trial)
    outcomes = run_ranks(_on_the_first, 2, (model, trial))
    assert torch.equal(outcomes[0].losses, reference.losses)


def _on_the_first(workers: Workers, model: nn.Module, trial: Trial):
    return reference_of(model, trial) if workers.is_first else None


def _refused(workers: Workers, wrap) -> list[str]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), wrap(nn.Conv2d(8, 4, 1)))
    try:
        refuse_own_groups(model)
    except UserError as error:
        return error.faults
    return []


def _distributed(layer: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(layer)


def _with_group(layer: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm(4, process_group=dist.group.WORLD)


def test_layers_that_spread_or_hold_groups_are_refused_by_name() -> None:
    for faults in run_ranks(_refused, 2, (_distributed,)):
        (fault,) = faults
        assert "the layer '1' (DistributedDataParallel)" in fault
        assert ".module" in fault
    for faults in run_ranks(_refused, 2, (_with_group,)):
        (fault,) = faults
        assert "the layer '1' (SyncBatchNorm)" in fault
        assert "process_group" in fault
    refuse_own_groups(built(Synchronized))


def _joined_with_group(workers: Workers, trial: Trial) -> str:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4, process_group=dist.group.WORLD)).double()
    try:
        run_step(model, trial, make_mesh(workers, "dp=2"))
    except UserError as error:
        return str(error)
    return ""


def test_the_refusal_comes_where_models_are_joined() -> None:
    assert all("SyncBatchNorm" in why for why in run_ranks(_joined_with_group, 2, (make_trial(),)))


def _spread(workers: Workers, kind: type[nn.Module]) -> tuple[Tensor, bool]:
    model = built(kind)
    spread(model, f"sp={workers.size}", workers)
    images = torch.randn(2, 3, 12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model(images).square().mean().backward()
    return next(model.parameters()).grad, dist.is_initialized()


@pytest.mark.parametrize("kind", [Talks, Synchronized])
def test_in_a_loop_of_ones_own(kind: type[nn.Module]) -> None:
    ((alone, _),) = run_ranks(_spread, 1, (kind,))
    for found, is_there_again in run_ranks(_spread, 2, (kind,)):
        assert torch.allclose(found, alone, rtol=1e-10, atol=1e-14)
        assert is_there_again


class Fails(Talks):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("row")


def _failing(workers: Workers) -> bool:
    model = spread(Fails(), "sp=2", workers)
    with pytest.raises(KeyError):
        model(torch.zeros(1, 3, 8, 8))
    return dist.is_initialized()


def test_the_group_comes_back_where_forward_raises() -> None:
    assert run_ranks(_failing, 2) == [True, True]


def test_what_one_worker_computes_is_mended_too() -> None:
    """One image, tokens: PyTorch's own gradient is of other positions (docs/upstream/batch_norm_cpu.md)."""

    model = built(Tokens)
    images = torch.randn(1, 3, 6, 5, dtype=torch.float64)
    weight = torch.randn(1, 30, 8, dtype=torch.float64)

    def gradient(inside: nn.Module) -> Tensor:
        (found,) = torch.autograd.grad((inside(images) * weight).sum(), inside.conv.weight)
        return found

    slow = copy.deepcopy(model)
    slow.norm = Slow()
    with as_alone(CPU):
        assert torch.allclose(gradient(model), gradient(slow), rtol=1e-10, atol=1e-12)


def test_a_step_of_one_image_is_exact_under_sp() -> None:
    assert verdict_of(built(Tokens), "sp=2", make_trial((1, 3, 24, 20), 1)).is_exact

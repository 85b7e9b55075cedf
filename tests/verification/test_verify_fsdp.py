"""Sharded weights: one training step under fsdp, alone and with sp, is the step on one worker, in float64."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from support.ranks import run_ranks
from ziggurat.config import ModelConfig, PipelineConfig, RunConfig
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.state import TrainState
from ziggurat.strategies.units import find_units
from ziggurat.training.step import Step
from ziggurat.verification.check import Check, check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.losses import Piece
from ziggurat.verification.networks import build_network
from ziggurat.verification.step import Trial, run_step

NETWORKS = [
    "fcos-test_resnet-fpn",
    "smp:unet/tu-test_resnet",
    "timm:test_resnet",
    "smp:upernet/tu-test_resnet",
    "pnn",
    "torchvision:mobilenet_v3_small",
]


def _check(model: nn.Module, plan: str, num_microbatches: int, config: RunConfig, images: Tensor) -> Check:
    trial = Trial(images, num_microbatches=num_microbatches, config=config)
    reference = run_step(copy.deepcopy(model), trial, make_mesh(Workers()))
    checks = run_ranks(check_step, parse_plan(plan).num_workers, (plan, model, trial, reference))
    assert len({repr(check.errors) for check in checks}) == 1, "all workers have the same verdict"
    return checks[0]


LONG = (
    "smp:unet/tu-test_resnet",
    "timm:test_resnet",
    "torchvision:mobilenet_v3_small",
)  # units of no other kind
CASES = [
    *((name, "fsdp=2", 3) for name in NETWORKS),
    *(pytest.param(name, "fsdp=2,sp=2", 2, marks=[pytest.mark.slow] * (name in LONG)) for name in NETWORKS),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "plan", "num_microbatches"), CASES)
def test_the_step_of_one_worker(name: str, plan: str, num_microbatches: int) -> None:
    """With three microbatches one worker has a pass more than the other, which keeps it company."""
    config = RunConfig(model=ModelConfig(name=name, channels=8, head_depth=1))
    torch.manual_seed(0)
    model = build_network(name, config.model).double()
    images = torch.randn(2 * num_microbatches, 3, 64, 64, dtype=torch.float64)
    check = _check(model, plan, num_microbatches, config, images)
    assert check.errors is not None, check.unsupported
    assert check.errors.largest <= BOUNDS[torch.float64], check.errors
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    assert sum(check.weight_bytes) == total, "every row of a weight is on one worker"


class _Reaching(nn.Module):
    """Ties weights, uses a part's weight without calling it, calls a part twice, and has a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.reached = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.twice = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.frozen = nn.Conv2d(8, 8, 1).requires_grad_(False)
        self.tied = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.tied.weight = self.reached.weight
        self.unused = nn.Linear(8, 8)
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = nn.functional.conv2d(x, self.reached.weight, padding=1).relu_()
        x = self.twice(self.twice(x)) + self.frozen(x)
        return self.head(self.tied(x))


def test_units_are_modules_whose_weights_are_used_inside() -> None:
    model = _Reaching()
    before = copy.deepcopy(model.state_dict())
    units = find_units(model, (2, 3, 8, 8), unit_bytes=256).names
    assert sorted(units) == ["frozen", "head.0", "stem"]
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("plan", ["fsdp=2", "fsdp=2,sp=2"])
def test_weights_that_are_tied_reached_into_frozen_or_unused(plan: str) -> None:
    config = RunConfig(pipeline=PipelineConfig(unit_bytes=256))
    torch.manual_seed(0)
    check = _check(_Reaching().double(), plan, 3, config, torch.randn(5, 3, 16, 16, dtype=torch.float64))
    assert check.errors is not None, check.unsupported
    assert check.errors.largest <= BOUNDS[torch.float64], check.errors


class _Squares:
    """The mean of squares of a microbatch's outputs."""

    term_names, normalizer_names, output_sum_names, normalizers_are_parts = ("squares",), (), (), False

    def assign(self, batch: Piece) -> int:
        return batch.number

    def normalizers(self, assignment: int) -> Tensor:
        return torch.zeros(0, dtype=torch.float64)

    def loss_shares(self, outputs: Tensor, assignment: int, totals: Tensor) -> dict[str, Tensor]:
        return {"squares": outputs.square().mean()}


class _AsTheyAre:
    """Images as they are."""

    def images(self, batch: Piece) -> Tensor:
        return batch.images

    def seed(self, batch: Piece) -> None:
        torch.manual_seed(batch.number)

    def announce(self, name: str, batch: Piece) -> None:
        pass

    def compute(self) -> AbstractContextManager[None]:
        return nullcontext()


def _steps(workers: Workers, model: nn.Module, images: Tensor) -> dict[str, Tensor] | None:
    """Train for three steps with AdamW on shards; returns the whole weights, on the first worker."""
    state = TrainState.start(model.train(), torch.optim.AdamW(model.parameters(), lr=0.01, fused=True))
    pieces = [Piece(number, one) for number, one in enumerate(images.chunk(2))]
    config = RunConfig(pipeline=PipelineConfig(unit_bytes=0))
    mesh = make_mesh(workers, "fsdp=2")
    parallel = Parallel(state, mesh, Setting(spec_of(pieces[0].images), config, 2, nullcontext))
    step = Step(parallel, _Squares(), _AsTheyAre())
    for _ in range(3):
        step([pieces[index] for index in parallel.microbatches_of(2)], 2)
        state.complete()
    whole = parallel.whole_average()
    return None if whole is None else {name: value.detach() for name, value in whole.state_dict().items()}


def test_an_optimizer_steps_on_shards() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5), nn.ReLU(), nn.Conv2d(5, 3, 3)).double()
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    reference = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        sum(reference(images[i : i + 2]).square().mean() for i in (0, 2)).backward()
        optimizer.step()
    weights, other = run_ranks(_steps, 2, (model, images))
    assert other is None
    for name, value in reference.state_dict().items():
        assert (weights[name] - value).abs().max() < 1e-10, name


def test_what_is_refused() -> None:
    for text, why in (("fsdp=2,dp=2", "as dp does"), ("fsdp=2,pp=2", "does not go with pp")):
        with pytest.raises(UserError, match=why):
            parse_plan(text)

"""Every norm with running statistics under plans that spread a network: its buffers are those of one worker."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from support.ranks import run_ranks
from ziggurat.config import override
from ziggurat.config.records import RunConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.step import Trial, run_step

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
Case = tuple[str, int, int]
CASES: list[Case] = [
    (kind, num_dims, microbatches)
    for kind in ("BatchNorm", "InstanceNorm", "shared head")
    for num_dims in (1, 2, 3)
    for microbatches in (1, 3)
    if kind != "shared head" or num_dims == 2
]


class Norms(nn.Module):
    """Norms between convolutions, of tensors that several layers use."""

    def __init__(self, kind: str, num_dims: int) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[num_dims], getattr(nn, f"{kind}{num_dims}d")
        self.stem, self.out = convolution(3, 4, 3, padding=1), convolution(4, 4, 1)
        self.first, self.second = convolution(4, 4, 1), convolution(4, 4, 3, padding=1)
        self.norm = norm(4, track_running_stats=True, affine=True)
        self.last = norm(4, momentum=0.3, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.last(self.out(self.second(self.first(x)) + x))


class SharedHead(nn.Module):
    """A head that levels share, one norm of which is called by function, with momenta that are not the layer's."""

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[num_dims], getattr(nn, f"BatchNorm{num_dims}d")
        self.stem = nn.Sequential(convolution(3, 8, 3, padding=1), nn.ReLU(), convolution(8, 4, 1))
        self.head = convolution(4, 4, 3, padding=1)
        self.norm, self.by_function, self.average = norm(4), norm(4), norm(4, momentum=None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        total = x.new_zeros(())
        for level, momentum in enumerate((0.3, 0.05, 0.2)):
            y = self.norm(self.head(x * (level + 1))).relu()
            one = self.by_function
            y = functional.batch_norm(
                y, one.running_mean, one.running_var, one.weight, one.bias, True, momentum
            )
            total = total + (y * x).square().mean() + (self.average(x).relu() * y).mean()
        return total


def network(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return (SharedHead(case[1]) if case[0] == "shared head" else Norms(*case[:2])).double()


def trial(case: Case) -> Trial:
    images = torch.randn(
        5, 3, *[9, 6, 5][: case[1]], dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    return Trial(images, num_microbatches=case[2], config=override(RunConfig(), {"tensor.min_width": 4}))


def _errors(workers: Workers, plan: str, references: dict[Case, Any]) -> list[Any]:
    checks = [
        (case, check_step(workers, plan, network(case), trial(case), one)) for case, one in references.items()
    ]
    return [(case, check.errors or check.unsupported) for case, check in checks]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("plan", "world"), [("pp=2", 2), ("tp=2", 2), ("sp=2", 2), ("dp=2,sp=2", 4), ("sp=2x2", 4)]
)
def test_buffers_are_those_of_one_worker(plan: str, world: int) -> None:
    cases = [c for c in CASES if (c[1] > 1 or "x" not in plan) and (c[2] > 1 or "dp" not in plan)]
    references = {
        case: run_step(copy.deepcopy(network(case)), trial(case), make_mesh(Workers())) for case in cases
    }
    for case, errors in run_ranks(_errors, world, (plan, references))[0]:
        assert not isinstance(errors, list), (case, errors)
        assert errors.buffers <= BOUNDS[torch.float64], (case, errors)
        assert errors.largest <= BOUNDS[torch.float64], (case, errors)

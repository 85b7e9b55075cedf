"""All axes together: one training step on up to 8 workers is the step on one, in float64."""

from __future__ import annotations

import copy

import pytest
import torch

from support.ranks import run_ranks
from ziggurat.config import ModelConfig, PipelineConfig, RunConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verify.check import check_step
from ziggurat.verify.compare import BOUNDS
from ziggurat.verify.networks import build_network
from ziggurat.verify.step import Trial, run_step

PLANS = {"dp=2,pp=2": 4, "sp=2,pp=2": 4, "dp=2,sp=2,pp=2": 8}


@pytest.mark.parametrize("name", ["fcos-test_resnet-fpn", "smp:unet/tu-test_resnet", "pnn"])
def test_products_of_axes(name: str) -> None:
    config = RunConfig(model=ModelConfig(name=name, channels=8, head_depth=1))
    torch.manual_seed(0)
    model = build_network(name, config.model).double()
    images = torch.randn(7, 3, 61, 64, dtype=torch.float64)
    trial = Trial(images, num_microbatches=4, config=config)  # the last microbatch is smaller
    reference = run_step(copy.deepcopy(model), trial, make_mesh(Workers()))
    for plan, world in PLANS.items():
        checks = run_ranks(check_step, world, (plan, model, trial, reference))
        assert len({repr(check.errors) for check in checks}) == 1, "all workers have the same verdict"
        check = checks[0]
        assert check.errors is not None, check.unsupported
        assert check.errors.largest <= BOUNDS[torch.float64], (plan, check.errors)
        assert len(check.stages) == 2


def test_activations_computed_again_where_workers_share_images() -> None:
    """Both workers of an image go through the same messages a second time; running statistics see each image once."""
    pipeline = PipelineConfig(schedule="gpipe", checkpoint="stage")
    config = RunConfig(model=ModelConfig(name="pnn", channels=8), pipeline=pipeline)
    torch.manual_seed(0)
    model = build_network("pnn", config.model).double()
    trial = Trial(torch.randn(5, 3, 64, 48, dtype=torch.float64), num_microbatches=3, config=config)
    reference = run_step(copy.deepcopy(model), trial, make_mesh(Workers()))
    check = run_ranks(check_step, 4, ("sp=2,pp=2", model, trial, reference))[0]
    assert check.errors is not None, check.unsupported
    assert check.errors.largest <= BOUNDS[torch.float64], check.errors

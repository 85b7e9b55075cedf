"""All axes together: one training step on up to 8 workers is the step on one, in float64."""

from __future__ import annotations

import copy

import pytest
import torch

from support.ranks import run_ranks
from ziggurat.config import ModelConfig, PipelineConfig, RunConfig
from ziggurat.config.plan_config import TensorConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.networks import build_network
from ziggurat.verification.step import Trial, run_step

PLANS = {"dp=2,pp=2": 4, "sp=2,pp=2": 4, "dp=2,sp=2,pp=2": 8}
WIDE = {"tp=2,sp=2": 4, "tp=2,pp=2": 4, "fsdp=2,tp=2": 4, "lp=2,tp=2": 4, "dp=2,tp=2,pp=2": 8}


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
        assert len(check.facts["stages"]) == 2


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["fcos-test_resnet-fpn", "smp:fpn/tu-test_resnet"])
def test_products_with_split_layers(name: str) -> None:
    """Each axis has its file and knows nothing of the others: what is exact alone is exact together."""
    config = RunConfig(
        model=ModelConfig(name=name, channels=16, head_depth=2),
        pipeline=PipelineConfig(unit_bytes=1 << 12),
        tensor=TensorConfig(min_width=8),
    )
    torch.manual_seed(0)
    model = build_network(name, config.model).double()
    trial = Trial(torch.randn(5, 3, 61, 64, dtype=torch.float64), num_microbatches=3, config=config)
    reference = run_step(copy.deepcopy(model), trial, make_mesh(Workers()))
    for plan, world in WIDE.items():
        checks = run_ranks(check_step, world, (plan, model, trial, reference))
        assert len({repr(check.errors) for check in checks}) == 1, "all workers have the same verdict"
        errors = checks[0].errors
        assert errors is not None, checks[0].unsupported
        assert errors.largest <= BOUNDS[torch.float64], (plan, errors)
        assert checks[0].facts["splits"]


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

"""What `ziggurat models` says of a model's plans, for its form at full size: the numbers are compared elsewhere."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from ziggurat.commands.models_table import plans_of
from ziggurat.config import RunConfig, override
from ziggurat.models.build import build_model
from ziggurat.models.catalogue import model_names, num_classes_of
from ziggurat.parallel.branches.placement import place, refuse_chain
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.tensor.pairs import find_pairs
from ziggurat.strategies.costs.measure import measure_calls
from ziggurat.strategies.units import find_units

CONFIG = RunConfig()
FEW = ["fcos-resnet18-fpn", "fcos-pnn", "pnn", "timm:regnety_016", "smp:pspnet/resnet34"]
WIDTH_OF = {"smp:pspnet/resnet34": 128}  # it ends its encoder after 128 channels
NAMES = [*FEW, *(pytest.param(n, marks=pytest.mark.slow) for n in model_names() if n not in FEW)]


def built(name: str, device: str) -> nn.Module:
    config = override(CONFIG, {"model.name": name}).model
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")  # initialising what has no memory does nothing, and says so
        return build_model(config, num_classes_of(name)).train()


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_split_and_sharded(name: str) -> None:
    model = built(name, "meta")
    side = max(64, getattr(model, "size_multiple", 1))
    graph = Tracer(model).trace(spec_of(torch.empty(2, 3, side, side)))
    assert {"dp", "sp", "pp", "tp", "fsdp"} <= set(plans_of(name))
    assert find_pairs(graph, model, 2, WIDTH_OF.get(name, CONFIG.tensor.min_width))
    assert find_units(model, (2, 3, side, side), CONFIG.pipeline.unit_bytes).names


BRANCHED = [
    "timm:hrnet_w18",
    "atss-convnext_tiny-fpn",
    "fcos-swin_tiny_patch4_window7_224-fpn",
    "retinanet-pnn",
]


@pytest.mark.parametrize(
    "name", ["fcos-resnet18-fpn", "pnn", *(pytest.param(n, marks=pytest.mark.slow) for n in BRANCHED)]
)
def test_branches_are_placed(name: str) -> None:
    model = built(name, "cpu")
    spec = spec_of(torch.empty(2, 3, 256, 256))
    graph = Tracer(model).trace(spec)
    assert "lp" in plans_of(name)
    refuse_chain(place(graph, measure_calls(model, graph, spec, torch.device("cpu"), backward=False), 2))


def test_a_chain_does_not_list_lp() -> None:
    assert "lp" not in plans_of("timm:resnet18")

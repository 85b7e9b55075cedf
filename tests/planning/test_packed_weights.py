"""The memory of a prediction with packed weights, against predictions that pack them."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ziggurat.config import RunConfig, override
from ziggurat.inference.predictor import Predictor
from ziggurat.models.build import build_model
from ziggurat.planning.record import hollow_model, record_step
from ziggurat.planning.request import read_plan_request
from ziggurat.serving.batches import Noise
from ziggurat.strategies.executor import Executor
from ziggurat.strategies.plan import parse_plan
from ziggurat.torch_internals.containers import tree_leaves
from ziggurat.torch_internals.functions import DispatchMode
from ziggurat.torch_internals.machine import cpu_has_bf16_units
from ziggurat.torch_internals.prepacked import IN_BLOCKS, packed_bytes
from ziggurat.verification.memory import Ledger

pytestmark = pytest.mark.skipif(
    not cpu_has_bf16_units(), reason="nothing is packed without units for bfloat16"
)
SIDE, CLASSES = 160, 3
NETWORKS: dict[str, dict[str, Any]] = {
    "fcos-test_resnet-fpn": {"task": "detect", "model.channels": 80},  # 80 outputs fill blocks for 96
    "smp:unet/tu-test_resnet": {"task": "segment"},
    "retinanet-resnet18-fpn": {"task": "detect", "model.channels": 48},
}


def config_of(name: str) -> RunConfig:
    settings = {"model.name": name, "dtype": "bf16", "device": "cpu", "data.crop": 512, "threads": 1}
    return override(RunConfig(), settings | NETWORKS[name])


class Counting(DispatchMode):
    """Counts tensors, and those in oneDNN's order with what fills up its blocks."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                self.ledger.count(leaf)
            elif isinstance(leaf, Tensor):
                size = packed_bytes(leaf)
                self.ledger._add(size)
                weakref.finalize(leaf, self.ledger._add, -size)
        return result


def predictor_of(name: str) -> Predictor:
    torch.manual_seed(0)
    config = config_of(name)
    return Predictor.of_model(build_model(config.model, CLASSES), config, classes=list("abc"))


def program_of(name: str, packs: bool) -> Any:
    config = config_of(name)
    model = hollow_model(lambda: build_model(config.model, CLASSES), config)
    recorded = record_step(model, config, parse_plan("dp=1"), (1, 3, SIDE, SIDE), 2, "predict", packs=packs)
    (program,) = recorded.programs
    return program


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_of_packed_weights_are_those_of_a_prediction(name: str) -> None:
    predictor, images = predictor_of(name), Noise(3, 3, (SIDE, SIDE))
    packed = predictor.compute().executor.packed
    with predictor.compute().executor.keep_packed():
        predictor.predict(images)
        assert packed.num_packings > 5
        num_bytes = packed.num_bytes
    plain, program = program_of(name, packs=False), program_of(name, packs=True)
    assert program.held_bytes["packed"] == num_bytes > 0
    assert plain.held_bytes["packed"] == 0
    assert plain.held_bytes["weights"] == program.held_bytes["weights"]
    assert program.peak_bytes > plain.peak_bytes + 0.4 * num_bytes


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_peak_is_that_of_a_prediction(name: str) -> None:
    """Of one that is watched by a mode which lets weights be packed: pictures, rows and the loading of images are no part of a plan's memory."""
    predictor = predictor_of(name)
    executor = Executor(
        predictor.model,
        predictor.mesh,
        predictor.compute().executor.runner,
        IN_BLOCKS._replace(watchers=1),
    )
    predictor._compute = replace(predictor.compute(), executor=executor)
    ledger = Ledger([*predictor.model.parameters(), *predictor.model.buffers()])
    with Counting(ledger):
        predictor.predict(Noise(4, 3, (SIDE, SIDE)))
    assert executor.packed.num_packings > 5
    found, plain = program_of(name, packs=True), program_of(name, packs=False)
    read = 4 * 3 * SIDE * SIDE  # samples of images, which a plan does not know
    assert abs(found.peak_bytes - (ledger.peak - read)) <= 0.01 * ledger.peak
    assert plain.peak_bytes < 0.8 * ledger.peak


@pytest.mark.parametrize(
    ("plan", "images", "purpose", "expected"),
    [
        ("dp=1", 2, "predict", True),
        ("dp=1", 1, "predict", False),
        ("dp=2", 2, "predict", False),
        ("dp=2", 3, "predict", True),
        ("dp=1", 4, "train", False),
    ],
)
def test_packed_is_what_a_worker_computes_twice(plan: str, images: int, purpose: str, expected: bool) -> None:
    settings = {"data.crop": 512}
    request = read_plan_request(
        "retinanet-resnet18-fpn", settings, workers="2", shape=f"{images}x3x512x512", purpose=purpose
    )
    assert request.packs(parse_plan(plan)) is expected

"""A hollow step against the same step in truth: the same bytes at the peak of each worker, the same kernels and messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ziggurat.config import RunConfig, override
from ziggurat.planning.hollow import LARGE
from ziggurat.planning.kernels import forms_in
from ziggurat.planning.program import Event, Kernel, Program, Start, Wait
from ziggurat.planning.record import Recorded, hollow_model, record_step
from ziggurat.strategies.plan import parse_plan
from ziggurat.verification.networks import build_network

SMALL: dict[str, Any] = {"model.channels": 32, "train.ema": 0.99, "dtype": "fp32"}

# network, plan, input, microbatches, purpose, settings
CASES: list[tuple[str, str, tuple[int, ...], int, Any, dict[str, Any]]] = [
    ("fcos-test_resnet-fpn", "dp=2", (3, 3, 96, 96), 3, "train", {"train.optimizer": "sgd"}),
    ("fcos-test_resnet-fpn", "sp=2", (1, 3, 96, 96), 1, "train", {}),
    ("smp:unet/tu-test_resnet", "pp=2", (3, 3, 64, 96), 3, "train", {"pipeline.checkpoint": "stage"}),
    ("timm:test_resnet", "fsdp=2", (2, 3, 64, 64), 2, "train", {"dtype": "bf16"}),
    ("smp:fpn/tu-test_resnet", "sp=2", (1, 3, 128, 96), 1, "predict", {}),
]
MORE: list[tuple[str, str, tuple[int, ...], int, Any, dict[str, Any]]] = [
    ("fcos-test_resnet-fpn", "dp=1", (2, 3, 128, 128), 1, "train", {}),
    ("fcos-test_resnet-fpn", "sp=1x2", (2, 3, 128, 128), 1, "train", {}),
    ("fcos-test_resnet-fpn", "sp=2x2", (2, 3, 128, 128), 1, "train", {}),
    ("fcos-test_resnet-fpn", "lp=2", (2, 3, 128, 128), 1, "train", {}),
    ("fcos-test_resnet-fpn", "tp=2", (2, 3, 128, 128), 1, "train", {"tensor.min_width": 32}),
    ("fcos-test_resnet-fpn", "fsdp=2,sp=2", (4, 3, 128, 128), 4, "train", {}),
    ("fcos-test_resnet-fpn", "dp=2,sp=2,pp=2", (4, 3, 128, 128), 4, "train", {}),
    ("retinanet-test_resnet-fpn", "pp=2", (4, 3, 128, 128), 4, "train", {"pipeline.schedule": "gpipe"}),
    ("atss-test_resnet-pafpn", "pp=2", (4, 3, 128, 128), 4, "train", {"pipeline.schedule": "interleaved"}),
    ("smp:unet/tu-test_resnet", "pp=2", (4, 3, 128, 128), 4, "train", {}),
    ("timm:resnet18", "sp=2", (2, 3, 128, 128), 1, "train", {"dtype": "bf16"}),
    ("torchvision:resnet18", "dp=2,sp=2", (4, 3, 128, 128), 2, "train", {}),
    ("smp:unet/tu-test_resnet", "pp=2", (1, 3, 128, 128), 0, "predict", {}),
]  # fmt: skip


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)])
def test_a_hollow_step_is_the_real_one(
    case: tuple[str, str, tuple[int, ...], int, Any, dict[str, Any]],
) -> None:
    name, plan, shape, count, purpose, settings = case
    config = override(RunConfig(), {"model.name": name, **SMALL, **settings})
    torch.manual_seed(0)
    model = hollow_model(lambda: build_network(name, config.model), config)
    hollow = record_step(model, config, parse_plan(plan), shape, count, purpose)

    def really() -> Recorded:
        torch.manual_seed(0)
        model = build_network(name, config.model).to(memory_format=torch.channels_last)
        return record_step(
            model, config, parse_plan(plan), shape, count, purpose, hollow.decisions, hollow=False
        )

    real = really()
    assert hollow.refused is None
    assert real.refused is None
    assert len(hollow.programs) == len(real.programs) == parse_plan(plan).num_workers
    peaks = [one.peak_bytes for one in hollow.programs]
    # pickled objects have some bytes more or less, and a gradient may be copied or not: see `COPY`
    least = [one.peak_bytes for one in real.programs]
    for _ in range(
        TURNS
    ):  # gloo's threads let go of messages when they come to it: the least of some steps is the step's own
        if all(abs(one - other) <= 0.005 * other for one, other in zip(peaks, least, strict=True)):
            break
        least = [min(one, program.peak_bytes) for one, program in zip(least, really().programs, strict=True)]
    for one, other in zip(peaks, least, strict=True):
        assert abs(one - other) <= 0.005 * other
    for one, other in zip(hollow.programs, real.programs, strict=True):
        assert one.held_bytes == other.held_bytes
        assert large_kernels(one) == large_kernels(other)
        if "tp" not in plan:  # whose workers send gradients again if their bits differ
            assert messages_of(one) == messages_of(other)
            assert names_of(one) == names_of(other)


TURNS = 5  # more that the real step takes at most
COPY = "aten.copy_.default"
"""A gradient at an address of one that is gone is copied once more; and gloo's reduce-scatter copies its own piece."""


def names_of(program: Program) -> list[str]:
    """Return what a worker does, in order, without sizes."""
    names = [event.name if isinstance(event, Kernel) else type(event).__name__ for event in program.events]
    return [name for name in names if name != COPY]


def large_kernels(program: Program) -> list[Kernel]:
    """Return the kernels of large tensors; how many small values are chosen by numbers depends on these."""
    return [
        event
        for event in program.events
        if isinstance(event, Kernel)
        and event.name != COPY
        and any(torch.Size(form.shape).numel() > LARGE for form in forms_in(event.arguments))
    ]


def messages_of(program: Program) -> list[Event]:
    """Return messages and waits; of small ones, in which objects travel, not the bytes."""
    found: list[Event] = []
    for event in program.events:
        if isinstance(event, Start):
            sizes = [event.num_bytes, *(count for _, count in (*event.sends, *event.receives))]
            found.append(
                event if max(sizes) > 4 * LARGE else event._replace(sends=(), receives=(), num_bytes=0)
            )
        elif isinstance(event, Wait):
            found.append(event)
    return found

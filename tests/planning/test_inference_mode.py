"""In inference mode PyTorch shows operators before what they are made of: what is noted are the kernels that it calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ziggurat.planning.events import Events
from ziggurat.planning.hollow import Noting
from ziggurat.planning.program import Kernel
from ziggurat.verification.memory import Ledger

MAPS = torch.randn(2, 8, 9, 9)
CALLS: dict[str, Callable[[], Tensor]] = {
    "nearest": lambda: functional.interpolate(MAPS, scale_factor=2),
    "nearest to a size": lambda: functional.interpolate(MAPS, (20, 17)),
    "nearest-exact": lambda: functional.interpolate(MAPS, scale_factor=2, mode="nearest-exact"),
    "bilinear": lambda: functional.interpolate(MAPS, (20, 18), mode="bilinear"),
    "bilinear by corners": lambda: functional.interpolate(
        MAPS, scale_factor=2, mode="bilinear", align_corners=True
    ),
    "antialias": lambda: functional.interpolate(MAPS, (4, 4), mode="bilinear", antialias=True),
    "bicubic": lambda: functional.interpolate(MAPS, scale_factor=2, mode="bicubic"),
    "trilinear": lambda: functional.interpolate(MAPS[None], scale_factor=2, mode="trilinear"),
    "adaptive pooling": lambda: functional.adaptive_avg_pool2d(MAPS, 3),
    "max pooling": lambda: functional.max_pool2d(MAPS, 2),
    "batch norm": lambda: functional.batch_norm(MAPS, torch.zeros(8), torch.ones(8)),
    "group norm": lambda: functional.group_norm(MAPS, 2),
    "instance norm": lambda: functional.instance_norm(MAPS),
    "layer norm": lambda: functional.layer_norm(MAPS, (9,)),
    "linear": lambda: functional.linear(MAPS, torch.randn(5, 9)),
    "attention": lambda: functional.scaled_dot_product_attention(MAPS, MAPS, MAPS),
    "convolution": lambda: functional.conv2d(MAPS, torch.randn(4, 8, 3, 3)),
    "reflection": lambda: functional.pad(MAPS, (1, 1, 1, 1), mode="reflect"),
    "einsum": lambda: torch.einsum("bchw,bdhw->bcd", MAPS, MAPS),
    "softmax": lambda: functional.softmax(MAPS, 1),
    "deviation": lambda: torch.std(MAPS, (2, 3)),
}


def noted(call: Callable[[], Tensor]) -> tuple[list[Kernel], Tensor]:
    events = Events()
    with Noting(events, Ledger()), events.noting():
        result = call()
    return [event for event in events.noted if isinstance(event, Kernel)], result


@pytest.mark.parametrize("name", CALLS)
def test_kernels_are_those_outside_of_inference_mode(name: str) -> None:
    state = torch.get_rng_state()
    with torch.no_grad():
        expected, one = noted(CALLS[name])
    torch.set_rng_state(state)
    with torch.inference_mode():
        found, other = noted(CALLS[name])
    assert expected
    assert found == expected
    assert torch.equal(one, other)

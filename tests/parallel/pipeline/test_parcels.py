"""Tensors of messages: they arrive as they lay, as far as a network can tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from support.verdicts import make_trial, verdict_of
from ziggurat.parallel.pipeline.parcels import Arrival, Message, pack

WHOLE = torch.arange(2 * 3 * 4 * 5, dtype=torch.float64).view(2, 3, 4, 5)
LAST = WHOLE.contiguous(memory_format=torch.channels_last)
KEPT = {
    "contiguous": WHOLE,
    "channels last": LAST,
    "transposed": WHOLE.transpose(1, 3),
    "one channel": WHOLE[:1, :1, :, :].as_strided((1, 1, 4, 5), (7, 3, 5, 1)),
    "one channel, the last": torch.zeros(2, 4, 5, 1, dtype=torch.float64).permute(0, 3, 1, 2),
    "expanded channels": WHOLE[:, :1].contiguous().expand(2, 3, 4, 5),
    "expanded images": LAST[:1].expand(4, 3, 4, 5),
    "expanded rows": LAST[:, :, :1].contiguous(memory_format=torch.channels_last).expand(2, 3, 4, 5),
    "expanded twice": WHOLE[:1, :, :, :1].contiguous().expand(2, 3, 4, 5),
    "a number": torch.tensor(3.0, dtype=torch.float64),
    "an expanded number": torch.tensor(3.0, dtype=torch.float64).expand(2, 3, 4, 5),
    "empty": WHOLE[:, :0],
    "expanded and empty": WHOLE[:, :, :1, :0].expand(2, 3, 4, 0),
}
WITH_GAPS = {
    "columns": WHOLE[..., 1:],
    "columns of channels last": LAST[..., 1:],
    "channels of channels last": LAST[:, 1:],
    "every second row": WHOLE[:, :, ::2],
    "expanded channels with gaps": WHOLE[:, :1].expand(2, 3, 4, 5),
    "expanded columns with gaps": LAST[:, 1:, :, :1].expand(2, 2, 4, 5),
    "windows": WHOLE.view(-1).unfold(0, 20, 10).unflatten(1, (4, 5)),
}


def sent(tensor: Tensor) -> tuple[Tensor, int]:
    """Return a tensor as it arrives, and how many elements travelled."""
    device = torch.device("cpu")
    parcel = pack(Message({"x": tensor}), device)
    arrival = Arrival(device, None)
    arrival.head.copy_(parcel.head)
    for there, here in zip(arrival.rest(), parcel.rest, strict=True):
        there.copy_(here)
    for there, here in zip(arrival.body(), parcel.body, strict=True):
        there.copy_(here)
    found = arrival.message().tensors["x"]
    assert found is not None
    return found, sum(one.numel() for one in parcel.body)


@pytest.mark.parametrize("name", KEPT)
def test_what_has_no_gaps_arrives_with_its_strides(name: str) -> None:
    found, count = sent(KEPT[name])
    assert torch.equal(found, KEPT[name])
    if found.numel():
        assert found.stride() == KEPT[name].stride()
        once = found[tuple(slice(1) if stride == 0 else slice(None) for stride in found.stride())]
        assert count == once.numel()
    else:
        assert count == 0


@pytest.mark.parametrize("name", [*KEPT, *WITH_GAPS])
def test_what_is_made_of_it_lies_in_the_same_order(name: str) -> None:
    tensor = {**KEPT, **WITH_GAPS}[name]
    found, _ = sent(tensor)
    assert torch.equal(found, tensor)
    assert torch.empty_like(found).stride() == torch.empty_like(tensor).stride()
    assert (found * 2).stride() == (tensor * 2).stride()
    for other in (
        torch.zeros(tensor.shape),
        torch.zeros(tensor.shape[::-1]).permute(tuple(range(tensor.dim())[::-1])),
    ):
        assert (found + other).stride() == (tensor + other).stride()
        assert (other + found).stride() == (other + tensor).stride()


class DropsExpanded(nn.Module):
    """Draws for a map of one channel that is expanded to many."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Conv2d(3, 4, 1), nn.Dropout(0.4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(self.drop(torch.broadcast_to(y[:, :1], y.shape)))


def test_random_numbers_for_what_is_expanded_are_those_of_one_worker() -> None:
    torch.manual_seed(0)
    verdict = verdict_of(DropsExpanded().double(), "pp=2", make_trial(cut="drop"))
    assert verdict.is_exact, verdict

"""What fsdp gathers as one piece is found without a pass of the network, where its form alone says it."""

import pytest
import torch
from torch import Tensor, nn

from ziggurat.strategies.units import find_units


class _Block(nn.Sequential):
    """Notes the images that it is run on; may look at their values."""

    def __init__(self, looks: bool) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        self.looks = looks
        self.seen: list[torch.device] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.device)
        if self.looks and x.sum() > 0:
            raise AssertionError("a black image has no bright pixel")
        return super().forward(x)


def test_the_weights_are_not_used() -> None:
    model = nn.Sequential(_Block(looks=False), nn.Conv2d(8, 4, 1)).double()
    assert find_units(model, (2, 3, 8, 8), unit_bytes=500).names == ["0.0"]
    assert model[0].seen == [], "a copy without memory was run"


def test_a_network_that_looks_at_values_is_run() -> None:
    model = nn.Sequential(_Block(looks=True), nn.Conv2d(8, 4, 1)).double()
    random = torch.get_rng_state()
    assert find_units(model, (2, 3, 8, 8), unit_bytes=500).names == ["0.0"]
    assert model[0].seen == [torch.device("cpu")]
    assert torch.equal(torch.get_rng_state(), random)
    assert int(model[0][1].num_batches_tracked) == 0
    assert model[0][1].running_mean.eq(0).all()


class _Reaches(nn.Module):
    """Uses the weights of a layer that does not run, itself and inside a layer that is one call."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(8, 8)
        self.other = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.linear(self.own(x), self.other.weight)
        return self.attention(x, x, x)[0]


def test_what_lies_in_a_layer_that_is_one_call_is_seen() -> None:
    """Attention reaches into its projection, which never runs itself: they are gathered together."""
    assert find_units(_Reaches(), (2, 4, 8), unit_bytes=100).names == ["attention", "own"]


class _CannotBeCopied(nn.Sequential):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("it holds what cannot be copied")


def test_a_network_that_cannot_be_copied_is_run() -> None:
    model = _CannotBeCopied(_Block(looks=False), nn.Conv2d(8, 4, 1))
    assert find_units(model, (2, 3, 8, 8), unit_bytes=500).names == ["0.0"]
    assert model[0].seen == [torch.device("cpu")]


class _Stage(nn.Module):
    """Begins with two branches; or with one, beside which its input may be added."""

    def __init__(self, begins: str) -> None:
        super().__init__()
        self.first, self.second, self.begins = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), begins

    def forward(self, x: Tensor) -> Tensor:
        if self.begins == "two branches":
            return self.first(x) + self.second(x)
        if self.begins == "a branch and a sum":
            return self.second(self.first(x)) + x
        return self.second(self.first(x))


class _Pyramid(nn.Module):
    def __init__(self, begins: str, goes_elsewhere: str) -> None:
        super().__init__()
        self.stem, self.stage, self.lateral = nn.Conv2d(3, 4, 1), _Stage(begins), nn.Conv2d(4, 4, 1)
        self.goes = goes_elsewhere

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        if self.goes == "to a layer":
            return [self.lateral(x), self.stage(x)]
        return [self.stage(x), x] if self.goes == "to the outputs" else [self.lateral(self.stage(x))]


@pytest.mark.parametrize("begins", ["two branches", "a branch and a sum", "one branch"])
@pytest.mark.parametrize("goes", ["to a layer", "to the outputs", "nowhere"])
def test_what_would_be_added_up_in_another_order_is_no_unit(begins: str, goes: str) -> None:
    names = find_units(_Pyramid(begins, goes), (2, 3, 8, 8), unit_bytes=100).names
    adds_first = begins != "one branch" and goes != "nowhere"
    assert names == ([] if adds_first else ["stage"])


def test_layers_of_a_stage_that_is_no_unit_are_units() -> None:
    names = find_units(_Pyramid("two branches", "to a layer"), (2, 3, 8, 8), unit_bytes=50).names
    assert names == ["lateral", "stage.second", "stage.first", "stem"]

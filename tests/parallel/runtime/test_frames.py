"""The layer that is being computed is named from the stack alone."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from ziggurat.parallel.runtime.frames import innermost_layer, known_layer, layers_on_stack


class _Asks(nn.Module):
    """Asks inside a helper, which is a method, too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, str] = {}
        self.answers: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        self._ask()
        return x

    def _ask(self) -> None:
        assert next(layers_on_stack(sys._getframe())) is self
        self.answers = [known_layer(self.names), innermost_layer(sys._getframe())]


def _model() -> tuple[nn.Module, _Asks]:
    asks = _Asks()
    return nn.Sequential(nn.ReLU(), nn.Sequential(asks)), asks


def test_the_innermost_layer_with_a_name_is_found() -> None:
    model, asks = _model()
    for known, wanted in (
        (("1.0",), "1.0"),
        (("1",), "1"),
        (("",), "Sequential"),
        ((), "?"),
    ):
        asks.names = {id(layer): name for name, layer in model.named_modules() if name in known}
        model(torch.zeros(1))
        assert asks.answers == [wanted, "1.0"]


def test_there_is_none_outside_of_a_network() -> None:
    assert innermost_layer(sys._getframe()) == ""
    assert innermost_layer(None) == ""
    assert known_layer({}) == "?"

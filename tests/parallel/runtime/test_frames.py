"""The layer that is being computed is named from the stack alone."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from ziggurat.parallel.runtime.frames import (
    innermost_layer,
    known_layer,
    layers_on_stack,
    line_of_network,
)


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


def test_the_line_of_the_networks_code_is_named() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> str:
            return line_of_network()

    line = Inner()(torch.zeros(1))
    assert line == f"{__file__}:{Inner.forward.__code__.co_firstlineno + 1}"


def test_what_runs_networks_is_no_network() -> None:
    """PyTorch's own frames and the engine's are passed over; a frame of ours that calls the engine ends the search."""
    code = compile("def call(function):\n    return function()", "engine.py", "exec")
    for module, wanted in (
        ("ziggurat.parallel.spatial.dispatch", __file__),
        ("torch.nn.modules.container", __file__),
        ("ziggurat.training.step", ""),
        ("ziggurat.models.fpn", "engine.py"),
    ):
        space: dict[str, object] = {"__name__": module}
        exec(code, space)
        assert space["call"](line_of_network).partition(":")[0] == wanted  # type: ignore[operator]

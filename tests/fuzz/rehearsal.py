"""The shapes of a program's variables, found without values."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from fuzz.program import INPUT, NAMES, NOT_FITTING, Program


def shapes_of(program: Program) -> dict[str, tuple[int, ...]]:
    """Return the shape of each variable that is a tensor, as far as the program runs without values."""
    network = nn.Module()
    images = torch.empty(program.shape, dtype=torch.float64, device="meta", requires_grad=True)
    values: dict[str, Any] = {**NAMES, "self": network, INPUT: images}
    shapes = {INPUT: tuple(images.shape)}
    for one in program.statements:
        source = [*one.setup, "self.double()"] if one.setup else []
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                exec("\n".join([*source, *one.lines(rehearsed=True)]), values)
        except NOT_FITTING:
            return shapes
        if isinstance(values.get(one.target), Tensor):
            shapes[one.target] = tuple(values[one.target].shape)
    return shapes

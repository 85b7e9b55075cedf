"""The plan: the degrees of the mesh axes, which say where each piece of a step is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ziggurat.errors import UserError, nearest

AXES = {
    "dp": "data parallel",
    "fsdp": "data parallel with sharded weights",
    "sp": "spatial parallel",
    "pp": "pipeline parallel",
    "tp": "tensor parallel",
    "lp": "level parallel",
}
AVAILABLE = ("dp",)


@dataclass(frozen=True)
class Plan:
    """Degrees of the mesh axes.

    Attributes:
        dp: Workers that the samples of a step are spread over.
    """

    dp: int = 1

    @property
    def num_workers(self) -> int:
        """The product of all degrees."""
        return math.prod((self.dp,))

    def __str__(self) -> str:
        return f"dp={self.dp}"


def parse_plan(text: str) -> Plan:
    """Read a plan such as ``dp=2``.

    Raises:
        UserError: Listing every axis that is unknown, not available or without a positive degree.

    Example:
        >>> parse_plan("dp=3").num_workers
        3
    """
    faults, degrees = [], {}
    for item in text.split(","):
        axis, _, degree = (part.strip() for part in item.partition("="))
        if axis not in AXES:
            faults.append(f"unknown axis '{axis}' in the plan '{text}': {nearest(axis, list(AXES))}")
        elif axis not in AVAILABLE:
            faults.append(f"{AXES[axis]} ({axis}) is not available yet: use {', '.join(AVAILABLE)}")
        elif axis in degrees:
            faults.append(f"the plan '{text}' names the axis {axis} twice")
        elif not degree.isdecimal() or int(degree) < 1:
            faults.append(f"the degree of {axis} must be a positive whole number: got '{degree}' in '{text}'")
        else:
            degrees[axis] = int(degree)
    if faults:
        raise UserError(faults)
    return Plan(**degrees)

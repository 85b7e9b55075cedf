"""The plan: the degrees of the mesh axes, which say where each piece of a step is computed."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass

from ziggurat.errors import UserError, nearest

AXES = ("dp", "fsdp", "sp", "pp", "tp", "lp")  # as docs/axes.md explains them


@dataclass(frozen=True)
class Plan:
    """Degrees of the mesh axes.

    Attributes:
        dp: Workers that the samples of a step are spread over.
        sp: Workers that each image is cut over: along its rows, and where there is a second number along its columns.
        pp: Workers that consecutive parts of the network are spread over.
        lp: Workers that parallel branches of the network are spread over.
        tp: Workers that wide layers of the network are spread over.
        fsdp: Workers that the samples of a step and the weights are spread over; takes the place of dp.
    """

    dp: int = 1
    sp: tuple[int, ...] = (1,)
    pp: int = 1
    lp: int = 1
    tp: int = 1
    fsdp: int = 1

    @property
    def num_data(self) -> int:
        """Workers that the samples of a step are spread over."""
        return self.dp * self.fsdp

    def spread_over(self, num_data: int) -> Plan:
        """Return the plan with another number of workers that the samples of a step are spread over.

        Example:
            >>> str(parse_plan("fsdp=4,sp=2").spread_over(3))
            'fsdp=3,sp=2'
        """
        if self.fsdp > 1:
            return dataclasses.replace(self, fsdp=num_data)
        return dataclasses.replace(self, dp=num_data)

    @property
    def num_spatial(self) -> int:
        """Workers that share an image."""
        return math.prod(self.sp)

    @property
    def num_of_one(self) -> int:
        """Workers that compute a microbatch together."""
        return self.pp * self.lp * self.num_spatial * self.tp

    @property
    def num_workers(self) -> int:
        """The product of all degrees."""
        return self.num_data * self.num_of_one

    def __str__(self) -> str:
        texts = {
            "dp": str(self.dp),
            "fsdp": str(self.fsdp),
            "sp": "x".join(map(str, self.sp)),
            "pp": str(self.pp),
            "lp": str(self.lp),
            "tp": str(self.tp),
        }
        return ",".join(f"{axis}={text}" for axis, text in texts.items() if text != "1") or "dp=1"


def parse_plan(text: str) -> Plan:
    """Read a plan such as ``dp=2``, ``sp=2`` (bands of rows), ``sp=2x2`` (tiles), ``pp=2`` (parts of the network) or ``dp=2,sp=1x2``.

    Raises:
        UserError: Listing every axis that is unknown or without a positive degree, and those that do not go together.

    Example:
        >>> plan = parse_plan("dp=3,sp=2x1")
        >>> plan.num_workers, str(plan)
        (6, 'dp=3,sp=2')
    """
    faults = []
    degrees: dict[str, tuple[int, ...]] = {}
    for item in text.split(","):
        axis, _, degree = (part.strip() for part in item.partition("="))
        if axis not in AXES:
            faults.append(f"unknown axis '{axis}' in the plan '{text}': {nearest(axis, AXES)}")
        elif axis in degrees:
            faults.append(f"the plan '{text}' names the axis {axis} twice")
        elif not re.fullmatch(
            r"[0-9]+(x[0-9]+)?" if axis == "sp" else r"[0-9]+", degree
        ) or "0" in degree.split("x"):
            forms = ", or rows x columns such as 2x2" if axis == "sp" else ""
            faults.append(
                f"the degree of {axis} must be a positive whole number{forms}: got '{degree}' in '{text}'"
            )
        else:
            degrees[axis] = tuple(map(int, degree.split("x")))
    one = {axis: degrees[axis][0] for axis in ("dp", "pp", "lp", "tp", "fsdp") if axis in degrees}
    sp = degrees.get("sp", (1,))
    plan = Plan(sp=sp[:1] if sp[-1] == 1 else sp, **one)
    faults += _product_faults(plan, text)
    if faults:
        raise UserError(faults)
    return plan


def _product_faults(plan: Plan, text: str) -> list[str]:
    """Return which axes do not go together."""
    faults = []
    if plan.lp > 1 and plan.pp > 1:
        faults.append(f"lp does not go with pp: got '{text}'; use one of them, with dp and sp")
    if plan.tp > 1 and plan.num_workers != plan.dp * plan.tp:
        faults.append(f"tp goes with dp alone: got '{text}'; leave out the other axes")
    if plan.fsdp > 1 and plan.num_workers != plan.fsdp * plan.num_spatial:
        faults.append(
            f"fsdp spreads samples as dp does, and goes with sp alone: got '{text}'; use fsdp={plan.fsdp * plan.dp} "
            "without other axes than sp, or leave out fsdp"
        )
    return faults

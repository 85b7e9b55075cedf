"""The plan: the degrees of the mesh axes, which say where each piece of a step is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ziggurat.config.values import shown
from ziggurat.errors import UserError, nearest
from ziggurat.strategies.estimate import StepCost
from ziggurat.strategies.registry import STRATEGIES


class Plan:
    """Degrees of the mesh axes, which `docs/axes.md` explains.

    Args:
        degrees: Of each axis: workers, or where the axis takes a grid workers along each of its dims. 1 is left out.

    Attributes:
        degrees: Of each axis that has more than one worker, in the registry's order.

    Example:
        >>> plan = Plan(sp=(2, 1), dp=3)
        >>> plan.num_workers, str(plan), plan.size("pp")
        (6, 'dp=3,sp=2', 1)
    """

    def __init__(self, **degrees: int | tuple[int, ...]) -> None:
        grids = {axis: (d,) if isinstance(d, int) else d for axis, d in degrees.items()}
        self.degrees: Mapping[str, tuple[int, ...]] = {
            axis: grids[axis][:1] if grids[axis][1:] == (1,) else grids[axis]
            for axis in STRATEGIES
            if math.prod(grids.get(axis, ())) > 1
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.degrees == other.degrees

    def __hash__(self) -> int:
        return hash(tuple(self.degrees.items()))

    def __repr__(self) -> str:
        return f"Plan({self})"

    def __str__(self) -> str:
        texts = (f"{axis}={'x'.join(map(str, degrees))}" for axis, degrees in self.degrees.items())
        return ",".join(texts) or "dp=1"

    def size(self, axis: str) -> int:
        """Return the workers along an axis."""
        return math.prod(self.degrees.get(axis, (1,)))

    @property
    def sizes(self) -> dict[str, int]:
        """Workers along each axis that has more than one."""
        return {axis: self.size(axis) for axis in self.degrees}

    @property
    def num_workers(self) -> int:
        """The product of all degrees."""
        return math.prod(self.sizes.values())

    @property
    def num_data(self) -> int:
        """Workers that the samples of a step are spread over."""
        return math.prod(size for axis, size in self.sizes.items() if STRATEGIES[axis].spreads_samples)

    @property
    def num_of_one(self) -> int:
        """Workers that compute a microbatch together."""
        return self.num_workers // self.num_data

    @property
    def data_axis(self) -> str:
        """The axis that the samples of a step are spread over."""
        return next((axis for axis in self.degrees if STRATEGIES[axis].spreads_samples), "dp")

    @property
    def num_microbatches(self) -> int:
        """The fewest microbatches of a step that leave no worker idle all the time."""
        return math.prod(size for axis, size in self.sizes.items() if STRATEGIES[axis].wants_microbatches)

    @property
    def num_dims(self) -> int:
        """Spatial dims that images are cut along: the first so many."""
        return max(
            (len(d) for axis, d in self.degrees.items() if STRATEGIES[axis].parts_of_images), default=0
        )

    def estimate(self, cost: StepCost) -> StepCost:
        """Return roughly what a step costs a worker under the plan, from what it costs one worker.

        Samples are spread first: the other axes share the microbatches that are left to a worker.

        Example:
            >>> alone = StepCost(seconds=8, num_microbatches=4, weight_bytes=10, kept_bytes=30, activation_bytes=60)
            >>> cost = parse_plan("dp=2,pp=2").estimate(alone)
            >>> cost.seconds, cost.num_microbatches, cost.peak_bytes, cost.bytes_sent
            (3.0, 2, 80.0, 10.0)
        """
        for axis, size in sorted(
            self.sizes.items(), key=lambda item: not STRATEGIES[item[0]].spreads_samples
        ):
            cost = STRATEGIES[axis].estimate(cost, size)
        return cost

    @property
    def frees_storage(self) -> bool:
        """Whether memory of tensors that live on is freed while a model runs."""
        return any(STRATEGIES[axis].frees_storage for axis in self.degrees)

    @property
    def has_timeline(self) -> bool:
        """Whether workers take turns with parts of the network, so that a picture of their time tells something."""
        return any(STRATEGIES[axis].takes_turns for axis in self.degrees)

    def spread_over(self, num_data: int) -> Plan:
        """Return the plan with another number of workers that the samples of a step are spread over.

        Example:
            >>> str(parse_plan("fsdp=4,sp=2").spread_over(3))
            'fsdp=3,sp=2'
        """
        degrees: dict[str, int | tuple[int, ...]] = {**self.degrees, self.data_axis: num_data}
        return Plan(**degrees)


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
        grid = axis in STRATEGIES and STRATEGIES[axis].takes_grid
        if axis not in STRATEGIES:
            faults.append(
                f"unknown axis {shown(axis)} in the plan {shown(text)}: {nearest(axis, list(STRATEGIES))}"
            )
        elif axis in degrees:
            faults.append(f"the plan {shown(text)} names the axis {axis} twice")
        elif not re.fullmatch(
            r"[0-9]{1,6}(x[0-9]{1,6})?" if grid else r"[0-9]{1,6}", degree
        ) or "0" in degree.split("x"):
            forms = ", or rows x columns such as 2x2" if grid else ""
            faults.append(
                f"the degree of {axis} must be a positive whole number{forms}: got {shown(degree)} in {shown(text)}"
            )
        else:
            degrees[axis] = tuple(map(int, degree.split("x")))
    plan = Plan(**degrees)
    for axis in plan.degrees:
        faults += STRATEGIES[axis].faults(plan.sizes, text)
    if faults:
        raise UserError(faults)
    return plan

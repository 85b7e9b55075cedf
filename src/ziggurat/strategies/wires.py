"""Which plans go with which numbers on the wire.

The wire is a part of what defines a run, as the number of microbatches is: every node of the canonical sum is rounded to it, on one
worker, too. So it is refused where gradients are not added up in that sum, not where nobody is there to send them to.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ziggurat.parallel.collectives.wire import WIRES
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.registry import STRATEGIES

SETTING = "plan.wire"


def wire_fault(name: str, plan: Plan, dtypes: Iterable[torch.dtype] = ()) -> str | None:
    """Return why a plan does not go with a wire; None if it does.

    Args:
        name: Of the wire.
        plan: The workers.
        dtypes: Of the trained parameters, where they are known.

    Example:
        >>> from ziggurat.strategies.plan import parse_plan
        >>> wire_fault("bf16", parse_plan("dp=2,sp=2")) is None
        True
    """
    wire = WIRES[name]
    if not wire.is_narrow:
        return None
    others = [axis for axis in plan.degrees if not STRATEGIES[axis].rounds_gradients]
    if others:
        return (
            f"{SETTING}={name} rounds the nodes of the canonical sum, in which {' and '.join(others)} does not add up gradients: "
            f"got the plan {plan}; take dp in its place, or a run with {SETTING}=fp32"
        )
    wide = sorted({str(dtype)[6:] for dtype in dtypes} - {"float32"})
    if wide:
        return (
            f"{SETTING}={name} rounds gradients that are float32: weights are {', '.join(wide)}; leave it out"
        )
    return None

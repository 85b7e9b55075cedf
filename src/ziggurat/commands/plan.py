"""`ziggurat plan`: looks for the fastest plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ziggurat.planning.finding import find_plans
from ziggurat.planning.place import tools_of
from ziggurat.planning.request import read_plan_request
from ziggurat.runs.progress import Stages


def plan(model: str, settings: Mapping[str, Any] | None = None, **asked: Any) -> dict[str, Any]:
    """Look for the fastest plan of a network, as `ziggurat plan` does.

    Args:
        model: Name of a network, or a run.
        settings: From dotted names to values.
        asked: See `read_plan_request`.

    Returns:
        The fields of the command's JSON object.

    Raises:
        UserError: If the input is wrong, or the network does not take a step on one worker either.
    """
    request = read_plan_request(model, settings or {}, **asked)
    with Stages(f"plan {request.name}") as stages:
        tools = tools_of(request, stages, learns=True)
        try:
            _, result = find_plans(request, tools.judge, tools.measure, stages)
        finally:
            tools.keep()
    return {**result, "beside_kernels": tools.beside}

"""What can be built, and how it can be spread over workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ziggurat.models.build import family_of
from ziggurat.models.catalogue import model_names, num_parameters_of
from ziggurat.strategies.registry import STRATEGIES


def list_models(text: str = "") -> Iterator[dict[str, Any]]:
    """Yield ``name``, ``task``, ``parameters`` and ``plans`` of each model whose name holds `text`.

    The number of classes is that of COCO, ImageNet or VOC. Any axis of a product may be refused for images that are too
    small for it.
    """
    for name in model_names():
        if text in name:
            yield {
                "name": name,
                "task": family_of(name).task,
                "parameters": num_parameters_of(name),
                "plans": plans_of(name),
            }


def plans_of(name: str) -> list[str]:
    """Return the axes of a plan that a listed model can be spread over.

    An axis that needs branches is listed for networks that have them by their form: heads on the levels of a pyramid, image
    pyramids, HRNet. It takes any other whose branches are large enough when they are measured.
    """
    branched = family_of(name).has_branches(name)
    return [axis for axis, strategy in STRATEGIES.items() if branched or not strategy.needs_branches]

"""What can be built, by building it: the table of the models of the house is made so, and models of others are listed so.

``python -m ziggurat.commands.models_table`` writes the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from ziggurat.commands.models import TABLE
from ziggurat.models.build import family_of
from ziggurat.models.catalogue import model_names, num_parameters_of
from ziggurat.strategies.registry import STRATEGIES


def built_models(wanted: Callable[[str], bool] = lambda name: True) -> Iterator[dict[str, Any]]:
    """Yield a row, as in the table, of each listed model whose name is wanted."""
    for name in model_names():
        if wanted(name):
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


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(row) for row in built_models())
    TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")

"""Models of a program's own, by a name: a function that builds one in the place of ``--model``."""

from __future__ import annotations

from collections.abc import Callable

from ziggurat.errors import UserError
from ziggurat.models.families import FAMILIES, Family, register_family
from ziggurat.models.vision import VisionModel

PREFIX = "own:"
_FACTS = ("task", "num_classes", "mean", "std", "size_multiple", "class_layers")

Build = Callable[[int], VisionModel]
_BUILDERS: dict[str, Build] = {}


def register_model(build: Build, name: str = "") -> str:
    """Give a function that builds models a name, and return what stands for it as ``model.name``: ``own:NAME``.

    A name that is given again stands for the newer function. To evaluate or predict with a run in another program, register its model there.

    Args:
        build: Takes the number of classes, and returns a model with random weights.
        name: Its name; empty takes the function's.

    Raises:
        UserError: If what it builds is no `VisionModel`; names what it does not declare.
    """
    full = PREFIX + (name or getattr(build, "__name__", type(build).__name__)).strip("<>")
    model = build(2)
    lacking = [one for one in _FACTS if not hasattr(model, one)]
    if lacking:
        raise UserError(
            f"a model must declare {', '.join(_FACTS)} (ziggurat.models.vision.VisionModel): that of {full} lacks "
            f"{', '.join(lacking)}"
        )
    _BUILDERS[full] = build
    if full not in FAMILIES:
        register_family(
            full, Family(model.task, lambda one: one == full, lambda _, count: _BUILDERS[full](count))
        )
    return full


def registered_models() -> dict[str, Build]:
    """Return all functions by their names, for processes that are started anew."""
    return dict(_BUILDERS)

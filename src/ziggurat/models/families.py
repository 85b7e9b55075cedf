"""Families of models: all models whose names are of one form, with what they are for and how they are built.

A family from outside is registered as ours are (in `build`), by a script (`register_family`) or by a package (the group of
entry points ``ziggurat.models``); see `ziggurat.config.registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ziggurat.config import ModelConfig
from ziggurat.config.registry import Registry
from ziggurat.models.vision import VisionModel


@dataclass(frozen=True)
class Family:
    """Models whose names are of one form.

    Attributes:
        task: The name of the task that they are for.
        recognises: Whether a name is of the form; what is wrong with its parts is for `build` to say.
        build: Builds a model with random weights, from its config and the number of classes.
        num_classes: Classes of a model that is listed or verified.
        names: Returns the names that are listed.
        outline: Does what `build` does, called where nothing gets memory (``torch.device("meta")``); may share parts of its
            models. None takes `build`.
        settings: Returns what a config says of the model of a name besides its name and weights, by dotted names, or sections with
            a dot behind; None does not say.
        has_branches: Whether the network of a name has branches by its form, which lp computes at the same time.
    """

    task: str
    recognises: Callable[[str], bool]
    build: Callable[[ModelConfig, int], VisionModel]
    num_classes: int = 10
    names: Callable[[], list[str]] = list
    outline: Callable[[ModelConfig, int], VisionModel] | None = None
    settings: Callable[[str], tuple[str, ...]] | None = None
    has_branches: Callable[[str], bool] = lambda name: False


FAMILIES: Registry[Family] = Registry("family of models", "ziggurat.models")


def register_family(name: str, family: Family) -> Family:
    """Give a family a name in `FAMILIES`; its models are looked for before ours.

    Raises:
        UserError: If another family has the name.
    """
    return FAMILIES.register(name, family)

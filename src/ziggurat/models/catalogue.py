"""What can be built: the models of our own, by name."""

from __future__ import annotations

import warnings

import torch

from ziggurat.config import ModelConfig
from ziggurat.models.build import family_of
from ziggurat.models.families import FAMILIES


def model_names() -> list[str]:
    """Return the name of every model that is listed."""
    return [name for family in FAMILIES.values() for name in family.names()]


def num_classes_of(name: str) -> int:
    """Return the classes that a model is listed and verified with."""
    return family_of(name).num_classes


def num_parameters_of(name: str) -> int:
    """Return the parameters of a listed model, which is built without memory for its weights."""
    config, family = ModelConfig(name=name), family_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # initialising what has no memory does nothing, and says so
        with torch.device("meta"):
            model = (family.outline or family.build)(config, family.num_classes)
    return sum(parameter.numel() for parameter in model.parameters())

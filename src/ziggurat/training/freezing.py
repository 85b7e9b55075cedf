"""Parts of a network that are not trained: their weights stay as they are loaded."""

from __future__ import annotations

from torch import nn

from ziggurat.config import RunConfig
from ziggurat.errors import UserError, nearest
from ziggurat.training.parameter_groups import backbone_names

BACKBONE = "backbone"  # in the words of `parameter_groups`, whatever its module is called


def freeze(model: nn.Module, parts: str) -> int:
    """Let an optimizer see nothing of some parts of a model; return how many weights these have.

    Args:
        model: Changed.
        parts: Names of modules or parameters with commas between, or ``backbone``; empty for none.

    Raises:
        UserError: If there is no such part, or nothing is left to be trained.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        >>> freeze(model, "0"), [parameter.requires_grad for parameter in model.parameters()]
        (8, [False, False, True, True])
    """
    named = dict(model.named_parameters())
    chosen: set[str] = set()
    for part in (text.strip() for text in parts.split(",") if text.strip()):
        own = {name for name in named if name == part or name.startswith(f"{part}.")}
        own = own or (backbone_names(model) if part == BACKBONE else set())
        if not own:
            known = [BACKBONE, *(name for name, _ in model.named_modules() if name)]
            raise UserError(f"train.freeze names no part of the network: '{part}'; {nearest(part, known)}")
        chosen |= own
    if chosen and not any(named[name].requires_grad for name in named.keys() - chosen):
        raise UserError(f"train.freeze={parts} leaves nothing to be trained: name fewer parts")
    for name in chosen:
        named[name].requires_grad_(False)
    return sum(named[name].numel() for name in chosen)


def freezing_notes(config: RunConfig, has_batch_norms: bool) -> list[str]:
    """Return what is said of frozen parts that are hardly meant so.

    Args:
        config: Of the run.
        has_batch_norms: Whether the network has any.
    """
    if not config.train.freeze:
        return []
    notes = []
    if config.model.weights == "none":
        notes.append(f"train.freeze={config.train.freeze} keeps random weights as they are: give --weights")
    if config.model.norm == "batch" and has_batch_norms:
        notes.append(
            "batch norms of frozen parts use the statistics of each microbatch, and their running statistics go on: "
            "model.norm=frozen keeps those that were loaded"
        )
    return notes

"""What can be built, from a table: building all of it takes a minute, reading takes no time."""

from __future__ import annotations

import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name(
    "models.json"
)  # by python -m ziggurat.commands.models_table; a test keeps it true


def house_models() -> list[dict[str, Any]]:
    """Return ``name``, ``task``, ``parameters`` and ``plans`` of each model of the house that is listed.

    The number of classes is that of COCO, ImageNet or VOC. Any axis of a product may be refused for images that are too
    small for it.
    """
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return rows


def has_other_families() -> bool:
    """Whether there may be models of others: of installed packages, or of a script, which has imported the registry then."""
    return bool(entry_points(group="ziggurat.models")) or "ziggurat.models.families" in sys.modules

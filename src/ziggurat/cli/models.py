"""``ziggurat models``: list what can be built."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ziggurat.cli.options import DONE, Outcome
from ziggurat.commands.models import has_other_families, house_models

HELP = "list what can be built"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("--filter", metavar="TEXT", default="", help="only names that hold this text")


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    rows = []
    for row in _found(options.filter):
        rows.append(row)
        if not options.json:
            plans = ", ".join(row["plans"])
            print(f"{row['name']:45} {row['task']:8} {row['parameters'] / 1e6:8.1f} M  {plans}", flush=True)
    if not rows and not options.json:
        print(f"no listed model's name holds '{options.filter}': without --filter all are listed")
    return Outcome(DONE, {"models": rows})


def _found(text: str) -> Iterator[dict[str, Any]]:
    """Yield the models whose names hold a text, those of the house first."""
    listed = house_models()
    yield from (row for row in listed if text in row["name"])
    if has_other_families():
        from ziggurat.commands.models_table import built_models  # imports PyTorch and timm: seconds

        known = {row["name"] for row in listed}
        yield from built_models(lambda name: text in name and name not in known)

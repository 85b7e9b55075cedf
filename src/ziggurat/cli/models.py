"""``ziggurat models``: list what can be built."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DONE, Outcome

HELP = "list what can be built"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("--filter", metavar="TEXT", default="", help="only names that hold this text")


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.models import list_models

    rows = []
    for row in list_models(options.filter):
        rows.append(row)
        if not options.json:
            plans = ", ".join(row["plans"])
            print(f"{row['name']:45} {row['task']:8} {row['parameters'] / 1e6:8.1f} M  {plans}", flush=True)
    if not rows and not options.json:
        print(f"no listed model's name holds '{options.filter}': without --filter all are listed")
    return Outcome(DONE, {"models": rows})

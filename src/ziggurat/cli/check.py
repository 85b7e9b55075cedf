"""``ziggurat check``: list every fault of a data set."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DATA_HELP, DONE, NO, Outcome, add_settings, settings_from
from ziggurat.config import RunConfig, override

HELP = "list every fault of a data set"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("data", metavar="DATA", help=DATA_HELP)
    add_settings(command, [])


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.check import check

    result = check(options.data, override(RunConfig(), settings_from(options)).data)
    if not options.json:
        for fault in result["faults"]:
            place = "" if fault["id"] is None else f" [{fault['id']}]"
            print(f"{fault['file']}{place}: {fault['fault']}")
        for note in result["notes"]:
            print(f"note: {note}")
        splits = "; ".join(
            f"{split}: {counts['images']} images, {counts['annotations']} annotations"
            for split, counts in result["splits"].items()
        )
        print(
            f"{result['format']} (to {', '.join(result['tasks'])}); {splits}; classes: {', '.join(result['classes'])}; "
            f"{len(result['faults'])} faults"
        )
    return Outcome(DONE if result["ok"] else NO, result)

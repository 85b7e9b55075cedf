"""``ziggurat report``: make the report of a run again, or one on other data."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DONE, RUN_HELP, SPLITS, Outcome, add_settings, settings_from

HELP = "make the report of a run again, or one on other data"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("run", metavar="RUN", help=RUN_HELP)
    command.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="what it is measured on (default: what the run was evaluated on)",
    )
    command.add_argument(
        "--split", choices=SPLITS, default="val", help="which images of DATA (default: %(default)s)"
    )
    add_settings(command, ["--plan", "--threads"])
    command.add_argument("--out", metavar="DIR", help="default: report, or report-step-400, of the run")


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.report import report

    result = report(options.run, options.data, options.out, settings_from(options), split=options.split)
    if result is not None and not options.json:
        print(f"{result['images']} images: {result['report']}")
    return Outcome(DONE, result)

"""``ziggurat evaluate``: measure a trained run on a data set."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import (
    DATA_HELP,
    DONE,
    RUNS_HELP,
    SPLITS,
    TRAINED_FLAGS,
    Outcome,
    add_engine,
    add_settings,
    settings_from,
)

HELP = "measure a trained run on a data set"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("run", metavar="RUN[,RUN]", help=RUNS_HELP)
    command.add_argument("data", metavar="DATA", help=DATA_HELP)
    command.add_argument(
        "--split", choices=SPLITS, default="val", help="which images of DATA (default: %(default)s)"
    )
    add_engine(command)
    add_settings(command, list(TRAINED_FLAGS))


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.evaluate import evaluate

    result = evaluate(
        options.run, options.data, settings_from(options), split=options.split, engine=options.engine
    )
    if result is not None and not options.json:
        for name, value in result["metrics"].items():
            print(f"{name}: {value}")
    return Outcome(DONE, result)

"""``ziggurat train``: train a model."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DATA_HELP, DONE, RUN_FLAGS, Outcome, add_settings, settings_from

HELP = "train a model"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("data", metavar="DATA", nargs="?", help=DATA_HELP)
    add_settings(command, list(RUN_FLAGS))
    command.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/TASK-N)")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of --out")
    command.add_argument("--config", metavar="FILE", help="settings as YAML, such as a run's config.yaml")


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.train import train

    result = train(
        options.data, settings_from(options), options.out, resume=options.resume, config_file=options.config
    )
    if result is not None and not options.json:
        print(f"{result['run']}: weights_sha256 {result['weights_sha256']}")
    return Outcome(DONE, result)

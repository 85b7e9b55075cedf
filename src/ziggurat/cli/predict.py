"""``ziggurat predict``: run a model on images: results as JSON, and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from ziggurat.cli.options import DONE, RUN_HELP, Outcome, add_settings, settings_from

HELP = "run a model on images: results as JSON, and pictures"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("run", metavar="RUN", type=Path, help=RUN_HELP)
    command.add_argument("images", metavar="IMAGE", nargs="+", help="files, folders or globs")
    add_settings(command, ["--model", "--plan", "--threads"])
    command.add_argument("--out", metavar="DIR", type=Path, help="default: the run's predictions")


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.predict import predict

    result = predict(options.run, options.images, options.out, settings_from(options))
    if result is not None and not options.json:
        print(f"{result['images']} images in {result['seconds']:.1f} s: {result['predictions']}")
    return Outcome(DONE, result)

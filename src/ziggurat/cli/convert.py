"""``ziggurat convert``: write a data set in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from ziggurat.cli.options import DATA_HELP, DONE, Outcome, add_settings, settings_from

HELP = "write a data set in another format"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("data", metavar="DATA", help=DATA_HELP)
    command.add_argument("out", metavar="OUT", type=Path, help="a folder that does not exist, or is empty")
    command.add_argument("--format", metavar="FORMAT", required=True, help="see docs/formats.md")
    add_settings(command, [])


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.convert import convert
    from ziggurat.config import read_config

    config = read_config("convert", settings_from(options))
    result = convert(options.data, options.out, options.format, config.data, config.digits)
    if not options.json:
        splits = ", ".join(f"{split}: {count} images" for split, count in result["splits"].items())
        print(f"{options.out}: {options.format}; {splits}")
    return Outcome(DONE, result)

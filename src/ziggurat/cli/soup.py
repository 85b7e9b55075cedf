"""``ziggurat soup``: make one run of several, whose weights are averaged."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DONE, Outcome, add_settings, settings_from

HELP = "make one run of several of the same network, whose weights are averaged"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="two runs or more, or checkpoints of runs; or a folder of --members",
    )
    command.add_argument("--out", metavar="DIR", required=True, help="the folder of the new run")
    command.add_argument(
        "--greedy",
        action="store_true",
        help="from the best to the worst, take a run only if the metric on the validation split does not fall by it",
    )
    add_settings(command, ["--threads", "--device"])


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.soup import soup

    result = soup(options.runs, options.out, settings_from(options), greedy=options.greedy)
    if result is not None and not options.json:
        print(f"{result['run']}: {len(result['runs'])} runs, weights_sha256 {result['weights_sha256']}")
    return Outcome(DONE, result)

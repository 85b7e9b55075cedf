"""``ziggurat serve``: answer requests for predictions over HTTP."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import (
    DONE,
    TILE_FLAGS,
    TRAINED_FLAGS,
    Outcome,
    add_engine,
    add_settings,
    settings_from,
)
from ziggurat.config.fields import settings_of
from ziggurat.config.serve_config import ServeConfig

HELP = "answer requests for predictions over HTTP: a model, or several, on Ray Serve"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a run's folder, RUN@best, a checkpoint's folder, a file of weights (with --model), or the file of an export; or several runs with commas between whose predictions are averaged; NAME=RUN gives it a name of its own",
    )
    add_engine(command)
    add_settings(command, [*TRAINED_FLAGS, *TILE_FLAGS])
    for name, value, known in settings_of(ServeConfig()):
        command.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(value),
            default=value,
            metavar=name.rpartition("_")[2].upper(),
            help=f"{known.help.replace('``', '').replace('%', '%%')} Default: {value}",
        )
    command.add_argument(
        "--allow",
        metavar="DIR",
        action="append",
        default=[],
        help="a folder below which images of jobs may lie; several may follow one another",
    )
    command.add_argument(
        "--jobs", metavar="DIR", help="folder of the jobs; by default they are removed at the end"
    )
    command.add_argument(
        "--address",
        metavar="ADDRESS",
        default="",
        help="a cluster of Ray (auto, or ray://HOST:10001); by default one is started here",
    )
    command.add_argument(
        "--log",
        metavar="FILE",
        default="",
        help="takes a line of JSON for each request; default: standard error",
    )


def run(options: argparse.Namespace) -> Outcome:
    """Run the command, until it is stopped."""
    from ziggurat.commands.serve import serve

    config = ServeConfig(**{name: getattr(options, name) for name, _, _ in settings_of(ServeConfig())})
    result = serve(
        options.runs, settings_from(options), config,
        allow=options.allow, jobs=options.jobs, address=options.address, log=options.log,
        engine=options.engine,
    )  # fmt: skip
    return Outcome(DONE, result)

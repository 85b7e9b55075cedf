"""``ziggurat train``: train a model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ziggurat.cli.options import DATA_HELP, DONE, RUN_FLAGS, Outcome, add_settings, settings_from

HELP = "train a model"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("data", metavar="DATA", nargs="?", help=DATA_HELP)
    add_settings(command, list(RUN_FLAGS))
    command.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/TASK-N)")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of --out")
    command.add_argument("--config", metavar="FILE", help="settings as YAML, such as a run's config.yaml")


def _lines(result: dict[str, Any]) -> Iterator[str]:
    if "members" not in result:
        yield f"{result['run']}: weights_sha256 {result['weights_sha256']}"
        return
    name = result["main_metric"]
    for one in result["members"]:
        yield f"{one['run']}: {name} {_shown(one['metrics'].get(name))}, weights_sha256 {one['weights_sha256']}"
    mean, spread = result["metrics"].get(name), result["spread"].get(name)
    yield f"{result['run']}: {name} {_shown(mean)} on average, standard deviation {_shown(spread)}"


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:.4f}"


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.train import train

    result = train(
        options.data, settings_from(options), options.out, resume=options.resume, config_file=options.config
    )
    if result is not None and not options.json:
        for line in _lines(result):
            print(line)
    return Outcome(DONE, result)

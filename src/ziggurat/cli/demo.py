"""``ziggurat demo``: train, evaluate and draw on the embedded data set."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DONE, Outcome, add_settings, settings_from

HELP = "train, evaluate and draw on the embedded data set"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    add_settings(command, ["--task", "--plan", "--steps", "--seed", "--threads", "--device", "--lr"])
    command.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/demo-N)")


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.demo import run_demo

    result = run_demo(settings_from(options), options.out)
    if result is not None and not options.json:
        from ziggurat.tasks.registry import TASKS

        metric = TASKS[result["task"]].main_metric
        print(f"{metric} on unseen digits and places: {result['metrics'][metric]:.3f}")
        print(f"pictures: {result['pictures']} (all in sheet.png)")
    return Outcome(DONE, result)

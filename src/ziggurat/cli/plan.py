"""``ziggurat plan``: find out which plan is fastest, without taking a step under each."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DONE, NO, Outcome, add_settings, settings_from

HELP = "find the fastest plan for a network, and say why others are not"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument(
        "model",
        metavar="MODEL",
        help="a name of ours, timm:NAME, smp:DECODER/ENCODER, torchvision:NAME, package.module:function, or a run's folder",
    )
    command.add_argument(
        "--workers",
        metavar="N",
        help="workers of one machine (default: as many as this one has GPUs, or cores)",
    )
    command.add_argument(
        "--machines", metavar="MxW", help="machines, and workers of each, such as 4x8 or 2048x8"
    )
    command.add_argument(
        "--network",
        metavar="FILE",
        help="what the machines are, and what is between them (docs/planning.md); default: this machine",
    )
    command.add_argument(
        "--memory", metavar="BYTES", help="of a worker, such as 16G: plans that need more are refused"
    )
    command.add_argument(
        "--input",
        metavar="SHAPE",
        help="images of a step, BxCxHxW (default: train.batch_size images of data.crop)",
    )
    command.add_argument(
        "--per-worker",
        action="store_true",
        help="the images of --input, or train.batch_size, are those of each worker, not of all (weak scaling); of more than 64 "
        "workers one each, if neither is given",
    )
    command.add_argument(
        "--for",
        dest="purpose",
        metavar="train|predict",
        default="train",
        help="what is planned (default: %(default)s)",
    )
    command.add_argument("--seconds", metavar="S", help="longest time of the search (default: 60)")
    command.add_argument(
        "--measure",
        metavar="N",
        help="take two steps under each of the N best plans, on this machine (default: 0)",
    )
    command.add_argument(
        "--timeline", metavar="FILE", help="write what each worker of the best plan does when (JSON and PNG)"
    )
    add_settings(
        command, ["--microbatches", "--batch-size", "--threads", "--dtype", "--seed", "--device", "--limit"]
    )


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.plan import plan
    from ziggurat.planning.table import format_plans

    result = plan(
        options.model,
        settings_from(options),
        workers=options.workers,
        machines=options.machines,
        network=options.network,
        memory=options.memory,
        shape=options.input,
        purpose=options.purpose,
        seconds=options.seconds,
        measure=options.measure,
        timeline=options.timeline,
        per_worker=options.per_worker,
    )
    if not options.json:
        print(format_plans(result))
    return Outcome(DONE if result["plans"] else NO, result)

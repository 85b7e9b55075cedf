"""``ziggurat verify``: prove for a model that one step on several workers is the step on one."""

from __future__ import annotations

import argparse

from ziggurat.cli.options import DONE, NO, Outcome, add_settings, settings_from

HELP = "prove for a model that one step on several workers is the step on one"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument(
        "model",
        metavar="MODEL",
        help="a name of ours, timm:NAME, smp:DECODER/ENCODER, torchvision:NAME, or package.module:function",
    )
    command.add_argument(
        "--input", metavar="SHAPE", help="BxCxHxW, BxCxL or BxCxDxHxW (default: 2x3x256x256)"
    )
    command.add_argument("--dtype", metavar="DTYPE", default="fp64", help="fp64 (default) or fp32")
    command.add_argument(
        "--plan",
        metavar="PLAN",
        default="sp=2",
        help="sp=N or sp=RxC, dp=N, pp=N, lp=N, tp=N, fsdp=N, products such as sp=2,pp=2, or auto (default: sp=2)",
    )
    command.add_argument(
        "--timeline", metavar="FILE", help="write what each worker of a plan with pp does when (JSON and PNG)"
    )
    add_settings(command, ["--microbatches", "--seed", "--threads", "--device", "--limit"])


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.verification import DEFAULT_INPUT, format_result, verify

    shape = DEFAULT_INPUT if options.input is None else options.input
    plan, settings = options.plan, settings_from(options)
    if plan.partition(":")[0].strip() == "auto":
        from ziggurat.commands.auto import choose_for_verification

        plan, settings = choose_for_verification(plan, options.model, shape, settings)
    result = verify(options.model, shape, plan, options.dtype, settings, options.timeline)
    if result is not None and not options.json:
        print(format_result(result))
    return Outcome(DONE if result is None or result["ok"] else NO, result)

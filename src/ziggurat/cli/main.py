"""The commands: each reads its arguments, builds a config, and calls one function.

With ``--json`` the last line of standard output is one JSON object; progress goes to standard error. Exit status 0:
done; 1: it ran and the answer is no; 2: the input is wrong, with one message that lists every fault; 75: stopped by
SIGTERM or SIGUSR1 with a checkpoint, to be started again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ziggurat.config import RunConfig, override
from ziggurat.config.fields import settings_of
from ziggurat.errors import Preempted, UserError
from ziggurat.system.platform import require_linux

DONE, NO, WRONG_INPUT, TRY_AGAIN, INTERRUPTED = 0, 1, 2, 75, 130  # 75: EX_TEMPFAIL of <sysexits.h>

# What has a flag of its own; the settings' own help explains them.
RUN_FLAGS = {
    "--task": "task",
    "--model": "model.name",
    "--plan": "plan",
    "--epochs": "train.epochs",
    "--steps": "train.steps",
    "--batch-size": "train.batch_size",
    "--microbatches": "train.microbatches",
    "--threads": "threads",
    "--dtype": "dtype",
    "--seed": "seed",
    "--weights": "model.weights",
}


DATA_HELP = "a folder or an annotation file of any known format (docs/formats.md), or digits"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = build_parser().parse_args(arguments)
    try:
        require_linux()
    except UserError as error:
        print(f"ziggurat: {error}", file=sys.stderr)
        return WRONG_INPUT
    from ziggurat.parallel.runtime.launch import (  # imports PyTorch: only after --help
        Interrupted,
        WorkerFailed,
    )

    try:
        command: Callable[[argparse.Namespace], tuple[int, dict[str, Any] | None]] = options.command
        status, result = command(options)
    except UserError as error:
        print(f"ziggurat: {error}", file=sys.stderr)
        return WRONG_INPUT
    except WorkerFailed as error:
        print(f"ziggurat: {error}", file=sys.stderr)
        return NO
    except Preempted as error:
        print(f"ziggurat: {error}", file=sys.stderr)
        return TRY_AGAIN
    except (Interrupted, KeyboardInterrupt):
        print("ziggurat: interrupted; all workers have ended", file=sys.stderr)
        return INTERRUPTED
    if options.json and result is not None:
        print(json.dumps(result), flush=True)
    return status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ziggurat",
        description="Parallel training and inference of pyramid neural networks.",
        epilog="`ziggurat COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, function: Callable[..., Any], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(command=function)
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        return command

    demo = add("demo", _demo, "train, evaluate and draw on the embedded data set")
    _add_settings(demo, ["--task", "--plan"])
    demo.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/demo-N)")

    train = add("train", _train, "train a model")
    train.add_argument("data", metavar="DATA", nargs="?", help=DATA_HELP)
    _add_settings(train, list(RUN_FLAGS))
    train.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/TASK-N)")
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of --out")
    train.add_argument("--config", metavar="FILE", help="settings as YAML, such as a run's config.yaml")

    evaluate = add("evaluate", _evaluate, "measure a trained run on a data set")
    evaluate.add_argument(
        "run", metavar="RUN", type=Path, help="the folder of a run, or a file of weights (with --model)"
    )
    evaluate.add_argument("data", metavar="DATA", help=DATA_HELP)
    _add_settings(evaluate, ["--model", "--plan", "--threads"])

    predict = add("predict", _predict, "run a model on images: results as JSON, and pictures")
    predict.add_argument(
        "run", metavar="RUN", type=Path, help="the folder of a run, or a file of weights (with --model)"
    )
    predict.add_argument("images", metavar="IMAGE", nargs="+", help="files, folders or globs")
    _add_settings(predict, ["--model", "--plan", "--threads"])
    predict.add_argument("--out", metavar="DIR", type=Path, help="default: the run's predictions")

    verify = add("verify", _verify, "prove for a model that one step on several workers is the step on one")
    verify.add_argument(
        "model",
        metavar="MODEL",
        help="a name of ours, timm:NAME, smp:DECODER/ENCODER, torchvision:NAME, or package.module:function",
    )
    verify.add_argument("--input", metavar="SHAPE", help="BxCxHxW, BxCxL or BxCxDxHxW (default: 2x3x256x256)")
    verify.add_argument("--dtype", metavar="DTYPE", default="fp64", help="fp64 (default) or fp32")
    verify.add_argument(
        "--plan",
        metavar="PLAN",
        default="sp=2",
        help="sp=N or sp=RxC, dp=N, pp=N, lp=N, tp=N, fsdp=N, and products such as sp=2,pp=2 (default: sp=2)",
    )
    verify.add_argument(
        "--timeline", metavar="FILE", help="write what each worker of a plan with pp does when (JSON and PNG)"
    )
    _add_settings(verify, ["--microbatches"])

    check = add("check", _check, "list every fault of a data set")
    check.add_argument("data", metavar="DATA", help=DATA_HELP)
    _add_settings(check, [])

    convert = add("convert", _convert, "write a data set in another format")
    convert.add_argument("data", metavar="DATA", help=DATA_HELP)
    convert.add_argument("out", metavar="OUT", type=Path, help="a folder that does not exist, or is empty")
    convert.add_argument("--format", metavar="FORMAT", required=True, help="see docs/formats.md")
    _add_settings(convert, [])

    models = add("models", _models, "list what can be built")
    models.add_argument("--filter", metavar="TEXT", default="", help="only names that hold this text")
    return parser


def _add_settings(command: argparse.ArgumentParser, flags: list[str]) -> None:
    helps = {key: known.help for key, _, known in settings_of(RunConfig())}
    for flag in flags:
        name = RUN_FLAGS[flag]
        text = helps[name].replace("``", "").replace("%", "%%")
        command.add_argument(flag, dest=f"setting:{name}", metavar=flag[2:].upper(), help=text)
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting (docs/settings.md)"
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the command line by their dotted names; flags win over ``--set``."""
    settings: dict[str, Any] = {}
    faults = []
    for item in options.set:
        key, equals, value = item.partition("=")
        if not equals:
            faults.append(f"--set takes key=value: got '{item}'")
        settings[key.strip()] = value.strip()
    if faults:
        raise UserError(faults)
    given = {name.removeprefix("setting:"): value for name, value in vars(options).items() if ":" in name}
    return settings | {name: value for name, value in given.items() if value is not None}


def _train(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.commands.start import start_training

    result = start_training(
        options.data, _settings(options), options.out, resume=options.resume, config_file=options.config
    )
    if result is not None and not options.json:
        print(f"{result['run']}: weights_sha256 {result['weights_sha256']}")
    return DONE, result


def _demo(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.commands.demo import run_demo

    result = run_demo(_settings(options), options.out)
    if result is not None and not options.json:
        from ziggurat.tasks.registry import TASKS

        metric = TASKS[result["task"]].main_metric
        print(f"{metric} on unseen digits and places: {result['metrics'][metric]:.3f}")
        print(f"pictures: {result['pictures']} (all in sheet.png)")
    return DONE, result


def _evaluate(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.commands.start import start_evaluation

    result = start_evaluation(options.run, options.data, _settings(options))
    if result is not None and not options.json:
        for name, value in result["metrics"].items():
            print(f"{name}: {value}")
    return DONE, result


def _predict(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.commands.start import start_prediction

    result = start_prediction(options.run, options.images, options.out, _settings(options))
    if result is not None and not options.json:
        print(f"{result['images']} images in {result['seconds']:.1f} s: {result['predictions']}")
    return DONE, result


def _verify(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.verify import DEFAULT_INPUT, format_result, verify

    result = verify(
        options.model,
        options.input or DEFAULT_INPUT,
        options.plan,
        options.dtype,
        _settings(options),
        options.timeline,
    )
    if result is not None and not options.json:
        print(format_result(result))
    return (DONE if result is None or result["ok"] else NO), result


def _check(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.commands.check import check

    result = check(options.data, override(RunConfig(), _settings(options)).data)
    if not options.json:
        for fault in result["faults"]:
            place = "" if fault["id"] is None else f" [{fault['id']}]"
            print(f"{fault['file']}{place}: {fault['fault']}")
        splits = "; ".join(
            f"{split}: {counts['images']} images, {counts['annotations']} annotations"
            for split, counts in result["splits"].items()
        )
        print(
            f"{result['format']} (to {', '.join(result['tasks'])}); {splits}; classes: {', '.join(result['classes'])}; "
            f"{len(result['faults'])} faults"
        )
    return (DONE if result["ok"] else NO), result


def _convert(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.commands.convert import convert

    config = override(RunConfig(), _settings(options))
    result = convert(options.data, options.out, options.format, config.data, config.digits)
    if not options.json:
        splits = ", ".join(f"{split}: {count} images" for split, count in result["splits"].items())
        print(f"{options.out}: {options.format}; {splits}")
    return DONE, result


def _models(options: argparse.Namespace) -> tuple[int, dict[str, Any] | None]:
    from ziggurat.models.catalogue import list_models

    rows = []
    for row in list_models(options.filter):
        rows.append(row)
        if not options.json:
            plans = ", ".join(row["plans"])
            print(f"{row['name']:45} {row['task']:8} {row['parameters'] / 1e6:8.1f} M  {plans}", flush=True)
    if not rows and not options.json:
        print(f"no listed model's name holds '{options.filter}': without --filter all are listed")
    return DONE, {"models": rows}

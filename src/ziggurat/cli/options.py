"""What several commands have in common: settings on the command line, exit statuses, words of help."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from ziggurat.config import RunConfig
from ziggurat.config.fields import settings_of
from ziggurat.config.names import full_name, shown_name
from ziggurat.config.values import shown
from ziggurat.errors import UserError

DONE, NO, WRONG_INPUT, TRY_AGAIN, INTERRUPTED = 0, 1, 2, 75, 130  # 75: EX_TEMPFAIL of <sysexits.h>
READER_GONE = 141  # as a shell says of a program that SIGPIPE has ended

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
    "--members": "members.count",
    "--weights": "model.weights",
    "--limit": "launch.step_seconds",
    "--lr": "train.lr",
    "--device": "device",
}
# What a finished run is measured and run with.
TRAINED_FLAGS = {
    "--model": "model.name",
    "--plan": "plan",
    "--threads": "threads",
    "--dtype": "dtype",
    "--device": "device",
    "--score": "decode.score_threshold",
}
# How a large image is cut for a prediction.
TILE_FLAGS = {"--crop": "data.crop", "--overlap": "data.tile_overlap"}

SPLITS = ("val", "test", "train")
DATA_HELP = "a folder or an annotation file of any known format (docs/formats.md), or digits"
RUN_HELP = "a run's folder, RUN@best, RUN@last, RUN@step-400, a checkpoint's folder, or a file of weights (with --model)"
RUNS_HELP = f"{RUN_HELP}; several with commas between, or a folder of --members, are averaged"


ENGINES = ("torch", "onnx", "openvino")


class Outcome(NamedTuple):
    """What a command has come to.

    Attributes:
        status: The exit status.
        result: Of ``--json``; None on torchrun's workers but the first.
    """

    status: int
    result: dict[str, Any] | None


def add_settings(command: argparse.ArgumentParser, flags: list[str]) -> None:
    """Let a command take settings: some by flags of their own, all by ``--set``."""
    helps = {key: known.help for key, _, known in settings_of(RunConfig())}
    for flag in flags:
        name = (RUN_FLAGS | TRAINED_FLAGS | TILE_FLAGS)[flag]
        text = helps[name].replace("``", "").replace("%", "%%")
        command.add_argument(flag, dest=f"setting:{name}", metavar=flag[2:].upper(), help=text)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting (docs/settings.md), by its name or the last part of it; several may follow one another",
    )


def add_engine(command: argparse.ArgumentParser) -> None:
    """Let a command take what computes."""
    command.add_argument(
        "--engine",
        choices=ENGINES,
        help="what computes: PyTorch, or ONNX Runtime or OpenVINO with an export of RUN; RUN may be the file of an export itself "
        "(docs/export.md)",
    )


def typed_names(options: argparse.Namespace) -> list[str]:
    """Return the names of settings as the user has typed them after ``--set``; of a command that takes none, none."""
    return [item.partition("=")[0] for item in getattr(options, "set", [])]


def settings_from(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the command line by their dotted names; of two with one name the later one.

    Raises:
        UserError: For what is no setting, and where a flag and ``--set`` say different things.
    """
    settings: dict[str, Any] = {}
    faults = []
    for item in options.set:
        key, equals, value = item.partition("=")
        if not equals:
            faults.append(f"--set takes key=value: got {shown(item)}")
            continue
        try:
            settings[full_name(key.strip())] = value.strip()
        except UserError as error:
            faults += error.faults
    given = {name.removeprefix("setting:"): value for name, value in vars(options).items() if ":" in name}
    flags = {name: value for name, value in given.items() if value is not None}
    faults += [
        f"{shown_name(name)} is given by a flag, {shown(flags[name])}, and by --set, {shown(settings[name])}: give one of them"
        for name in settings
        if name in flags and settings[name] != flags[name]
    ]
    if faults:
        raise UserError(faults)
    return settings | flags

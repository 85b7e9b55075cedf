"""The commands: each file reads its arguments, builds a config, and calls one function.

With ``--json`` the last line of standard output is one JSON object; progress goes to standard error. Exit status 0:
done; 1: it ran and the answer is no; 2: the input is wrong, with one message that lists every fault; 75: stopped by
SIGTERM, SIGUSR1 or SIGHUP with a checkpoint, to be started again; 130: stopped by Ctrl-C, with a checkpoint where training had
begun; 141: who reads standard output has closed it. `docs/circumstances.md` has what happens when.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from ziggurat.cli import (
    check,
    convert,
    demo,
    evaluate,
    export,
    models,
    plan,
    predict,
    report,
    serve,
    soup,
    train,
    verify,
)
from ziggurat.cli.options import (
    INTERRUPTED,
    NO,
    READER_GONE,
    TRY_AGAIN,
    WRONG_INPUT,
    Outcome,
    typed_names,
)
from ziggurat.cli.parsing import Parser, Version, split_settings
from ziggurat.cli.telling import telling
from ziggurat.config.names import as_typed
from ziggurat.errors import Preempted, UserError
from ziggurat.parallel.runtime.failures import Interrupted, WorkerFailed
from ziggurat.system.platform import require_linux
from ziggurat.system.streams import output_fault, reader_is_gone

HOMES = {
    "verify": "ziggurat.verification"
}  # of the functions that commands call, where it is not commands/NAME.py


class Command(Protocol):
    """One file of this folder.

    Attributes:
        HELP: What it does, in a few words.
    """

    HELP: str

    def add_arguments(self, command: argparse.ArgumentParser, /) -> None:
        """Let the command take its arguments."""
        ...

    def run(self, options: argparse.Namespace, /) -> Outcome:
        """Run the command."""
        ...


COMMANDS: dict[str, Command] = {
    "demo": demo, "train": train, "evaluate": evaluate, "predict": predict, "verify": verify, "check": check,
    "convert": convert, "models": models, "plan": plan, "report": report, "soup": soup, "export": export, "serve": serve,
}  # fmt: skip


def nothing_begins() -> None:
    """Do nothing as the command begins."""


def run(arguments: Sequence[str] | None, begins: Callable[[], None] = nothing_begins) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: Of the command line; None takes those of this process.
        begins: Called as soon as all is imported that the command needs.
    """
    try:
        try:
            return _run(arguments, begins)
        finally:
            sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            return READER_GONE
        fault = output_fault()
        if fault is None:
            raise  # it was another file
        return _say(f"the output cannot be written: {fault}", NO)


def _run(arguments: Sequence[str] | None, begins: Callable[[], None]) -> int:
    options = build_parser().parse_args(split_settings(sys.argv[1:] if arguments is None else arguments))
    with telling(options.quiet, options.verbose):
        status, message = _end_of(options, begins)
    return _say(message, status) if message else status


def _end_of(options: argparse.Namespace, begins: Callable[[], None]) -> tuple[int, str]:
    """Run the command, and return its exit status, and why it has ended early."""
    try:
        require_linux()
    except UserError as error:
        return WRONG_INPUT, str(error)
    importlib.import_module(
        HOMES.get(options.command, f"ziggurat.commands.{options.command}")
    )  # not for --help
    try:
        begins()
        outcome = COMMANDS[options.command].run(options)
        if options.json and outcome.result is not None:
            print(json.dumps(outcome.result), flush=True)
    except UserError as error:
        return WRONG_INPUT, as_typed(str(error), typed_names(options))
    except WorkerFailed as error:
        return NO, str(error)
    except Preempted as error:
        return INTERRUPTED if error.by_user else TRY_AGAIN, str(error)
    except Interrupted as error:
        return INTERRUPTED, str(error)
    except KeyboardInterrupt:
        return INTERRUPTED, "interrupted; all workers have ended"
    return outcome.status, ""


def _say(message: object, status: int) -> int:
    print(f"ziggurat: {message}", file=sys.stderr)
    return status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="ziggurat",
        description="Parallel training and inference of pyramid neural networks.",
        epilog="`ziggurat COMMAND --help` explains a command.",
    )
    parser.add_argument(
        "--version", action=Version, help="print the versions of Ziggurat and of what it stands on"
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, module in COMMANDS.items():
        text = module.HELP
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        loudness = command.add_mutually_exclusive_group()
        loudness.add_argument(
            "--quiet",
            action="store_true",
            help="print the result, and why a command ends early; nothing else",
        )
        loudness.add_argument(
            "--verbose",
            action="store_true",
            help="print the versions, and the settings that are not the default, too",
        )
        module.add_arguments(command)
    return parser

"""The commands: each file reads its arguments, builds a config, and calls one function.

With ``--json`` the last line of standard output is one JSON object; progress goes to standard error. Exit status 0:
done; 1: it ran and the answer is no; 2: the input is wrong, with one message that lists every fault; 75: stopped by
SIGTERM or SIGUSR1 with a checkpoint, to be started again; 141: who reads standard output has closed it.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Sequence
from typing import Protocol

from ziggurat.cli import check, convert, demo, evaluate, models, predict, train, verify
from ziggurat.cli.options import INTERRUPTED, NO, READER_GONE, TRY_AGAIN, WRONG_INPUT, Outcome
from ziggurat.errors import Preempted, UserError
from ziggurat.system.platform import require_linux


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
    "convert": convert, "models": models,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise  # it was another pipe
        return READER_GONE


def _reader_is_gone() -> bool:
    """Whether who reads the standard output has closed it, as ``head`` does; then what is left for it goes nowhere."""
    output = sys.stdout.fileno()
    look = select.poll()
    look.register(output, 0)
    if not look.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True


def _run(arguments: Sequence[str] | None) -> int:
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
        outcome = COMMANDS[options.command].run(options)
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
    if options.json and outcome.result is not None:
        print(json.dumps(outcome.result), flush=True)
    return outcome.status


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ziggurat",
        description="Parallel training and inference of pyramid neural networks.",
        epilog="`ziggurat COMMAND --help` explains a command.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, module in COMMANDS.items():
        text = module.HELP
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--json", action="store_true", help="print the result as one JSON object")
        module.add_arguments(command)
    return parser

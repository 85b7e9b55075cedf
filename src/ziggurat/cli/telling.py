"""How much a command says on standard error: ``--quiet`` and ``--verbose``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ziggurat.cli.parsing import versions
from ziggurat.commands.loudness import VERBOSE


def telling(quiet: bool, verbose: bool) -> AbstractContextManager[None]:
    """Let a command say less, or more, while a block runs; its workers too.

    Args:
        quiet: Whatever goes to standard error goes nowhere; what is written of the run's log stays.
        verbose: Versions and settings are said.
    """
    if verbose:
        return _saying_more()
    return _saying_nothing() if quiet else nullcontext()


@contextmanager
def _saying_more() -> Iterator[None]:
    """Say the versions now, and let a block say the settings: also its workers, which are other processes."""
    print(versions(), file=sys.stderr, flush=True)
    before = os.environ.get(VERBOSE)
    os.environ[VERBOSE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VERBOSE]
        else:
            os.environ[VERBOSE] = before


@contextmanager
def _saying_nothing() -> Iterator[None]:
    """Let what a block writes to standard error, by whatever library and process, go nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)

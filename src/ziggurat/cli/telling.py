"""How much a command says on standard error: ``--quiet`` and ``--verbose``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ziggurat.cli.parsing import versions
from ziggurat.commands.loudness import VERBOSE


@contextmanager
def telling(quiet: bool, verbose: bool) -> Iterator[None]:
    """Let a command say less, or more, while a block runs; its workers too.

    Args:
        quiet: Whatever goes to standard error goes nowhere; what is written of the run's log stays.
        verbose: Versions and settings are said.
    """
    if verbose:
        print(versions(), file=sys.stderr, flush=True)
        before = os.environ.get(VERBOSE)
        os.environ[VERBOSE] = "1"  # also for workers, which are other processes
        try:
            yield
        finally:
            if before is None:
                del os.environ[VERBOSE]
            else:
                os.environ[VERBOSE] = before
        return
    if not quiet:
        yield
        return
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

"""Runs several commands in one process that has imported an example."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

from ziggurat.parallel.collectives.workers import Workers


def run_commands(workers: Workers, example: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Return the exit status and the last line of each command, as a worker of `run_ranks`.

    What the example registers is this process's, and of those that its commands fork.
    """
    spec = importlib.util.spec_from_file_location("example", example)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = []
    for words in commands:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            status = module.main(list(words))
        lines = text.getvalue().strip().splitlines()
        results.append((status, lines[-1] if lines else ""))
    return results

"""Every benchmark runs in a form of seconds, and writes nothing: what is not run rots."""

import contextlib
import io
import runpy
import sys
from pathlib import Path

import pytest

from support.ranks import run_ranks

FOLDER = Path(__file__).parents[1] / "benchmarks"
BENCHMARKS = sorted(path.parent.name for path in FOLDER.glob("*/main.py"))


def quick(workers, script):
    """Run a script in this process, which has imported most of what it needs, and return what it prints."""
    sys.path.insert(0, str(script.parent))  # as the interpreter does
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        runpy.run_path(str(script))["main"](["--quick"])
    return text.getvalue()


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs(name):
    before = files_of(FOLDER / name)
    (printed,) = run_ranks(quick, 1, (FOLDER / name / "main.py",))
    assert printed
    assert files_of(FOLDER / name) == before

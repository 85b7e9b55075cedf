"""Every benchmark runs in a form of seconds, and writes nothing: what is not run rots."""

import contextlib
import io
import json
import runpy
import sys
from pathlib import Path

import pytest

from support.ranks import run_ranks

FOLDER = Path(__file__).parents[1] / "benchmarks"
BENCHMARKS = {path.parent.name for path in FOLDER.glob("*/main.py")}


def quick(workers, script):
    """Run a script in this process, which has imported most of what it needs, and return what it prints."""
    sys.path.insert(0, str(script.parent))  # as the interpreter does
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        runpy.run_path(str(script))["main"](["--quick"])
    return text.getvalue()


def files_of(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "__pycache__" not in path.parts}


def printed_by(name):
    """Return what a benchmark's quick form prints, which leaves its folder as it was."""
    before = files_of(FOLDER / name)
    (printed,) = run_ranks(quick, 1, (FOLDER / name / "main.py",))
    assert files_of(FOLDER / name) == before
    return printed


@pytest.mark.parametrize("name", sorted(BENCHMARKS - {"exchange", "unequal"}))  # which are below
def test_a_benchmark_runs(name):
    assert printed_by(name)


def test_machines_of_several_workers_send_less_where_these_meet_first():
    """4/7 of the bytes, as the kernel counts them between two network namespaces; see the benchmark's README."""
    printed = printed_by("exchange")
    if not printed.startswith("{"):
        pytest.skip(printed)
    figures = json.loads(printed)
    assert figures["same_bits"]
    assert figures["ways"]["auto"]["tiers"] == [2, 2], "found by the namespaces"
    assert figures["ways"]["flat"]["tiers"] == [4]
    assert 0.55 < figures["bytes_ratio"] < 0.59
    assert 1 <= figures["ways"]["auto"]["bytes_between"] / figures["gradient_bytes"] < 1.1


def test_shares_follow_a_slow_worker_and_make_steps_shorter():
    """The quick form of benchmarks/unequal: sleeps of 30 and 60 ms in each of 16 microbatches, until shares have changed."""
    figures = json.loads(printed_by("unequal"))
    assert figures["same_bits"]
    step, counts = figures["measured"]["changes"][0]
    first, second = map(int, counts.split(","))
    assert step in range(11, 99, 8), (
        "after two steps that do not count, eight that do, and more where these were noisy"
    )
    assert first > second

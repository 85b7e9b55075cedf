"""The table of bits: does a change of the source leave every number as it was?

Trains the runs of `sweep.settings` through the commands alone, so that it measures any version of the source: the one
that ``PYTHONPATH`` names::

    PYTHONPATH=old/src python tests/sweep/bits.py --out old.json
    PYTHONPATH=src python tests/sweep/bits.py --out new.json --against old.json

Of each run the table holds the hash of its weights, the loss and the norm of the gradient of every step, the metrics,
and the predictions of two images; the weights lie in a folder beside it. Compared are:

* where the plan promises bits: the hashes, and every number as it was written;
* elsewhere: each tensor of the weights by its largest difference over its largest absolute value, each number by its
  difference over its size (or over 1, if it is smaller), all of them within the tolerance of the setting; equal hashes
  are said.

It ends with status 1 if anything differs, and names it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from support.words import sets  # noqa: E402 - a script finds the tests' folder first
from sweep.settings import BASE, SETTINGS, SHORT, Setting  # noqa: E402 - a script finds the tests' folder first

TIME_LIMIT = 300
FAULTS = "ZIGGURAT_FAULTS"


class Command(Protocol):
    """Runs a command, under a fault plan, and returns its JSON object."""

    def __call__(self, *words: object, faults: str = "") -> dict[str, Any]: ...


def title(setting: Setting) -> str:
    """Return the name of a line in the table."""
    then = f" then {setting.then}" if setting.then else ""
    return f"{setting.settings['task']}: {setting.name} ({setting.plan}{then})"


TOLERANCES = {title(setting): setting.tolerance for setting in [*SETTINGS, *SHORT]}


def file_name(setting: Setting) -> str:
    """Return the title as the name of a file."""
    return re.sub(r"[^a-z0-9=]+", "-", title(setting)).strip("-")


def command(*words: object, faults: str = "") -> dict[str, Any]:
    """Run a command of the version that ``PYTHONPATH`` names, in a process of its own, and return its JSON object.

    Raises:
        RuntimeError: If it does not end well; with what it said.
    """
    environment = os.environ | {FAULTS: faults}
    arguments = [sys.executable, "-m", "ziggurat", *(str(word) for word in words), "--json"]
    done = subprocess.run(
        arguments, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments[1:])}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(setting: Setting, folder: Path, run_command: Command) -> dict[str, Any]:
    """Train (and resume, evaluate, predict) as the setting says.

    Args:
        setting: The line of the table.
        folder: Where the run's folder is made.
        run_command: `command`, or what does the same.

    Returns:
        ``weights_sha256``, ``steps`` (loss and norm of the gradient of each), ``metrics``, and where the run is used
        ``evaluation`` and ``predictions``.
    """
    run = folder / "run"
    given = BASE | dict(setting.settings)
    words = sets(given, plan=setting.plan)
    result = run_command(
        "train", "digits", "--plan", setting.plan, "--out", run, *words, faults=setting.faults
    )
    if setting.then:
        for step in (given["train.steps"] - 1, given["train.steps"]):
            shutil.rmtree(run / "checkpoints" / f"step-{step}", ignore_errors=True)
        words = sets(given | ({"tensor.min_width": 8} if "tp" in setting.then else {}), plan=setting.then)
        result = run_command("train", "digits", "--plan", setting.then, "--out", run, "--resume", *words)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {
        "weights_sha256": result["weights_sha256"],
        "steps": [
            [one["step"], one["loss"], one["gradient_norm"]] for one in lines if one["kind"] == "train"
        ],
        "metrics": result["metrics"],
    }
    return found | (_used(run, setting, folder, run_command) if setting.use else {})


def _used(run: Path, setting: Setting, folder: Path, run_command: Command) -> dict[str, Any]:
    """Return the metrics of the run's evaluation, and what it predicts for two images of noise."""
    few = ("--plan", setting.plan, "--threads", 1)
    every = ("--score", "0.0") if setting.settings["task"] == "detect" else ()
    images = []
    rng = np.random.default_rng(0)
    for number in range(2):
        images.append(folder / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, (60, 90 + number, 3), dtype=np.uint8)).save(images[-1])
    evaluation = run_command("evaluate", run, "digits", *few)["metrics"]
    out = folder / "predictions"
    run_command("predict", run, *images, *few, "--out", out, *every)
    text = (out / "predictions.json").read_text().replace(str(folder), "FOLDER")
    return {"evaluation": evaluation, "predictions": json.loads(text)}


def run_all(settings: Sequence[Setting], out: Path, run_command: Command = command) -> dict[str, Any]:
    """Measure settings and write the table, each line as soon as it is known; a setting that fails has ``error``.

    Lines of a table that is there stay, unless they are measured again.
    """
    weights = out.with_suffix(".weights")
    weights.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    for setting in settings:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as name:
            try:
                found = measure(setting, Path(name), run_command)
                shutil.copy(
                    Path(name) / "run" / "weights.safetensors", weights / f"{file_name(setting)}.safetensors"
                )
            except (RuntimeError, subprocess.TimeoutExpired, OSError) as error:
                found = {"error": str(error)}
        table[title(setting)] = found | {
            "promise": setting.promise,
            "weights": f"{weights.name}/{file_name(setting)}.safetensors",
        }
        out.write_text(json.dumps(table, indent=1) + "\n")
        said = found.get("error") or found["weights_sha256"][:16]
        print(f"{time.monotonic() - began:6.1f} s  {title(setting)}: {said}", file=sys.stderr, flush=True)
    return table


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested lists and mappings; yield each leaf with its path."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}/{key}")
    elif isinstance(value, list):
        yield f"{path}/length", len(value)
        for index, inner in enumerate(value):
            yield from numbers(inner, f"{path}/{index}")
    else:
        yield path, value


def largest_difference(one: Any, other: Any) -> tuple[float, str]:
    """Return the largest relative difference of two nested values, and where it is; infinity if they differ in kind."""
    first, second = dict(numbers(one)), dict(numbers(other))
    if first.keys() != second.keys():
        return float("inf"), sorted(first.keys() ^ second.keys())[0]
    worst = (0.0, "")
    for path, value in first.items():
        known = second[path]
        if value == known:
            continue
        if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in (value, known)):
            return float("inf"), path
        worst = max(worst, (abs(value - known) / max(abs(known), 1.0), path))
    return worst


def weights_difference(one: Path, other: Path) -> tuple[float, str]:
    """Return the largest difference of a tensor over the other's largest absolute value, and the tensor's name."""
    first, second = load_file(one), load_file(other)
    if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in second.items()}:
        return float("inf"), "names or shapes"
    worst = (0.0, "")
    for name, tensor in first.items():
        known = second[name].astype(np.float64)
        scale = np.abs(known).max(initial=0.0)
        difference = np.abs(tensor.astype(np.float64) - known).max(initial=0.0)
        worst = max(worst, (float(difference / scale) if scale else float(difference), name))
    return worst


def compare(new: Path, old: Path) -> tuple[list[str], list[str]]:
    """Compare two tables.

    Returns:
        A line of text for each setting that both have; those that break their promise.
    """
    tables = [json.loads(path.read_text()) for path in (new, old)]
    lines, broken = [], []
    for name in [key for key in tables[1] if key in tables[0]]:
        found, known = (table[name] for table in tables)
        if "error" in found or "error" in known:
            side = "both fail" if "error" in found and "error" in known else "one of them fails"
            line, is_kept = side, side == "both fail"
        else:
            same = found["weights_sha256"] == known["weights_sha256"]
            parts = [
                {
                    key: value
                    for key, value in one.items()
                    if key not in ("weights", "weights_sha256", "promise")
                }
                for one in (found, known)
            ]
            value, where = largest_difference(*parts)
            tensor, which = (0.0, "") if same else weights_difference(
                new.parent / found["weights"], old.parent / known["weights"]
            )  # fmt: skip
            line = "same bits" if same else f"weights differ by {tensor:.1e} ({which})"
            line += f"; numbers differ by {value:.1e} ({where})" if value else ""
            is_kept = (
                (same and value == 0)
                if known["promise"] == "bits"
                else max(value, tensor) <= TOLERANCES[name]
            )
        lines.append(f"{'ok   ' if is_kept else 'WRONG'} {known['promise']:7} {name}: {line}")
        if not is_kept:
            broken.append(lines[-1])
    return lines, broken


def main(words: Sequence[str] | None = None) -> int:
    """Make the table, and compare it."""
    parser = argparse.ArgumentParser(description="Train 40 small runs and keep, or compare, their bits.")
    parser.add_argument(
        "--out", type=Path, required=True, help="the table; the weights go into a folder beside it"
    )
    parser.add_argument("--against", type=Path, help="a table of before")
    parser.add_argument("--short", action="store_true", help="three settings only")
    parser.add_argument("--only", default="", help="settings whose line contains this text")
    parser.add_argument(
        "--missing", action="store_true", help="settings that the table has not, or that failed"
    )
    parser.add_argument("--compare-only", action="store_true", help="compare two tables that are there")
    arguments = parser.parse_args(words)
    if not arguments.compare_only:
        settings = [one for one in (SHORT if arguments.short else SETTINGS) if arguments.only in title(one)]
        if arguments.missing and arguments.out.exists():
            known = json.loads(arguments.out.read_text())
            settings = [one for one in settings if "error" in known.get(title(one), {"error": "not there"})]
        run_all(settings, arguments.out)
    failed = [name for name, found in json.loads(arguments.out.read_text()).items() if "error" in found]
    for name in failed:
        print(f"failed: {name}")
    if arguments.against is None:
        return int(bool(failed))
    lines, broken = compare(arguments.out, arguments.against)
    print("\n".join(lines))
    print(f"{len(lines)} settings compared, {len(broken)} differ")
    return int(bool(broken) or bool(failed))


if __name__ == "__main__":
    sys.exit(main())

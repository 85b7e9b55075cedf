"""How long does training pause for a checkpoint, as a share of its steps?

The same run of a detector is trained with a checkpoint every so many steps and without any but the last, in turn.
Pauses are those that the run itself measures and writes to its log; steps are those of ``metrics.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

SETTINGS = [
    "--model", "fcos-resnet50-fpn", "--plan", "dp=2", "--threads", "1", "--batch-size", "4",
    "--set", "data.crop=256", "--set", "digits.size=256", "--set", "digits.train_scenes=64",
    "--set", "digits.val_scenes=2", "--set", "device=cpu", "--set", "data.workers=1",
]  # fmt: skip
PAUSE = re.compile(r"checkpoint of step (\d+): training paused for ([\d.]+) ms, written in ([\d.]+) s")


def train(folder: Path, steps: int, every: int) -> dict[str, object]:
    """Train once, and return the seconds of each step but the first, and the pauses and writing times."""
    command = [
        sys.executable,
        "-m",
        "ziggurat",
        "train",
        "digits",
        "--out",
        str(folder),
        "--steps",
        str(steps),
    ]
    every_setting = ["--set", f"train.checkpoint_every={every}"]
    subprocess.run([*command, *SETTINGS, *every_setting], check=True, capture_output=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = PAUSE.findall((folder / "log.txt").read_text(encoding="utf-8"))
    during = [match for match in found if int(match[0]) < steps]
    newest = folder / "checkpoints" / f"step-{steps}"
    return {
        "step_seconds": [row["seconds"] for row in rows if row["kind"] == "train"][1:],
        "pause_seconds": [float(match[1]) / 1e3 for match in during],
        "write_seconds": [float(match[2]) for match in during],
        "bytes": sum(path.stat().st_size for path in newest.iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs = {
            f"{name}-{turn}": train(Path(place, f"{name}-{turn}"), options.steps, every)
            for turn in (1, 2)
            for name, every in (("without", 0), ("with", options.every))
        }
    median = {
        name: statistics.median([s for turn in (1, 2) for s in runs[f"{name}-{turn}"]["step_seconds"]])
        for name in ("without", "with")
    }
    pauses = [pause for turn in (1, 2) for pause in runs[f"with-{turn}"]["pause_seconds"]]
    result = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "checkpoint_bytes": runs["with-1"]["bytes"],
        "every": options.every,
        "median_step_seconds": median,
        "step_ratio": median["with"] / median["without"],
        "pause_seconds": pauses,
        "pause_share_of_a_step": statistics.median(pauses) / median["without"],
        "pause_share_of_training": statistics.median(pauses) / (options.every * median["without"]),
        "runs": runs,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=1))


if __name__ == "__main__":
    main()

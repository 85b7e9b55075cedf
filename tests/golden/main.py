"""Stored loss curves: eight steps of one small run of each task on one worker, in fp32 on one thread.

Every other test of runs compares workers with each other; if all of them drifted together, these curves would tell. They
are values, not bits: processors round differently. Write them anew, and say in the commit why they had to move, with::

    python tests/golden/main.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

from support.ranks import run_ranks  # noqa: E402 - a script finds the tests' folder first
from support.small_runs import EMA, TASKS, config_of, trained  # noqa: E402

STEPS = 8
RELATIVE = 2e-3
"""How near a curve must be. After eight steps PyTorch's kernels of AVX2 and AVX-512 differ by 1e-5, those without either
by 1e-3 (``ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41``)."""
SETTINGS = {
    "detect": EMA,
    "classify": {"train.lr": 0.003},  # its maxima choose between equals: under AdamW rounding grows to 1e-2
    "segment": EMA,
}


def curve(task: str, folder: Path) -> dict[str, list[float]]:
    """Train one task; return the loss and the norm of the gradient of each step."""
    config = config_of(task, **SETTINGS[task], **{"train.steps": STEPS, "train.clip_norm": 1.0})
    (((_, steps, _),),) = run_ranks(trained, 1, ("dp=1", folder, [config]))
    losses, norms = zip(*steps, strict=True)
    return {"losses": list(losses), "gradient_norms": list(norms)}


def stored(task: str) -> dict[str, list[float]]:
    """Read the curve of a task."""
    return json.loads((HERE / f"{task}.json").read_text())


def main() -> None:
    """Write the curve of every task."""
    for task in TASKS:
        with tempfile.TemporaryDirectory() as folder:
            found = curve(task, Path(folder))
        (HERE / f"{task}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(task, " ".join(f"{loss:.4f}" for loss in found["losses"]))


if __name__ == "__main__":
    main()

"""Finding the worker that hangs, and saying where: the launcher looks at the workers' records.

A worker that waits for others does not hang; the one that they wait for does, in what it does or in the thread that
writes its checkpoint. It is asked for its stack by SIGUSR2,
which a stopped process cannot answer, and then killed, so that the others can go on.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from ziggurat.config import LaunchConfig
from ziggurat.parallel.runtime.frames import innermost_layer
from ziggurat.parallel.runtime.heartbeat import Activity, read_records

ANSWER_SECONDS = 3.0  # that a worker has for its stack


class HangWatch:
    """Looks for workers without a sign of life.

    Args:
        folder: Where the workers' stacks are written.
        records: The file of the workers' records.
        limits: The time-out of each section.
    """

    def __init__(self, folder: Path, records: Path, limits: LaunchConfig) -> None:
        self.folder = folder
        self.records = records
        self.seconds = {
            "set-up": limits.setup_seconds,
            "step": limits.step_seconds,
            "checkpoint": limits.checkpoint_seconds,
            "evaluation": limits.evaluation_seconds,
            "verification": limits.step_seconds,
        }
        self.interval = min(1.0, min(self.seconds.values()) / 4)

    def find(self, pids: Mapping[int, int]) -> dict[int, Activity]:
        """Return in what workers hang, by rank.

        Args:
            pids: Process id by rank of the workers that are there.
        """
        now = time.monotonic()
        known = [
            (rank, activity)
            for rank, pid in pids.items()
            for activity in read_records(self.records, rank)
            if activity.pid == pid
        ]
        overdue = [(rank, one) for rank, one in known if now - one.since > self.seconds[one.section]]
        stopped = [(rank, one) for rank, one in overdue if _state(pids[rank]) in "Tt"]
        culprits = stopped or [(rank, one) for rank, one in overdue if not one.waiting]
        if not culprits and overdue and all(one.waiting for _, one in known):
            culprits = [min(overdue, key=lambda place: place[1].since)]  # they wait for each other
        return dict(reversed(culprits))  # what a worker does itself is told before what it does beside that

    def describe(self, rank: int, pid: int, activity: Activity) -> str:
        """Return what is known of a worker that hangs: where it is, for how long, and its stack."""
        silent = time.monotonic() - activity.since
        limit = self.seconds[activity.section]
        head = (
            f"worker {rank} (process {pid} on {socket.gethostname()}) hangs: {silent:.1f} s without a sign of life, "
            f"more than the {limit:g} s of this section (launch.*_seconds), in {activity}"
        )
        if _state(pid) in "Tt":
            return f"{head}; the process is stopped (SIGSTOP or a debugger), so its stack is not known"
        stack, layer = stack_file(self.folder, rank), layer_file(self.folder, rank)
        os.kill(pid, signal.SIGUSR2)
        deadline = time.monotonic() + ANSWER_SECONDS
        while not (layer.exists() and stack.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        if layer.exists() and layer.read_text(encoding="utf-8"):
            head += f", layer {layer.read_text(encoding='utf-8')}"
        text = stack.read_text(encoding="utf-8", errors="replace") if stack.exists() else ""
        return f"{head}; its stack:\n{text}" if text else f"{head}; it gave no stack"


def stack_file(folder: Path, rank: int) -> Path:
    """Return the file that a worker's stack is written to."""
    return folder / f"stack-{rank}.txt"


def layer_file(folder: Path, rank: int) -> Path:
    """Return the file that the name of the layer is written to that a worker is in."""
    return folder / f"layer-{rank}.txt"


def answer_with_stack(folder: Path, rank: int) -> None:
    """Let this process write its stack when it gets SIGUSR2, also from within PyTorch's own code.

    The name of the layer follows as soon as Python's interpreter runs again.
    """

    def write_layer(number: int, frame: FrameType | None) -> None:
        partial = layer_file(folder, rank).with_suffix(".partial")
        partial.write_text(innermost_layer(frame), encoding="utf-8")
        partial.replace(layer_file(folder, rank))

    signal.signal(signal.SIGUSR2, write_layer)
    file = stack_file(folder, rank).open("w")
    faulthandler.register(signal.SIGUSR2, file, all_threads=True, chain=True)  # it keeps the file open


def _state(pid: int) -> str:
    """Return the kernel's letter for what a process does, such as T for stopped (see proc(5))."""
    try:
        return (
            Path(f"/proc/{pid}/stat")
            .read_text(encoding="ascii", errors="replace")
            .rpartition(")")[2]
            .split()[0]
        )
    except (FileNotFoundError, ProcessLookupError):
        return "X"  # it is gone, or this is no Linux


def where(activities: Sequence[Activity]) -> str:
    """Say in half a sentence what a worker was doing when it died; nothing of one that had not begun."""
    places = [str(activity) for activity in activities if activity.pid]
    return f" in {' and in '.join(places)}" if places else ""

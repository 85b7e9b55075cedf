"""How survivors learn that a worker is lost, where their own waits do not tell them.

    launcher   worker 2 is dead ──> folder/lost: "worker 2 was killed by SIGKILL in step 7, backward"
    worker 0   thread: is there a file? ──> Workers.abort(what it says) ──> CollectiveFailed where it waits

gloo notices that a connection is closed. NCCL does not: a kernel that waits for a dead peer spins for ever, and the process that
waits for the kernel with it. So on GPUs each worker has a thread that looks for the launcher's word some times a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOST = "lost"
LOOK_SECONDS = 0.2
LEAVE_SECONDS = 1.0  # that the thread has to end, if it is in the middle of what it does


def tell_loss(folder: Path, lost: str) -> None:
    """Tell all workers of an attempt that one of them is lost; what was told first stays.

    Args:
        folder: Of the attempt.
        lost: Which worker, and how.
    """
    place = folder / LOST
    if not place.exists():
        partial = place.with_suffix(".partial")
        partial.write_text(lost, encoding="utf-8")
        partial.replace(place)


@contextmanager
def listening(folder: Path, act: Callable[[str], None], seconds: float = LOOK_SECONDS) -> Iterator[None]:
    """Do something as soon as a worker is lost, in a thread, while a block runs.

    Args:
        folder: Of the attempt.
        act: Called once at most, with which worker is lost and how.
        seconds: Between two looks.
    """
    over = threading.Event()

    def listen() -> None:
        while not over.wait(seconds):
            if (folder / LOST).exists():
                act((folder / LOST).read_text(encoding="utf-8"))
                return

    thread = threading.Thread(target=listen, name="losses", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LEAVE_SECONDS)

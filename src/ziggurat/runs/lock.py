"""One run in one folder: a lock that says who holds it.

    run/.lock    {"pid": 4711, "host": "node3", "since": "2026-05-04 09:30:00"}

The lock is the kernel's (flock(2)) on that file, so that it ends with the process that holds it, however that ends; what stands in the
file only tells others who it is. On NFS (Linux 2.6.12 and later) and on Lustre mounted with ``flock`` it holds between machines. Where
a file system knows no such lock, the file itself counts, as long as its process may be alive: on this machine that is looked up, of another machine
it is believed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ziggurat.errors import UserError
from ziggurat.system.writing import CannotWrite

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
DYING_SECONDS = 5.0  # that the workers of a process that was killed may hold its lock after it
POLL_SECONDS = 0.05


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder of a run, and hold it while a block runs; what is empty afterwards, and is new, is removed.

    Raises:
        UserError: If another process holds it; the message says which.
        CannotWrite: If it cannot be made or written.
    """
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    except OSError as error:
        raise CannotWrite(path, error) from None
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone, or its disk read-only by now
            path.unlink()
        os.close(file)
        with suppress(OSError):  # the first that is not empty ends it
            for one in new:
                one.rmdir()


def _acquire(path: Path) -> int:
    """Return the lock's file, locked, with this process's name in it."""
    deadline = time.monotonic() + DYING_SECONDS
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if _lock(file):
                if _is_still(path, file):
                    os.ftruncate(file, 0)
                    os.pwrite(file, _own_name(), 0)
                    return file
            else:
                holder = _holder(file)
                if _may_live(holder) or time.monotonic() > deadline:
                    raise UserError(_taken(path, holder))
                time.sleep(POLL_SECONDS)
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder has removed it meanwhile, or is about to end


def _lock(file: int) -> bool:
    """Lock a file, and return whether it is now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        holder = _holder(file)
        return not holder or not _may_live(holder)
    return True


def _is_still(path: Path, file: int) -> bool:
    """Whether a name still leads to the file that was opened by it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _own_name() -> bytes:
    name = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    return json.dumps(name).encode() + b"\n"


def _holder(file: int) -> dict[str, Any]:
    """Return who holds the lock; nothing where that is not written yet."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _may_live(holder: dict[str, Any]) -> bool:
    """Whether the process that holds a lock may be alive; of this machine, whether it is."""
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    return Path(f"/proc/{holder.get('pid')}").exists()


def _taken(path: Path, holder: dict[str, Any]) -> str:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"
    elsewhere = holder and holder.get("host") != socket.gethostname()
    remedy = f"; if that has ended, remove {path}" if elsewhere else ""
    return f"{path.parent} is in use by {who}: choose another --out, or wait for its end{remedy}"

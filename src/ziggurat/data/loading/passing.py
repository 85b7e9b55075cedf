"""Passing a value with tensors to another process: one file in shared memory, which has no name.

The tensors lie one after the other, then the value itself, pickled, with places instead of tensors::

    0            64-byte borders                    start        size
    | images     | boxes | labels                   | the value  |

The file is made without a name (or loses it at once), so that nobody can leave it behind: it is there as long as a
process has it open or a tensor lies in it. Both sides are processes of one run; nothing from outside is unpickled.
"""

from __future__ import annotations

import errno
import io
import math
import mmap
import os
import pickle
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

SHARED_MEMORY = Path("/dev/shm")
BORDER = 64  # bytes: a line of the cache, and more than any type asks for


@dataclass(frozen=True)
class Passed:
    """A value in a file.

    Attributes:
        file: Its descriptor, which belongs to whoever holds this.
        start: Where the pickled value begins.
        size: Bytes of the file.
    """

    file: int
    start: int
    size: int


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class NoRoom(OSError):  # noqa: N818 - reads as what happened
    """A value cannot be passed on for want of shared memory; the message says of how many bytes, and what is free."""


def pass_on(value: object, folder: Path = SHARED_MEMORY) -> Passed:
    """Write a value into shared memory.

    Args:
        value: Anything that can be pickled; its tensors lie on the CPU.
        folder: Where the file is made; in memory.

    Raises:
        NoRoom: If there is too little shared memory, or none.
    """
    pickled = io.BytesIO()
    writer = _Writer(pickled)
    writer.dump(value)
    start, size = writer.end, writer.end + len(pickled.getbuffer())
    try:
        with _nameless_file(folder) as file:
            for offset, tensor in writer.tensors:
                _write(file, offset, tensor.reshape(-1).view(torch.uint8).numpy().data)
            _write(file, start, pickled.getbuffer())
            return Passed(os.dup(file.fileno()), start, size)
    except OSError as error:
        raise NoRoom(f"{size / 1e6:.1f} MB: {_room(folder)} ({error.strerror})") from None


def _nameless_file(folder: Path) -> BinaryIO:
    """Make a file without a name in a folder in memory; in memory of its own where the folder is read-only, or not there."""
    try:
        return cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0))
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.ENOENT):
            raise
        return cast(BinaryIO, os.fdopen(os.memfd_create("ziggurat"), "w+b", buffering=0))


def take(passed: Passed) -> Any:
    """Return a value that another process has passed on; its tensors lie in the shared memory.

    The file belongs to them from now on: with the last of them it is closed, and its memory is free.
    """
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE  # all pages at once, not one by one where they are read
    try:
        memory = mmap.mmap(passed.file, passed.size, flags=flags)
    finally:
        os.close(passed.file)
    return _Reader(memory, passed.start).load()


class _Writer(pickle.Pickler):
    """Pickles a value with places instead of its tensors.

    Attributes:
        tensors: Each with its offset.
        end: Bytes that they take.
    """

    def __init__(self, pickled: BinaryIO) -> None:
        super().__init__(pickled, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[int, Tensor]] = []
        self.end = 0

    def persistent_id(self, obj: Any) -> _Place | None:
        if not isinstance(obj, Tensor):
            return None
        place = _Place(obj.dtype, tuple(obj.shape), self.end)
        self.tensors.append((self.end, obj.detach()))
        self.end += -(-obj.nbytes // BORDER) * BORDER
        return place


class _Reader(pickle.Unpickler):
    """Unpickles a value whose tensors lie in the same memory."""

    def __init__(self, memory: mmap.mmap, start: int) -> None:
        super().__init__(io.BytesIO(memory[start:]))
        self._memory = memory

    def persistent_load(self, pid: _Place) -> Tensor:
        count = math.prod(pid.shape)
        if not count:
            return torch.empty(pid.shape, dtype=pid.dtype)
        # the tensor keeps the mapping, which ends with the last of them
        flat = torch.frombuffer(self._memory, dtype=pid.dtype, count=count, offset=pid.offset)
        return flat.view(pid.shape)


def _write(file: BinaryIO, offset: int, data: memoryview) -> None:
    """Write at a place of a file; a raw file may take less than all at once."""
    file.seek(offset)
    while data:
        data = data[file.write(data) :]


def _room(folder: Path) -> str:
    """Say how much shared memory there is, and how much of it is free."""
    try:
        about = os.statvfs(folder)
    except OSError:
        return f"there is no shared memory ({folder})"
    free, size = about.f_bavail * about.f_frsize / 1e6, about.f_blocks * about.f_frsize / 1e6
    return f"of the {size:.1f} MB of shared memory ({folder}) {free:.1f} are free"

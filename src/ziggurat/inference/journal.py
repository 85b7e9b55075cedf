"""What is done of a prediction, on disk as soon as it is done: how it goes on after a kill, and in bounded memory.

    found/.unfinished/
      request.json        weights, settings and inputs that it is a prediction of
      0001-0000.data      what worker 0 of the first attempt has found, one record after another
      0001-0000.jsonl     a line for each record: its kind and number, where it lies, its SHA-256

Kinds are ``tiles`` (what was found in the tiles of a batch), ``fault`` (why an image cannot be decoded) and ``image`` (the rows of an
image that is joined, drawn and written). Records are only added, and each attempt has files of its own, so that a kill spoils the
last one at most: a line that is not whole, and a record whose bytes are not those of its line, count as not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from ziggurat.system.writing import files_of

FOLDER = ".unfinished"
SYNC_SECONDS = 1.0  # between two waits for the disk; what a process has written outlives the process without


class Entry(NamedTuple):
    """Where a record lies.

    Attributes:
        file: That holds it.
        start: First byte.
        size: Bytes.
        num: What there is in it: rows of an image.
    """

    file: Path
    start: int
    size: int
    num: int

    def read(self) -> bytes:
        """Return the record."""
        with self.file.open("rb") as file:
            file.seek(self.start)
            return zlib.decompress(file.read(self.size))


class Journal:
    """Writes the records of one worker of one attempt.

    Args:
        folder: Of the journal; exists.
        name: Of this worker and attempt.
        clock: Says the time in seconds.
    """

    def __init__(self, folder: Path, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._next = clock() + SYNC_SECONDS
        with files_of(folder):
            self._data = (folder / f"{name}.data").open("ab", buffering=0)
            self._lines = (folder / f"{name}.jsonl").open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._data.close()
        self._lines.close()

    def add(self, kind: str, number: int, record: bytes, count: int = 0) -> None:
        """Add a record; it outlives this process when this returns.

        Raises:
            CannotWrite: If it cannot be written.
        """
        packed = zlib.compress(record, 1)
        with files_of(self._folder):
            line = {
                "kind": kind,
                "number": number,
                "start": self._data.tell(),
                "size": len(packed),
                "count": count,
            }
            line["sha256"] = _digest(kind, number, count, packed)
            _write(self._data.fileno(), packed)
            _write(self._lines.fileno(), json.dumps(line).encode() + b"\n")
            if self._clock() >= self._next:
                self.sync()

    def sync(self) -> None:
        """Wait until all is on the disk: it outlives the machine then."""
        with files_of(self._folder):
            os.fsync(self._data.fileno())
            os.fsync(self._lines.fileno())
        self._next = self._clock() + SYNC_SECONDS


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _digest(kind: str, number: int, count: int, packed: bytes) -> str:
    digest = hashlib.sha256(f"{kind} {number} {count}\n".encode())
    digest.update(packed)
    return digest.hexdigest()


Records = dict[tuple[str, int], Entry]  # by kind and number


def read_journal(folder: Path, check: bool = False) -> Records:
    """Return the records of all workers and attempts; of several of one kind and number the newest.

    Args:
        folder: Of the journal.
        check: Read each record, and leave out those whose bytes are not those of their line.

    Raises:
        CannotWrite: If it cannot be read.
    """
    found: Records = {}
    with files_of(folder):
        for lines in sorted(folder.glob("*.jsonl")):
            data = lines.with_suffix(".data")
            for line in lines.read_bytes().splitlines():
                entry = _entry(data, line, check)
                if entry is not None:
                    found[entry[0]] = entry[1]
    return found


def _entry(data: Path, line: bytes, check: bool) -> tuple[tuple[str, int], Entry] | None:
    """Return what a line says; None if it is not whole, or not of what lies there."""
    try:
        fields = json.loads(line)
        kind, number, count = str(fields["kind"]), int(fields["number"]), int(fields["count"])
        entry = Entry(data, int(fields["start"]), int(fields["size"]), count)
        digest = fields["sha256"]
    except (ValueError, KeyError, TypeError):
        return None
    if check:
        with data.open("rb") as file:
            file.seek(entry.start)
            if _digest(kind, number, count, file.read(entry.size)) != digest:
                return None
    return (kind, number), entry

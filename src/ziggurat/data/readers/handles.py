"""Handles of a library whose datasets serve one thread at a time, lent to whoever reads.

A handle belongs to the process that has opened it: forked processes share the place in the file, so a child opens its own, and lets go of
those that it has inherited without using them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar


class Closes(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Close it."""


Handle = TypeVar("Handle", bound=Closes)
Key = TypeVar("Key", bound=Hashable)


class Handles(Generic[Key, Handle]):
    """Opens handles as threads need them, and keeps a few for the next reads.

    Args:
        open_one: Opens one, of a key (a level).
        kept: Most handles that are kept while nobody reads.

    Example:
        >>> import io
        >>> handles = Handles(lambda key: io.StringIO(key))
        >>> with handles.lend("text") as one:
        ...     one.getvalue()
        'text'
        >>> handles.close()
    """

    def __init__(self, open_one: Callable[[Key], Handle], kept: int = 4) -> None:
        self._open, self._kept = open_one, kept
        self._begin()

    def _begin(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()
        self._free: list[tuple[Key, Handle]] = []

    @contextmanager
    def lend(self, key: Key) -> Iterator[Handle]:
        """Lend a handle to the body of a ``with``; one whose body has raised is closed."""
        handle = self._take(key)
        try:
            yield handle
        except BaseException:
            with suppress(Exception):  # what went wrong before is what counts
                handle.close()
            raise
        self._give_back(key, handle)

    def _take(self, key: Key) -> Handle:
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            for number, (known, handle) in enumerate(self._free):
                if known == key:
                    del self._free[number]
                    return handle
        return self._open(key)

    def _give_back(self, key: Key, handle: Handle) -> None:
        with self._lock:
            self._free.append((key, handle))
            oldest = self._free.pop(0)[1] if len(self._free) > self._kept else None
        if oldest is not None:
            oldest.close()

    def close(self) -> None:
        """Close what is kept."""
        if self._process == os.getpid():
            with self._lock:
                left, self._free = self._free, []
            for _, handle in left:
                handle.close()

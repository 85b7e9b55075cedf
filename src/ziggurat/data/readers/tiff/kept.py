"""What was decoded or read last, within a number of bytes: neighbouring regions share strips and tiles, and all regions of an image its tags."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar


class HasBytes(Protocol):
    """What takes room in memory."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        ...


Value = TypeVar("Value", bound=HasBytes)


class Kept(Generic[Value]):
    """Keeps values by their keys; safe to use from several threads, and in forked processes, each of which keeps its own.

    Args:
        max_bytes: Most bytes that are kept.
        alone: Most bytes of a larger value, which is kept alone, until another is.
    """

    def __init__(self, max_bytes: int, alone: int = 0) -> None:
        self.max_bytes, self.alone = max_bytes, max(alone, max_bytes)
        self.forget()
        _ALL.add(self)

    def forget(self) -> None:
        """Keep nothing of before, in a lock of its own: another thread may have held the lock when a process was forked."""
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key; it is shared, and must not be changed."""
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
                return found
        made = make()
        with self._lock:
            if made.nbytes <= self.alone and key not in self._values:
                self._values[key] = made
                self.bytes += made.nbytes
            while self.bytes > self.max_bytes and (len(self._values) > 1 or self.bytes > self.alone):
                self.bytes -= self._values.popitem(last=False)[1].nbytes
        return made


_ALL: weakref.WeakSet[Kept[Any]] = weakref.WeakSet()


def _forget_all() -> None:
    for kept in list(_ALL):
        kept.forget()


os.register_at_fork(after_in_child=_forget_all)

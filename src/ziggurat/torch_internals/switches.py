"""Changes of PyTorch for a while: on while any block of any thread needs them, and off as soon as none does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

See = TypeVar("See", bound=Callable[..., object])


class Switch:
    """A change of the whole process that blocks of several threads may need at once.

    Args:
        on: Makes it; called as the first block begins.
        off: Takes it back; called as the last one ends.
    """

    def __init__(self, on: Callable[[], None], off: Callable[[], None]) -> None:
        self._on, self._off = on, off
        self._lock = threading.Lock()
        self._blocks = 0  # of all threads

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a block run while the change is on."""
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                self._on()
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._off()


class _Stack(threading.local, Generic[See]):
    """Who watches in this thread, the innermost last."""

    def __init__(self) -> None:
        self.watchers: list[See] = []


class Watch(Generic[See]):
    """Lets functions see what one thread does, by what stands in PyTorch's place while anybody watches.

    Other threads are not concerned: for them `watcher` is None, and what stands in PyTorch's place has to do as PyTorch does.

    Args:
        on: Puts it into PyTorch's place.
        off: Takes it back.
    """

    def __init__(self, on: Callable[[], None], off: Callable[[], None]) -> None:
        self._switch = Switch(on, off)
        self._stack: _Stack[See] = _Stack()

    @property
    def watcher(self) -> See | None:
        """Who watches in this thread: of several blocks the innermost."""
        return self._stack.watchers[-1] if self._stack.watchers else None

    @contextmanager
    def by(self, see: See) -> Iterator[None]:
        """Let a function see what this thread does while a block runs."""
        with self._switch.held():
            self._stack.watchers.append(see)
            try:
                yield
            finally:
                self._stack.watchers.pop()

"""Names and what they stand for: tasks, formats and models of ours, of the user's script, and of other packages.

A registry has three sources, asked in this order: what the house registers itself, what a script registers by
`Registry.register`, and the *entry points* of installed packages, which are read when a name is first looked for::

    [project.entry-points."ziggurat.tasks"]
    count = "my_package.counting:CountTask"

Workers that are forked have what their parent has registered. Workers that are spawned (on GPUs) import the script's
module again, and so register again what it registers outside of ``if __name__ == "__main__"``; entry points are found
by every process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from ziggurat.errors import UserError, nearest

Entry = TypeVar("Entry")


def _installed(group: str) -> Iterable[EntryPoint]:
    return entry_points(group=group)


class Registry(Mapping[str, Entry], Generic[Entry]):
    """A mapping from names to entries, in the order in which they were registered; the house's own come first.

    Args:
        kind: What an entry is, in messages.
        group: The group of entry points that is read too.
        points_of: Returns the entry points of a group: those of the packages that are installed.

    Example:
        >>> colours: Registry[int] = Registry("colour", "example.colours")
        >>> colours.register("red", 1)
        1
        >>> list(colours), colours["red"]
        (['red'], 1)
    """

    def __init__(
        self, kind: str, group: str, points_of: Callable[[str], Iterable[EntryPoint]] = _installed
    ) -> None:
        self.kind, self.group = kind, group
        self._points_of = points_of
        self._entries: dict[str, Entry] = {}
        self._sources: dict[str, str] = {}
        self._is_complete = False

    def register(self, name: str, entry: Entry, source: str = "") -> Entry:
        """Give a name to an entry, and return the entry; the same entry may be registered twice.

        Args:
            name: Not taken by another entry.
            entry: What it stands for.
            source: Where it comes from, for messages; empty takes the entry's module.

        Raises:
            UserError: If another entry has the name; names both.
        """
        source = source or _source_of(entry)
        if name in self._entries and self._entries[name] is not entry:
            raise UserError(
                f"the name of a {self.kind} must be free: '{name}' of {source} is that of {self._sources[name]}; rename one"
            )
        self._entries[name], self._sources[name] = entry, source
        return entry

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Let what the body registers be forgotten behind it.

        Example:
            >>> colours: Registry[int] = Registry("colour", "example.colours")
            >>> with colours.as_before():
            ...     list(colours) or colours.register("red", 1)
            1
            >>> list(colours)
            []
        """
        self._complete()
        entries, sources = dict(self._entries), dict(self._sources)
        try:
            yield
        finally:
            self._entries, self._sources = entries, sources

    def find(self, name: str) -> Entry:
        """Return what a name stands for.

        Raises:
            UserError: If nothing has the name; names the nearest one.
        """
        if name not in self:
            raise UserError(f"unknown {self.kind} '{name}': {nearest(name, list(self))}")
        return self[name]

    def __getitem__(self, name: str) -> Entry:
        self._complete()
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self._complete()
        return iter(self._entries)

    def __len__(self) -> int:
        self._complete()
        return len(self._entries)

    def _complete(self) -> None:
        """Read the entry points, once."""
        if self._is_complete:
            return
        self._is_complete = True  # before loading: a module that is loaded may ask too
        for point in self._points_of(self.group):
            self.register(point.name, point.load(), f"the entry point {point.value}")


def _source_of(entry: object) -> str:
    """Return the module and name of a class or function; of another object those of its class."""
    named = entry if hasattr(entry, "__qualname__") else type(entry)
    return f"{named.__module__}.{getattr(named, '__qualname__', '')}"

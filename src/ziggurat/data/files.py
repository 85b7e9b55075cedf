"""The files in a data set's folders, as every format and every command lists them.

What file managers, notebooks and archives leave behind is no part of a data set: a preview in ``.ipynb_checkpoints``, ``._photo.jpg`` of a Mac,
``__MACOSX`` of its archives. A file that the user names, or that an annotation names, is taken whatever it is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# of archives made on a Mac, of network drives, of Windows, of file systems
LEFT_BEHIND = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__",
                         "thumbs.db", "desktop.ini"})  # fmt: skip


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder is one that no data set means.

    Example:
        >>> [is_hidden(name) for name in ("a.jpg", "._a.jpg", ".ipynb_checkpoints", "__MACOSX", "~a.jpg")]
        [False, True, True, True, False]
    """
    return name.startswith(".") or name.lower() in LEFT_BEHIND


def entries_of(folder: Path) -> list[Path]:
    """Return what lies in a folder, in the order of names, without what is hidden."""
    with os.scandir(folder) as found:
        return sorted(folder / entry.name for entry in found if not is_hidden(entry.name))


def folders_of(folder: Path) -> list[Path]:
    """Return the folders in a folder, in the order of names, without hidden ones."""
    return [entry for entry in entries_of(folder) if entry.is_dir()]


def files_of(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in a folder whose names end in one of some suffixes (in small letters), whatever their case."""
    endings = tuple(suffixes)
    return [entry for entry in entries_of(folder) if entry.name.lower().endswith(endings) and entry.is_file()]


def walk_files(
    folder: Path, suffixes: Sequence[str], passes_over: Callable[[Path], bool] = lambda inner: False
) -> Iterator[Path]:
    """Yield the files in a folder, and in the folders in it, whose names end in one of some suffixes (in small letters).

    Folders are walked through in the order of names, links among them once; what is hidden is passed over, and each folder
    in the folder that `passes_over` says.
    """
    endings = tuple(suffixes)
    walked: set[str] = set()
    for inner, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(inner)
        if real in walked:  # a link to a folder above would have no end
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(
            name for name in folders if not is_hidden(name) and not passes_over(Path(inner, name))
        )
        for name in sorted(names):
            if name.lower().endswith(endings) and not is_hidden(name):
                yield Path(inner, name)

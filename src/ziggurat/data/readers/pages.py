"""Which page of a file a path means: ``stack.tif#3`` is the fourth picture of ``stack.tif``.

Pages count from 0. A file that is really named so wins over a page of another one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER_SUFFIXES = (".zarr",)  # of images that are folders

_PAGE = re.compile(r"(.+)#(\d{1,9})", re.DOTALL)


def split_page(path: Path) -> tuple[Path, int | None]:
    """Return the file that a path means, and the page in it; None where it names none.

    Example:
        >>> split_page(Path("no such folder/stack.tif#3"))
        (PosixPath('no such folder/stack.tif'), 3)
        >>> split_page(Path("stack.tif"))
        (PosixPath('stack.tif'), None)
    """
    found = _PAGE.fullmatch(path.name) if "#" in path.name else None
    if found is None or path.exists():
        return path, None
    return path.with_name(found[1]), int(found[2])


def without_page(name: str) -> str:
    """Return the name of a file from one that may name a page of it; looks at no disk.

    Example:
        >>> without_page("night/stack.tif#3"), without_page("c#.tif")
        ('night/stack.tif', 'c#.tif')
    """
    found = _PAGE.fullmatch(name)
    return name if found is None else found[1]


def stem_of(path: Path) -> str:
    """Return the name of a file without its suffix, and with the page where one is named.

    Example:
        >>> stem_of(Path("night/stack.tif#3")), stem_of(Path("night/a.tif"))
        ('stack#3', 'a')
    """
    name = without_page(path.name)
    return Path(name).stem + path.name[len(name) :]


def is_image_there(path: str | os.PathLike[str]) -> bool:
    """Whether the file that a path means, with a page or without, is there, or a folder that is an image (of Zarr's)."""
    if os.path.isfile(path):
        return True
    name = os.path.basename(path)
    if "#" in name:
        return os.path.isfile(split_page(Path(path))[0])
    return name.lower().endswith(FOLDER_SUFFIXES) and os.path.isdir(path)

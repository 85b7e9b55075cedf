"""Lists of images: text files with a path a line, and standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from ziggurat.data.readers.pages import is_image_there
from ziggurat.errors import UserError

LIST = ".txt"
STANDARD_INPUT = "-"


def expand_lists(paths: Sequence[str], stream: BinaryIO | None = None) -> list[str]:
    """Return paths with those of lists in the place of the lists.

    Args:
        paths: As the user gives them: a file that ends in ``.txt`` is a list, and ``-`` is standard input. A path in a list is taken
            from the present folder, or from that of the list where it is not there; it is no list itself.
        stream: In the place of standard input.

    Raises:
        UserError: If a list is empty, or cannot be read.
    """
    found = []
    for path in paths:
        if path == STANDARD_INPUT:
            found += _named("standard input", stream or sys.stdin.buffer)
        elif path.lower().endswith(LIST) and Path(path).is_file():
            try:
                lines = Path(path).read_bytes().splitlines()
            except OSError as error:
                raise UserError(
                    f"the list {path} cannot be read: {error.strerror}; see to its rights"
                ) from None
            found += [_beside(one, Path(path).parent) for one in _named(f"the list {path}", lines)]
        else:
            found.append(path)
    return found


def _named(what: str, lines: Iterable[bytes]) -> list[str]:
    """Return the paths of lines; empty lines are none."""
    found = [os.fsdecode(line).strip("\r\n") for line in lines if line.strip()]
    if not found:
        raise UserError(f"{what} names no image: give a path a line")
    return found


def _beside(path: str, folder: Path) -> str:
    there = folder / path
    is_here = Path(path).exists() or is_image_there(path)
    return str(there) if not is_here and (there.exists() or is_image_there(there)) else path

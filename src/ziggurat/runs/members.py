"""What names several trained models whose predictions are averaged.

RUN,RUN,...            each is a run, a checkpoint or a file of weights, as `reference` has them
runs/detect-1          a folder that was trained with ``--members N``: its runs ``member-0``, ``member-1`` ...
runs/detect-1@best     of each of them that checkpoint
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ziggurat.errors import UserError
from ziggurat.runs.folder import WEIGHTS

MEMBERS = "members.yaml"  # in a folder of members: the config that they have in common

RunName = str | os.PathLike[str]
RunNames = RunName | Sequence[RunName]


def member_folder(folder: Path, number: int) -> Path:
    """Return the folder of a member.

    Example:
        >>> member_folder(Path("runs/detect-1"), 2).as_posix()
        'runs/detect-1/member-2'
    """
    return folder / f"member-{number}"


def is_of_members(folder: RunName) -> bool:
    """Whether a folder was trained with several members."""
    return (Path(folder) / MEMBERS).is_file()


def names_of_runs(given: RunNames) -> tuple[str, ...]:
    """Return the name of each run that is meant.

    Args:
        given: One name, several with commas between, or a sequence of names; the name of a file or folder may have commas itself.

    Raises:
        UserError: If one is given twice, or a folder of members lacks one.
    """
    names = [os.fspath(given)] if isinstance(given, (str, os.PathLike)) else [os.fspath(one) for one in given]
    found = [run for name in names for part in _parts(name) for run in _members(part)]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise UserError(
            f"runs that are averaged must differ: {', '.join(twice)} is given twice; name each once"
        )
    if not found:
        raise UserError("no run is given: name one, or several with commas between")
    return tuple(found)


def _parts(name: str) -> list[str]:
    if "," not in name or Path(name).exists():
        return [name]
    parts = [part.strip() for part in name.split(",")]
    if not all(parts):
        raise UserError(f"runs are named with one comma between: got '{name}'; leave out the empty name")
    return parts


def _members(name: str) -> list[str]:
    """Return the members of a folder, or the name itself."""
    base, at, word = (name, "", "") if Path(name).exists() else name.rpartition("@")
    folder = Path(base)
    if not base or not is_of_members(folder):
        return [name]
    numbers = sorted(
        int(one.name.removeprefix("member-"))
        for one in folder.glob("member-*")
        if one.name.removeprefix("member-").isdecimal()
    )
    lacking = [n for n in numbers if not at and not (member_folder(folder, n) / WEIGHTS).is_file()]
    if lacking or not numbers:
        raise UserError(
            f"all members of {folder} must have come to their end: {', '.join(f'member-{n}' for n in lacking) or 'none'} has not; go on "
            f"with `ziggurat train --out {folder} --resume`, or name those that have, with commas between"
        )
    return [f"{member_folder(folder, number)}{at}{word}" for number in numbers]

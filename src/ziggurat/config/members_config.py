"""What of a run's config says which of several models it trains, and on what."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ziggurat.config.fields import SEED, Rule, between, setting

MOST = 64


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= most


MEMBER = Rule(
    f"be all, or the number of a member, up to {MOST - 1}",
    f"all, or 0 to {MOST - 1}",
    lambda text: text == "all" or _is_number(text, MOST - 1),
)
SEED_OR_NONE = Rule(
    f"be empty, or a whole number from 0 to {SEED}",
    f"empty, or 0 to {SEED}",
    lambda text: not text or _is_number(text, SEED),
)


def read_grouping(text: str) -> tuple[str, str]:
    """Return by what images are grouped: ``folder``, ``regex`` or the file of a table, and the pattern or the column.

    Example:
        >>> read_grouping("folder"), read_grouping("regex:^p([0-9]+)_"), read_grouping("sets/patients.csv:patient")
        (('folder', ''), ('regex', '^p([0-9]+)_'), ('sets/patients.csv', 'patient'))
    """
    if text.startswith("regex:"):
        return "regex", text.removeprefix("regex:")
    if text == "folder":
        return "folder", ""
    file, _, column = text.rpartition(":")
    return file, column


def _is_grouping(text: str) -> bool:
    if not text or text == "folder":
        return True
    kind, what = read_grouping(text)
    if kind != "regex":
        return bool(kind.strip() and what.strip()) and "\0" not in text
    try:
        return bool(what) and bool(re.compile(what))
    except (re.error, OverflowError, RecursionError):  # no pattern, or one that cannot be made
        return False


GROUPING = Rule(
    "be empty, folder, regex:PATTERN with a regular expression, or FILE:COLUMN with a CSV file and one of its columns",
    "empty, folder, regex:PATTERN, FILE:COLUMN",
    _is_grouping,
)


@dataclass(frozen=True)
class MembersConfig:
    """Several models whose predictions are averaged, each a run of its own."""

    count: int = setting(
        1,
        "Models that are trained, one after the other, each in a folder of its own in the run's (``member-0``, ``member-1`` ...).",
        between(1, MOST),
    )
    data: Literal["all", "disjoint", "bootstrap", "folds"] = setting(
        "all",
        "What each is trained on: ``all`` images, from another seed; ``disjoint`` parts of them; a ``bootstrap`` sample, as many as "
        "there are, drawn with replacement; or ``folds`` for cross-validation: all but one of as many parts, on which it is evaluated.",
    )
    member: str = setting(
        "all", "The one that this run trains, from ``0``; ``all`` trains each of them.", MEMBER
    )
    seed: str = setting(
        "",
        "Keys what each is trained on; empty takes ``seed``, and then draws a ``seed`` for each member from it. The run of a member "
        "holds both.",
        SEED_OR_NONE,
    )
    stratify: Literal["none", "classes"] = setting(
        "none",
        "How images are divided among the members with ``data=disjoint`` or ``folds``: by chance alone (``none``), or so that each class is as "
        "frequent in every part as in the whole (``classes``), for which all annotations are read first.",
    )

    groups: str = setting(
        "",
        "Images that belong together, such as those of one patient or flight: with ``data=disjoint`` or ``folds`` no group is divided among "
        "parts. ``folder``: those of one folder. ``regex:PATTERN``: those in whose names (as in the annotations) the pattern's first group, "
        "or all that it matches, is the same. ``FILE:COLUMN``: those that have the same entry in a column of a CSV file. Empty: each stands for itself.",
        GROUPING,
    )

    @property
    def number(self) -> int:
        """Of the member that is trained; -1 for all of them."""
        return int(self.member) if _is_number(self.member, MOST - 1) else -1

    @property
    def key(self) -> int | None:
        """The seed that all members have in common, if it is decided."""
        return int(self.seed) if _is_number(self.seed, SEED) else None

"""What is wrong with a data set, and what becomes of it: the one place that knows ``data.on_error``.

=============  ==============================================================  =======================================
scope          such as                                                         with ``data.on_error=skip``
=============  ==============================================================  =======================================
annotation     a box without area, an outline of two points                    it is left out
image          missing, broken, of another size than its annotations say       it is left out with its annotations
set            a class that nobody knows, an empty split, an unreadable file   nothing: the set cannot be used
remark         the same image or box twice                                     nothing: it does no harm
=============  ==============================================================  =======================================

With ``stop`` each of them but a remark makes the set unusable. What is left out follows from the data set alone, before a
sample is drawn, and so is the same on any number of workers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Scope = Literal["annotation", "image", "set", "remark"]
OnError = Literal["stop", "skip"]

_SHOWN = 3  # faults of a kind that are listed one by one


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set.

    Attributes:
        file: The file that is wrong.
        id: What is wrong in it: the annotation's or the image's id (COCO), the object's number from 1 (VOC), the
            line (CSV, YOLO); None if it is the file itself.
        fault: The kind of fault, a colon, and its details with the remedy.
        scope: What of the data set it spoils.
        row: Which of the table's annotations or images that is; None if it never came into the table.
    """

    file: str
    id: int | str | None
    fault: str
    scope: Scope = "set"
    row: int | None = field(default=None, compare=False)

    @property
    def kind(self) -> str:
        """The kind of fault, such as ``box without area``."""
        return self.fault.partition(":")[0]

    def __str__(self) -> str:
        place = self.file if self.id is None else f"{self.file}, {self.id}"
        return f"{place}: {self.fault}"

    def facts(self) -> dict[str, object]:
        """Return what is listed of it in JSON."""
        return {"file": self.file, "id": self.id, "fault": self.fault, "scope": self.scope}


class Faults:
    """The faults of a split, divided by the policy into what stops and what is left out.

    Args:
        on_error: The policy.
        faults: The first of them.

    Example:
        >>> faults = Faults("skip", [Fault("a.csv", 3, "box without area: 0, 0, 0, 5", "annotation", row=1)])
        >>> faults.stopping, len(faults.skipped), faults.rows("annotation")
        ([], 1, {1})
    """

    def __init__(self, on_error: OnError, faults: Iterable[Fault] = ()) -> None:
        self.on_error = on_error
        self.all: list[Fault] = []
        self.add(*faults)

    def add(self, *faults: Fault) -> None:
        """Take note of faults."""
        self.all += faults

    @property
    def stopping(self) -> list[Fault]:
        """Those that make the set unusable."""
        return [fault for fault in self.all if self.stops(fault)]

    @property
    def skipped(self) -> list[Fault]:
        """Those whose annotation or image is left out."""
        return [] if self.on_error == "stop" else [one for one in self.all if can_be_left_out(one)]

    def stops(self, fault: Fault) -> bool:
        """Whether a fault makes the set unusable."""
        if fault.scope == "remark":
            return False
        return self.on_error == "stop" or not can_be_left_out(fault)

    def rows(self, scope: Literal["annotation", "image"]) -> set[int]:
        """Return the rows of the table that are left out."""
        return {fault.row for fault in self.skipped if fault.scope == scope and fault.row is not None}


def can_be_left_out(fault: Fault) -> bool:
    """Whether what a fault spoils is a part of the set."""
    return fault.scope in ("annotation", "image")


def sentences(faults: Sequence[Fault], path: str) -> list[str]:
    """Put faults that stop into words: the first of each kind, how many more there are, and the remedies.

    Args:
        faults: Of a split.
        path: The data set, as ``ziggurat check`` takes it.
    """
    found = []
    for kind, count in Counter(fault.kind for fault in faults).items():
        shown = [fault for fault in faults if fault.kind == kind][:_SHOWN]
        lines = [str(fault) for fault in shown]
        if count > len(shown):
            lines.append(
                f"{count - len(shown)} more of '{kind}': run 'ziggurat check {path}' to see them all"
            )
        if can_be_left_out(shown[0]):
            lines[-1] += f"; or leave {_those(shown[0], count)} out: --set data.on_error=skip"
        found += lines
    return found


def _those(fault: Fault, count: int) -> str:
    return f"this {fault.scope}" if count == 1 else f"these {count} {fault.scope}s"


def left_out(faults: Sequence[Fault]) -> tuple[str, ...]:
    """Say what was left out, in a sentence for each kind of fault.

    Example:
        >>> left_out([Fault("a.csv", 3, "box without area: 0, 0, 0, 5", "annotation")])
        ('left out by data.on_error=skip: 1 annotation (a.csv, 3: box without area: 0, 0, 0, 5)',)
    """
    first: dict[tuple[str, str], Fault] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for fault in faults:
        first.setdefault((fault.scope, fault.kind), fault)
        counts[fault.scope, fault.kind] += 1
    return tuple(
        f"left out by data.on_error=skip: {count} {scope}{'s' if count > 1 else ''} "
        f"({'such as ' if count > 1 else ''}{first[scope, kind]})"
        for (scope, kind), count in counts.items()
    )


def count_left_out(faults: Iterable[Fault]) -> dict[str, int]:
    """Return how many annotations and images have faults; those of one image, or one annotation, count once.

    Example:
        >>> count_left_out([Fault("a.png", None, "broken: x", "image"), Fault("a.png", None, "size: y", "image")])
        {'annotations': 0, 'images': 1}
    """
    found = {(one.scope, one.file, one.id, one.row) for one in faults}
    counts = Counter(scope for scope, *_ in found)
    return {"annotations": counts["annotation"], "images": counts["image"]}


def listing(by_split: Mapping[str, Sequence[Fault]]) -> str:
    """Return what a run's list of left-out things says: a line of JSON for each."""
    lines = [
        json.dumps({"split": split, **fault.facts()})
        for split, faults in by_split.items()
        for fault in faults
    ]
    return "".join(f"{line}\n" for line in lines)

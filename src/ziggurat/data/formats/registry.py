"""Every format of data sets by its name, with what reads it and what writes it.

A format from outside is registered as ours are (in `builtin`), by a script (`register_format`) or by a package (the group of
entry points ``ziggurat.formats``); see `ziggurat.config.registry`. It recognises a path itself, and is asked before ours::

    register_format(Format("points", read={"boxes": read_points}, recognise=find_points))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ziggurat.config.registry import Registry
from ziggurat.data.formats.table import Source, Split, Table

Read = Callable[[Source], Table]
# Takes the data set of a split, the split, the name of each image file and the data set's folder; writes the annotations,
# and returns the folder of each image in the data set's.
Write = Callable[[Any, Split, Sequence[str], Path], list[str]]
# Where each split lies, for each kind of annotation, the most natural first.
Splits = dict[str, dict[Split, Source]]


@dataclass(frozen=True)
class Format:
    """A format of data sets.

    Attributes:
        name: What ``--format`` calls it.
        read: What reads the annotations of a split, for each kind of them (`kinds`).
        recognise: Returns where the splits of a data set lie, whose path is given; nothing if it is of another format.
            None for formats that are found by the layouts of `recognise`.
        write: What writes a split, for each kind of annotation, the most natural first; may be empty.
    """

    name: str
    read: Mapping[str, Read]
    recognise: Callable[[Path], Splits] | None = None
    write: Mapping[str, Write] = field(default_factory=dict)


FORMATS: Registry[Format] = Registry("format", "ziggurat.formats")


def register_format(format: Format) -> Format:
    """Give a format its name in `FORMATS`.

    Raises:
        UserError: If another format has the name.
    """
    return FORMATS.register(format.name, format)

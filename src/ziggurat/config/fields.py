"""A setting is a field that carries its help and its range: one source for the checks, the command line and the docs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

_KEY = "setting"  # of a field's metadata


@dataclass(frozen=True)
class Rule:
    """What a value must be, whatever the data and the plan are.

    Attributes:
        words: Says it after "must".
        short: Says it in a table.
        holds: Whether a value is so.
    """

    words: str
    short: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its type and default.

    Attributes:
        help: What it means, in whole sentences; code stands in double backquotes.
        rule: What its value must be; None lets its type decide.
    """

    help: str
    rule: Rule | None


def setting(default: T, help: str, rule: Rule | None = None) -> T:
    """Return a field of a frozen dataclass.

    Args:
        default: Its default.
        help: What it means.
        rule: What its value must be.

    Example:
        >>> @dataclass(frozen=True)
        ... class Section:
        ...     depth: int = setting(2, "Convolutions of a stage.", POSITIVE)
        >>> Section().depth, about(dataclasses.fields(Section)[0]).help
        (2, 'Convolutions of a stage.')
    """
    # as `dataclasses.field`, whose declared type is that of the default, too
    made: T = field(default=default, metadata={_KEY: Setting(help, rule)})
    return made


def about(item: dataclasses.Field[Any]) -> Setting:
    """Return what is known of a field that `setting` has made."""
    known: Setting = item.metadata[_KEY]
    return known


def settings_of(record: Any, prefix: str = "") -> Iterator[tuple[str, Any, Setting]]:
    """Yield the dotted name of every setting of a config, its value, and what is known of it."""
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if dataclasses.is_dataclass(value):
            yield from settings_of(value, f"{prefix}{item.name}.")
        else:
            yield prefix + item.name, value, about(item)


def _is_range(text: str) -> bool:
    """Whether a text is empty, or LOW,HIGH."""
    try:
        numbers = [float(part) for part in text.split(",")] if text.strip() else [0.0, 1.0]
    except ValueError:
        return False
    return len(numbers) == 2 and all(map(math.isfinite, numbers)) and numbers[0] < numbers[1]


POSITIVE = Rule("be positive", "positive", lambda value: value > 0)
NOT_NEGATIVE = Rule("not be negative", "0 or more", lambda value: value >= 0)
SHARE = Rule("be in [0, 1)", "[0, 1)", lambda value: 0 <= value < 1)
PROBABILITY = Rule("be in [0, 1]", "[0, 1]", lambda value: 0 <= value <= 1)
PIXEL_VALUE = Rule("be the value of a pixel, 0 to 255", "0 to 255", lambda value: 0 <= value <= 255)
SIDES = Rule(
    "name sides in pixels with commas between, such as 448,512",
    "whole numbers",
    lambda value: re.fullmatch(r"( *[1-9][0-9]* *(,|$))*", value) is not None,
)
SAMPLE_RANGE = Rule(
    "be two numbers with a comma between, the first smaller, such as 0,4095",
    "LOW,HIGH",
    _is_range,
)

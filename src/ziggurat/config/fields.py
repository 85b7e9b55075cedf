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
        ...     depth: int = setting(2, "Convolutions of a stage.", between(1, 100))
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


def between(low: float, high: float) -> Rule:
    """Return the rule of a number with both bounds.

    Example:
        >>> rule = between(1, 1 << 16)
        >>> rule.words, rule.short, rule.holds(0), rule.holds(65536)
        ('be from 1 to 65536', '1 to 65536', False, True)
    """
    words = f"{low:g}" if isinstance(low, float) else str(low)
    words += f" to {high:g}" if isinstance(high, float) else f" to {high}"
    return Rule(f"be from {words}", words, lambda value: low <= value <= high)


def zero_or(low: float, high: float) -> Rule:
    """Return the rule of a number that may also be 0, which turns off what it sets.

    Example:
        >>> rule = zero_or(1e-3, 10.0)
        >>> rule.words, rule.holds(0), rule.holds(1e-9)
        ('be 0, or from 0.001 to 10', True, False)
    """
    inner = between(low, high)
    return Rule(
        f"be 0, or {inner.words.removeprefix('be ')}",
        f"0, {inner.short}",
        lambda value: value == 0 or inner.holds(value),
    )


def _is_range(text: str) -> bool:
    """Whether a text is empty, or LOW,HIGH."""
    try:
        numbers = [float(part) for part in text.split(",")] if text.strip() else [0.0, 1.0]
    except ValueError:
        return False
    return len(numbers) == 2 and all(map(math.isfinite, numbers)) and numbers[0] < numbers[1]


def _are_sides(text: str) -> bool:
    """Whether a text is empty, or sides of a crop."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    return (
        all(re.fullmatch("[0-9]{1,6}", part) and MIN_SIDE <= int(part) <= MAX_SIDE for part in parts)
        and len(parts) <= 64
    )


def _are_bins(text: str) -> bool:
    """Whether a text is a list of bins along a side."""
    parts = [part.strip() for part in text.split(",")]
    return (
        all(re.fullmatch("[0-9]{1,3}", part) and 1 <= int(part) <= 64 for part in parts) and len(parts) <= 8
    )


def _are_shares(text: str) -> bool:
    """Whether a text is a list of rising shares between 0 and 1."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return False
    return (
        len(numbers) <= 64 and all(0 < number < 1 for number in numbers) and numbers == sorted(set(numbers))
    )


def _are_counts(text: str) -> bool:
    """Whether a text is a word for shares, or numbers of microbatches."""
    parts = text.split(",")
    return text in ("even", "measured") or (
        all(re.fullmatch("0|[1-9][0-9]{0,6}", part) for part in parts)
        and 0 < sum(map(int, parts)) <= COUNT
        and len(parts) <= COUNT
    )


def _are_bands(text: str) -> bool:
    """Whether a text is a word for the bands of images, or their numbers."""
    parts = [part.strip() for part in text.split(",")]
    return text in ("auto", "rgb", "all") or (
        all(re.fullmatch("[1-9][0-9]{0,3}", part) and int(part) <= MAX_BANDS for part in parts)
        and len(parts) <= MAX_BANDS
    )


def _is_layout(text: str) -> bool:
    """Whether a text is empty, or a number of bands and a type of samples, or the type alone."""
    return bool(re.fullmatch(r"(([1-9][0-9]{0,3} )?(u?int(8|16|32|64)|float(16|32|64)))?", text))


def _are_numbers(text: str) -> bool:
    """Whether a text is empty, or finite numbers."""
    try:
        return all(math.isfinite(float(part)) for part in text.split(",")) if text.strip() else True
    except ValueError:
        return False


def _are_ranges(text: str) -> bool:
    """Whether a text is empty, or one or three LOW:HIGH."""
    parts = text.split(",") if text.strip() else []
    return len(parts) in (0, 1, 3) and all(
        _is_range(part.replace(":", ",")) and part.strip() for part in parts
    )


MIN_SIDE, MAX_SIDE = 8, 1 << 16  # of a crop, in pixels
MAX_BANDS = 1024
COUNT = 1_000_000  # more of what is counted (samples of a batch, boxes of an image) is a slip of the keyboard
STEPS = 1_000_000_000
BYTES = 1 << 50
SEED = (1 << 32) - 1  # what NumPy and others take

SHARE = Rule("be in [0, 1)", "[0, 1)", lambda value: 0 <= value < 1)
PROBABILITY = Rule("be in [0, 1]", "[0, 1]", lambda value: 0 <= value <= 1)
PIXEL_VALUE = Rule("be the value of a pixel, 0 to 255", "0 to 255", lambda value: 0 <= value <= 255)
SIDES = Rule(
    f"name sides of {MIN_SIDE} to {MAX_SIDE} pixels with commas between, such as 448,512",
    f"whole numbers, {MIN_SIDE} to {MAX_SIDE}",
    _are_sides,
)
BINS = Rule(
    "be up to 8 numbers from 1 to 64 with commas between, such as 4,2,1", "whole numbers, 1 to 64", _are_bins
)
SHARES = Rule(
    "be rising numbers between 0 and 1 with commas between, such as 0.67,0.89", "between 0 and 1", _are_shares
)
BANDS = Rule(
    "be auto, rgb, all, or the numbers of bands from 1 with commas between, such as 4,3,2",
    "auto, rgb, all, or numbers from 1",
    _are_bands,
)
SHOWN_BANDS = Rule(
    "be empty, or the numbers of one or three bands with commas between, such as 4,3,2",
    "one or three numbers from 1",
    lambda text: (
        not text.strip() or (text[0].isdecimal() and _are_bands(text) and len(text.split(",")) in (1, 3))
    ),
)
HIERARCHY = Rule(
    "be auto, flat, or numbers of workers with x between, such as 8x4",
    "auto, flat, numbers such as 8x4",
    lambda text: re.fullmatch(r"auto|flat|[1-9][0-9]{0,5}(x[1-9][0-9]{0,5})*", text) is not None,
)
MICROBATCHES = Rule(
    "be even, measured, or numbers of microbatches with commas between, not all of them 0, such as 5,3",
    "even, measured, or whole numbers",
    _are_counts,
)
LAYOUT = Rule(
    "be empty, or how many bands image files have and the type of their samples, such as '4 uint16', or the type alone",
    "BANDS TYPE, such as 4 uint16",
    _is_layout,
)
NUMBERS = Rule("be numbers with commas between, such as 1022.5,981", "a number a band", _are_numbers)
POSITIVES = Rule(
    "be positive numbers with commas between, such as 340.2,309",
    "a positive number a band",
    lambda text: _are_numbers(text) and all(float(part) > 0 for part in text.split(",") if part.strip()),
)
CLASS_WEIGHTS = Rule(
    "be none, inverse, effective, or a positive number for each class with commas between, such as 1,2.5,40",
    "none, inverse, effective, a positive number a class",
    lambda text: text in ("none", "inverse", "effective") or (bool(text.strip()) and POSITIVES.holds(text)),
)
RANGES = Rule(
    "be empty, or LOW:HIGH of one or three bands with commas between, such as 0:3000,0:2500,0:2800",
    "LOW:HIGH of one or three bands",
    _are_ranges,
)
SAMPLE_RANGE = Rule(
    "be two numbers with a comma between, the first smaller, such as 0,4095",
    "LOW,HIGH",
    _is_range,
)

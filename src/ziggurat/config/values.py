"""The value of a setting: read as its type, and shown in messages."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal

from ziggurat.errors import UserError

MOST_SHOWN = 60  # characters of a value in a message
MOST_TEXT = 4096  # characters of a setting: a path is no longer


def shown(value: Any) -> str:
    r"""Return a value as a message shows it: short, on one line, without words of a programming language.

    Example:
        >>> shown("a\nb"), shown(None), shown(True), shown([1, 2]), shown(0.5)
        ("'a?b'", 'nothing', 'true', 'a list', '0.5')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (Mapping, list, tuple, set)):
        return "several settings" if isinstance(value, Mapping) else "a list"
    text = "".join(letter if letter.isprintable() else "?" for letter in _text_of(value))
    text = text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
    return f"'{text}'" if isinstance(value, str) else text


def _text_of(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 10**MOST_SHOWN:  # too long to be written out
        return "a number of more than 60 digits"
    return str(value) if isinstance(value, (str, int, float, date)) else "something else"


def read_value(kind: Any, value: Any, key: str) -> Any:
    """Return the value of a setting, read as its type.

    Args:
        kind: bool, int, float, str or a Literal of strings.
        value: Of this type, or a string.
        key: The setting's name.

    Raises:
        UserError: If it is not of the type.
    """
    if not isinstance(value, (bool, int, float, str)):
        raise UserError(f"{key} must be one value: got {shown(value)}")
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed:
            raise UserError(f"{key} must be one of {', '.join(allowed)}: got {shown(value)}")
        return value
    if kind is bool:
        word = value.strip().lower() if isinstance(value, str) else value
        if word in ("true", "false"):
            return word == "true"
        if not isinstance(word, bool):
            raise UserError(f"{key} must be true or false: got {shown(value)}")
        return word
    if kind is str:
        return _read_text(value, key)
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        number = kind(value)
        if kind is float and not math.isfinite(number):
            raise ValueError
        return number
    except (ValueError, OverflowError):
        wanted = {int: "a whole number", float: "a number"}[kind]
        raise UserError(f"{key} must be {wanted}: got {shown(value)}") from None


def _read_text(value: bool | float | str, key: str) -> str:
    if isinstance(value, bool):  # YAML's yes, no, on, off
        raise UserError(
            f"{key} must be text: got {shown(value)}; a word that YAML takes for {shown(value)} goes in quotes"
        )
    text = str(value)
    if len(text) > MOST_TEXT or any(ord(letter) < 32 for letter in text):
        raise UserError(f"{key} must be one line of at most {MOST_TEXT} characters: got {shown(text)}")
    return text

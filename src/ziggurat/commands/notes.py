"""What was guessed or mended while a data set was read: said once, by the process that the user has started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable


def say_notes(notes: Iterable[str]) -> None:
    """Print notes on standard error, each once."""
    say(*(f"note: {note}" for note in dict.fromkeys(notes)))


def say(*sentences: str) -> None:
    """Print sentences on standard error; under torchrun the first worker speaks for all."""
    if os.environ.get("RANK", "0") != "0":
        return
    for sentence in sentences:
        print(f"ziggurat: {sentence}", file=sys.stderr, flush=True)

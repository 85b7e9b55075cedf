"""What was measured for a run, in a file beside its config: a run that goes on finds it again, and measures nothing.

What of it decides a run's bits is in its checkpoints, too (see `decisions`), and counts there; so the file may be lost.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

AGAIN = "it is measured again, and may come out otherwise: then this run goes on equal to rounding, not in the same bits"


class MeasurementCache:
    """Measured values by key, in a JSON file of a run's folder.

    A file that cannot be used ends no run: what it should hold is measured again, and standard error says so.

    Args:
        path: Of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self, key: str) -> Any:
        """Return a value; None where there is none yet, or the file cannot be read."""
        try:
            return self._all().get(key)
        except (OSError, ValueError) as error:
            self._say(f"cannot be read ({error}): {AGAIN}")
            return None

    def write(self, key: str, value: Any) -> None:
        """Keep a value; a file that cannot be read, as `read` has said, is written anew."""
        if self.path is None:
            return
        try:
            known = self._all()
        except (OSError, ValueError):
            known = {}
        try:
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(known | {key: value}, indent=2) + "\n", encoding="utf-8")
            os.replace(new, self.path)
        except OSError as error:
            self._say(f"cannot be written ({error.strerror}): should this run be resumed, {AGAIN}")

    def discard(self, key: str) -> None:
        """Say that the value under a key is none that can be used."""
        self._say(f"holds no usable value for {key!r}: {AGAIN}")

    def _all(self) -> dict[str, Any]:
        """Return what the file holds.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it holds no JSON object.
        """
        if self.path is None or not self.path.exists():
            return {}
        read = json.loads(self.path.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise ValueError("it holds no JSON object")
        return read

    def _say(self, what: str) -> None:
        print(f"ziggurat: {self.path} {what}", file=sys.stderr)

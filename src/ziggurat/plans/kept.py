"""What was measured for a run, beside its config: a run that goes on finds it again, and measures nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Kept:
    """Values by key, in a JSON file of a run's folder.

    Args:
        path: Of the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self, key: str) -> Any:
        """Return a value; None where there is none yet, or the file cannot be read."""
        return self._all().get(key)

    def write(self, key: str, value: Any) -> None:
        """Keep a value; where the file cannot be written, the next start measures again."""
        if self.path is None:
            return
        try:
            new = self.path.with_suffix(".new")
            new.write_text(json.dumps(self._all() | {key: value}, indent=2) + "\n", encoding="utf-8")
            os.replace(new, self.path)
        except OSError:
            return

    def _all(self) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            read = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}

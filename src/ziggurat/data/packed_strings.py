"""Many strings in little memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class PackedStrings:
    """Many strings in two arrays.

    Example:
        >>> PackedStrings(["p3", "", "größer"])[2]
        'größer'
    """

    def __init__(self, strings: Sequence[str]) -> None:
        parts = [string.encode("utf-8", "surrogateescape") for string in strings]
        self._bytes = np.frombuffer(b"".join(parts), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        start, end = self._ends[index], self._ends[index + 1]
        return self._bytes[start:end].tobytes().decode("utf-8", "surrogateescape")

"""How much memory this process may have."""

from __future__ import annotations

import os
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def total_memory() -> int:
    """Return the bytes of memory of this machine, or of this container where it has less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = [Path(limit).read_text(encoding="ascii").strip() for limit in _LIMITS if Path(limit).is_file()]
    return min([machine, *(int(text) for text in texts if text.isdecimal())])

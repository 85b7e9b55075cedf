"""The former place of `ziggurat.data.readers.images`; it goes with the next version."""

from __future__ import annotations

import warnings
from typing import Any

from ziggurat.data.readers import images


def __getattr__(name: str) -> Any:
    if name.startswith("__") or not hasattr(images, name):
        raise AttributeError(name)
    warnings.warn(
        f"ziggurat.data.images is ziggurat.data.readers.images now: import {name} from there",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(images, name)

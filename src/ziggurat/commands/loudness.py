"""What ``--verbose`` adds: the settings with which a command runs."""

from __future__ import annotations

import os
import sys

from ziggurat.config import RunConfig, flatten
from ziggurat.config.names import shown_name

VERBOSE = "ZIGGURAT_VERBOSE"  # in the environment, as workers are other processes


def say_settings(config: RunConfig) -> None:
    """Print the settings that are not the default on standard error, where ``--verbose`` asks for it."""
    if os.environ.get(VERBOSE) != "1" or os.environ.get("RANK", "0") != "0":
        return
    default = flatten(RunConfig())
    lines = [
        f"  {shown_name(key)}: {value}" for key, value in flatten(config).items() if value != default[key]
    ]
    print(
        "\n".join(["settings that are not the default, as they were resolved:", *lines]),
        file=sys.stderr,
        flush=True,
    )

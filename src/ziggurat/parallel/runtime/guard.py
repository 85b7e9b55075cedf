"""A script that starts workers as it is imported by one of them: it would start workers of workers without end.

A worker that is spawned imports the script that was run (as ``__mp_main__``). What stands there under ``if __name__ == "__main__":`` is not run again; a
call without that line is.
"""

from __future__ import annotations

import multiprocessing
import os

UNGUARDED = 87  # exit status of a worker that was about to start workers as it imported the script
REMEDY = (
    'a script that starts several workers must call ziggurat under `if __name__ == "__main__":`: each worker imports the '
    "script, and would start workers of its own; indent the call under that line, or give threads=1 on the CPU, where workers are forked"
)


def leave_if_imported() -> None:
    """End this process if it is a worker that imports the script which has started it; the launcher says why."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)

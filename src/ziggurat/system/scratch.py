"""A folder for what processes of one run tell each other, for as long as they run."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ziggurat.errors import UserError


@contextmanager
def scratch_folder(prefix: str = "ziggurat-") -> Iterator[Path]:
    """Make a folder while a block runs, in the first place that can be written: as TMPDIR says, ``/tmp`` and the like, or in memory.

    Raises:
        UserError: If there is no such place.
    """
    folder = _make(prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make(prefix: str) -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix=prefix))
    except OSError:
        # Python looks at more places than /tmp, but once only, when its process needs the first
        further = ("/dev/shm", os.environ.get("XDG_RUNTIME_DIR", ""), os.getcwd())
        for place in filter(None, further):
            try:
                return Path(tempfile.mkdtemp(prefix=prefix, dir=place))
            except OSError:
                continue
    raise UserError(
        "there is no room for temporary files: /tmp and /dev/shm cannot be written; set TMPDIR to a folder that can"
    )

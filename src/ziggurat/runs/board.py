"""TensorBoard's events of a run, which may be missing: what cannot be written is counted, and no later event is tried.

TensorBoard's own writer has a thread that ends with a traceback where the disk is full, and its next call raises.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary

from ziggurat.system.writing import CannotWrite

VERSION = "brain.Event:2"  # of the format of event files
FRAME_BYTES = 16  # of a record beside its content: length and checksums


class Board:
    """Writes the events of a run.

    Args:
        folder: Of the run.
        purge_step: Events of earlier files from this step on are not shown any more.

    Attributes:
        fault: Why events are missing, once some are.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        self.path = (
            folder / f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}.0"
        )
        self.fault: CannotWrite | None = None
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            self.fault = CannotWrite(self.path, error)
            return
        self._records = RecordWriter(self._file)
        self._add(Event(wall_time=time.time(), step=purge_step, file_version=VERSION))
        start = SessionLog(status=SessionLog.START)
        self._add(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Show a number of a step."""
        self._show(summary.scalar(tag, value), step)

    def add_image(self, tag: str, img_tensor: Any, global_step: int = 0, *, dataformats: str = "HWC") -> None:
        """Show a picture: an array of bytes with its dims as `dataformats` says."""
        self._show(summary.image(tag, img_tensor, dataformats=dataformats), global_step)

    def close(self) -> None:
        """Close the file."""
        if self.fault is None:
            self._file.close()

    def _show(self, shown: Any, step: int) -> None:
        self._add(Event(wall_time=time.time(), step=step, summary=shown))

    def _add(self, event: Event) -> None:
        """Write an event; one that is cut would end what is read of the file, so it is removed."""
        if self.fault is not None:
            return
        end, content = self._file.tell(), event.SerializeToString()
        try:
            self._records.write(content)
            if self._file.tell() != end + len(content) + FRAME_BYTES:
                raise OSError(errno.ENOSPC, "cut")
        except OSError as error:
            self.fault = CannotWrite(self.path, error)
            os.ftruncate(self._file.fileno(), end)
            self._file.close()

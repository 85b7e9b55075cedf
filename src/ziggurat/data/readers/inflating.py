"""Inflating a piece of a file within bounds: memory follows what is asked for, never what the file says."""

from __future__ import annotations

import zlib
from typing import BinaryIO

READ_BYTES = 1 << 18  # of the file at once
READ_ON = 1 << 24  # inflated bytes beyond those that are wanted, to come to the checksum


def inflate(file: BinaryIO, offset: int, size: int, start: int, end: int, most: int) -> bytes:
    """Return the bytes `start` to `end` of what a deflated piece of a file holds.

    Args:
        file: The file.
        offset: Where the piece begins.
        size: Bytes of the piece, as the file says; may be wrong.
        start: First byte that is wanted of the inflated ones.
        end: The byte after the last.
        most: Inflated bytes of the whole piece; one that holds more is damaged.

    Returns:
        ``end - start`` bytes, or fewer if the piece holds less. At most that many and `READ_BYTES` twice are in memory.

    Raises:
        zlib.error: If the piece is damaged: its checksum is looked at unless it lies more than `READ_ON` bytes behind `end`.
    """
    file.seek(offset)
    stream = zlib.decompressobj()
    wanted = bytearray()
    position, waiting = 0, b""
    while position < end + READ_ON and not stream.eof:
        if not waiting:
            waiting = file.read(min(READ_BYTES, size))
            size -= len(waiting)
            if not waiting:
                break
        is_wanted = position < end
        inflated = stream.decompress(waiting, min(READ_BYTES, end - position) if is_wanted else READ_BYTES)
        waiting = stream.unconsumed_tail
        if is_wanted:
            wanted += inflated[max(0, start - position) :]
        position += len(inflated)
        if position > most:
            raise zlib.error(f"it holds more than its {most} bytes")
    return bytes(wanted)

"""Inflating a piece of a file within bounds: memory follows what is asked for, never what the file says."""

from __future__ import annotations

import zlib
from typing import BinaryIO

READ_BYTES = 1 << 18  # of the file at once


def inflate(file: BinaryIO, offset: int, size: int, start: int, end: int) -> bytes:
    """Return the bytes `start` to `end` of what a deflated piece of a file holds.

    Args:
        file: The file.
        offset: Where the piece begins.
        size: Bytes of the piece, as the file says; may be wrong.
        start: First byte that is wanted of the inflated ones.
        end: The byte after the last.

    Returns:
        ``end - start`` bytes, or fewer if the piece holds less. At most that many and `READ_BYTES` twice are in memory.

    Raises:
        zlib.error: If the piece is damaged before `end`, or, where it ends there, in its checksum.
    """
    file.seek(offset)
    stream = zlib.decompressobj()
    wanted = bytearray()
    position, waiting = 0, b""
    while position < end and not stream.eof:
        if not waiting:
            waiting = file.read(min(READ_BYTES, size))
            size -= len(waiting)
            if not waiting:
                break
        inflated = stream.decompress(waiting, min(READ_BYTES, end - position))
        waiting = stream.unconsumed_tail
        wanted += inflated[max(0, start - position) :]
        position += len(inflated)
    if position == end and not stream.eof:
        stream.decompress(
            waiting + file.read(min(READ_BYTES, size)), 1
        )  # reads the checksum, if this is the end
    return bytes(wanted)

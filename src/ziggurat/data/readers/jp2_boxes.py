"""Whether a JPEG 2000 file says where it lies on the ground: its boxes are passed over, nothing is decoded.

Two ways: a box of the kind ``uuid`` with a small GeoTIFF in it (GeoJP2), or an association of XML boxes (GML in JPEG 2000, OGC 08-085r8).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

SIGNATURES = (b"\0\0\0\x0cjP  \r\n\x87\n",)
_GEOTIFF = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
_GML = b"gml.data"
_MOST_BOXES = 1000


def is_georeferenced(path: Path) -> bool:
    """Whether a JPEG 2000 file has a georeference."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(_MOST_BOXES):
            begin = file.tell()
            head = file.read(16)
            if len(head) < 8:
                return False
            length, kind = struct.unpack(">I4s", head[:8])
            body = 8
            if length == 1 and len(head) == 16:
                length, body = struct.unpack(">Q", head[8:])[0], 16
            length = length or size - begin
            file.seek(begin + body)
            if kind == b"uuid" and file.read(16) == _GEOTIFF:
                return True
            if kind == b"asoc" and _GML in file.read(min(length, 64)):
                return True
            if length < body or begin + length >= size:
                return False
            file.seek(begin + length)
    return False

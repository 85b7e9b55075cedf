"""What Pillow is told of the samples in a file (its raw modes), where it would tell itself something else.

libtiff gives the samples of a compressed TIFF in the order of this machine's bytes, whatever the file's is; Pillow forgets that for signed
samples, and those of 32 bits. And of several bands of 16 bits it has room for 8: for the upper ones, or, with the order of bytes
exchanged, for the lower ones.
"""

from __future__ import annotations

import sys
from typing import Any

NATIVE = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"} if sys.byteorder == "little" else {}
LOWER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}


def mend_raw_modes(image: Any) -> None:
    """Let an opened image be decoded as its bytes are in memory."""
    for codec, _, _, arguments in image.tile:
        if codec == "libtiff" and arguments[0] in NATIVE:
            _replace(image, NATIVE[arguments[0]])
            return


def take_lower_bytes(image: Any) -> None:
    """Let an opened image of several bands of 16 bits be decoded to their lower 8 bits."""
    mode = _raw_mode(image)
    _replace(image, mode[:-1] + LOWER[mode[-1]])


def _raw_mode(image: Any) -> str:
    arguments = image.tile[0].args
    return str(arguments if isinstance(arguments, str) else arguments[0])


def _replace(image: Any, mode: str) -> None:
    image.tile = [
        one._replace(args=mode if isinstance(one.args, str) else (mode, *one.args[1:])) for one in image.tile
    ]

"""The levels of a pyramid: what each part of a model declares about its outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ziggurat.errors import UserError

FINEST, COARSEST = 2, 7


@dataclass(frozen=True)
class Level:
    """One scale of a pyramid.

    Attributes:
        channels: Channels of its map.
        stride: Pixels of the input between two neighbouring positions of its map.
    """

    channels: int
    stride: int


def stride_of(name: str) -> int:
    """Return the stride of a level by its name.

    Example:
        >>> stride_of("p3")
        8
    """
    return 1 << int(name[1:])


def parse_levels(text: str) -> list[str]:
    """Return the names of the levels from the finest to the coarsest.

    Args:
        text: First and last level, such as ``p3-p7``, or one level.

    Raises:
        UserError: If the text is not of that form, or the levels do not lie in p2 to p7 in rising order.

    Example:
        >>> parse_levels("p3-p5")
        ['p3', 'p4', 'p5']
    """
    match = re.fullmatch(r"p(\d)(?:-p(\d))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not FINEST <= first <= last <= COARSEST:
        raise UserError(
            f"model.levels must name the first and the last level between p{FINEST} and p{COARSEST}, "
            f"such as p3-p7: got '{text}'"
        )
    return [f"p{number}" for number in range(first, last + 1)]

"""Names of classes and files as pictures can show them."""

from __future__ import annotations

from typing import Literal

LONGEST = 24  # letters of a name in a picture


def readable(name: str, longest: int = LONGEST, keep: Literal["start", "end"] = "start") -> str:
    r"""Return a name that fits.

    Args:
        name: May hold anything; what cannot be printed (line breaks, bytes of another encoding) becomes ``?``.
        longest: Letters that fit.
        keep: What remains of a long name: the end is what tells files apart.

    Example:
        >>> readable("north/field/0001.png", 10, keep="end"), readable("line\nbreak")
        ('…/0001.png', 'line?break')
    """
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    if len(printable) <= longest:
        return printable
    return (
        printable[: longest - 1] + "…" if keep == "start" else "…" + printable[len(printable) - longest + 1 :]
    )

"""What the image files of a data set hold: types of samples, bands, pages, and the samples that occur."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ziggurat.data.readers.composite import type_of
from ziggurat.data.readers.images import survey
from ziggurat.data.readers.layout import Reading
from ziggurat.data.readers.registry import open_image_file
from ziggurat.data.readers.sample_range import SampleRange
from ziggurat.errors import UserError

ANY_RANGE = SampleRange(0, 1)


@dataclass(frozen=True)
class Seen:
    """What an image file holds.

    Attributes:
        type: Of its samples, such as ``uint16``; empty if not even that can be seen.
        bands: All of them.
        pages: Pages or frames.
        low: The smallest sample; None if they cannot be decoded.
        high: The largest.
        fault: Why they cannot be.
    """

    type: str
    bands: int = 0
    pages: int = 1
    low: float | None = None
    high: float | None = None
    fault: str = ""


def look_at(path: Path, max_pixels: int, reading: Reading) -> Seen:
    """Decode an image, and say what its file holds."""
    try:
        found = survey(path, max_pixels, reading)
    except UserError as error:
        header = look_at_header(path)
        low, high = None, None
        if (
            reading.samples is None and header.type
        ):  # perhaps that is all that is missing: then say which there are
            with suppress(UserError):
                found = survey(path, max_pixels, replace(reading, samples=ANY_RANGE))
                low, high = found.low, found.high
        return Seen(header.type, header.bands, header.pages, low, high, str(error))
    return Seen(type_of(found.info), found.info.bands, found.info.pages, found.low, found.high)


def look_at_header(path: Path) -> Seen:
    """Say what the header of an image file says, also of one that nobody here can decode."""
    try:
        with open_image_file(path) as image:
            info = image.info
    except UserError:
        return Seen("")
    return Seen(type_of(info), info.bands, info.pages)


@dataclass
class SeenImages:
    """What many image files hold, counted.

    Example:
        >>> seen = SeenImages()
        >>> seen.add(Seen("uint16", 1, 1, 12, 300))
        >>> seen.add(Seen("uint16", 1, 1, 7, 99))
        >>> seen.facts()
        ({'type': 'uint16', 'bands': 1, 'pages': 1, 'images': 2, 'low': 7, 'high': 300},)
    """

    counted: dict[tuple[str, int, int], list[Seen]] = field(default_factory=dict)
    count: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def add(self, one: Seen) -> None:
        """Count a file."""
        key = (one.type, one.bands, one.pages)
        if not one.type:
            return
        self.count[key] = self.count.get(key, 0) + 1
        known = [each for each in (*self.counted.get(key, ()), one) if each.low is not None]
        self.counted[key] = known[:1] if len(known) < 2 else [_wider(*known)]

    def facts(self) -> tuple[dict[str, object], ...]:
        """Return, for JSON, each kind of file with how many there are, the most frequent first."""
        return tuple(
            {
                "type": key[0],
                "bands": key[1],
                "pages": key[2],
                "images": self.count[key],
                "low": self.counted[key][0].low if self.counted[key] else None,
                "high": self.counted[key][0].high if self.counted[key] else None,
            }
            for key in sorted(self.count, key=lambda key: (-self.count[key], key))
        )


def _wider(one: Seen, other: Seen) -> Seen:
    lows = [each.low for each in (one, other) if each.low is not None]
    highs = [each.high for each in (one, other) if each.high is not None]
    return Seen(one.type, one.bands, one.pages, min(lows), max(highs))

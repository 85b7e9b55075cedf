"""Limits and places of ``ziggurat serve``: no part of a run's config, as no result depends on them."""

from __future__ import annotations

from dataclasses import dataclass

from ziggurat.config.fields import between, setting, settings_of
from ziggurat.config.values import shown
from ziggurat.errors import UserError, nearest

# What an upload may be, each with the bytes that it begins with, and where they stand.
SIGNATURES: dict[str, tuple[tuple[int, bytes], ...]] = {
    "png": ((0, b"\x89PNG\r\n\x1a\n"),),
    "jpeg": ((0, b"\xff\xd8\xff"),),
    "webp": ((8, b"WEBP"),),
    "bmp": ((0, b"BM"),),
    "tiff": ((0, b"II*\0"), (0, b"MM\0*"), (0, b"II+\0"), (0, b"MM\0+")),
    "gif": ((0, b"GIF87a"), (0, b"GIF89a")),
}


@dataclass(frozen=True)
class ServeConfig:
    """What a server takes, and how much of it."""

    host: str = setting("127.0.0.1", "Address that is listened at; ``0.0.0.0`` is all of them.")
    port: int = setting(8000, "Port that is listened at.", between(1, 65535))
    replicas: int = setting(1, "Replicas of each model; each has all of its weights.", between(1, 4096))
    batch: int = setting(
        8, "Most images of one call of a replica, of as many requests as wait.", between(1, 256)
    )
    batch_wait: float = setting(
        0.002, "Seconds that a replica waits for more images, once it has one.", between(0.0, 1.0)
    )
    queue: int = setting(
        32,
        "Most requests to a model that wait or are computed; further ones are answered 429 with Retry-After.",
        between(1, 100_000),
    )
    uploads: int = setting(
        64, "Most bodies that are received at once; further requests are answered 503.", between(1, 100_000)
    )
    max_bytes: int = setting(32 << 20, "Most bytes of a request's body.", between(1024, 1 << 31))
    max_pixels: int = setting(
        1 << 26, "Most pixels of an image, by its header, before anything is decoded.", between(64, 1 << 31)
    )
    seconds: float = setting(
        60.0, "Seconds after which a request that has no answer is given up.", between(0.1, 86400.0)
    )
    upload_seconds: float = setting(30.0, "Seconds in which a body must have come.", between(0.1, 3600.0))
    drain_seconds: float = setting(
        30.0, "Seconds that requests under way have to end when the server is stopped.", between(0.0, 3600.0)
    )
    formats: str = setting(
        "png,jpeg,webp,bmp,tiff",
        f"Formats of uploads, of {', '.join(SIGNATURES)}, by the bytes that they begin with.",
    )
    max_jobs: int = setting(100, "Most jobs that wait or run.", between(1, 100_000))
    keep_jobs: int = setting(
        1000, "Jobs that have ended whose results are kept; older ones are removed.", between(1, 1_000_000)
    )

    def faults(self) -> list[str]:
        """Return what is wrong with these values."""
        faults = [
            f"--{name.replace('_', '-')} must {known.rule.words}: got {shown(value)}"
            for name, value, known in settings_of(self)
            if known.rule is not None and not known.rule.holds(value)
        ]
        named = self.known_formats()
        faults += [
            f"--formats names formats of images: {name} is none; {nearest(name, tuple(SIGNATURES))}"
            for name in named
            if name not in SIGNATURES
        ]
        return (
            faults
            if named
            else [*faults, "--formats must name a format: got none; leave it out for the usual ones"]
        )

    def check(self) -> None:
        """See whether the values are in their ranges.

        Raises:
            UserError: Listing each that is not.
        """
        if faults := self.faults():
            raise UserError(faults)

    def known_formats(self) -> tuple[str, ...]:
        """Return the formats of uploads.

        Example:
            >>> ServeConfig(formats="png, jpeg").known_formats()
            ('png', 'jpeg')
        """
        return tuple(name.strip() for name in self.formats.split(",") if name.strip())


def format_of_bytes(head: bytes) -> str:
    """Return the format of an image by its first bytes; nothing if it is none of them.

    Example:
        >>> format_of_bytes(b"RIFF....WEBPVP8 "), format_of_bytes(b"<svg>")
        ('webp', '')
    """
    for name, signatures in SIGNATURES.items():
        if any(head[start : start + len(magic)] == magic for start, magic in signatures):
            return name
    return ""

"""Whatever a library raises where an image is read becomes a message that names the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ziggurat.data.readers.tiff.directories import DamagedTiffError
from ziggurat.errors import UserError


def reason_of(error: Exception) -> str:
    """Return what an error says, with its kind where that says more."""
    kind = "" if type(error) in (ValueError, DamagedTiffError) else f"{type(error).__name__}: "
    return f"{kind}{error}"


@contextmanager
def naming(path: Path, reason: Callable[[Exception], str] = reason_of) -> Iterator[None]:
    """Let whatever a reader raises in the body name the file.

    Args:
        path: The file or folder.
        reason: Says why, of an error.

    Raises:
        UserError: If the body raises anything.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers raise almost anything for broken files
        if isinstance(error, FileNotFoundError) and not path.exists():
            raise UserError(f"there is no image {path}: give the path of a file that is there") from None
        raise UserError(f"cannot decode the image {path}: {reason(error)}") from error

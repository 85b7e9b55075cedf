"""Writing a file whole or not at all, and saying in one sentence why that was not possible.

    .weights.safetensors.partial   is being written
    weights.safetensors            whole: it got its name by one rename

Two kinds of files are told apart. What a run is for (config, weights, the lines of its log) *must* be written: `CannotWrite` names
the file, the cause and the remedy. What only shows it (pictures, plots, TensorBoard's events) *may* be missing: it is counted and said.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ziggurat.errors import UserError

ROOM = "make room"
# of an error's number: what is the matter, and what to do
CAUSES = {
    errno.ENOSPC: ("no space is left on its disk", ROOM),
    errno.EDQUOT: ("the quota of its disk is used up", ROOM),
    errno.EFBIG: ("it would be larger than files may be", "raise the limit (ulimit -f)"),
    errno.EROFS: ("its file system is read-only", "choose another folder, or mount it for writing"),
    errno.ENOENT: (
        "its folder is not there any more",
        "leave the folder of a run in place until it has ended",
    ),
    errno.ESTALE: (
        "its folder is not there any more",
        "leave the folder of a run in place until it has ended",
    ),
    errno.EACCES: ("there is no permission", "see to the rights of its folder, or choose another"),
    errno.EPERM: ("there is no permission", "see to the rights of its folder, or choose another"),
    errno.EEXIST: ("a file has the name of its folder", "remove that file, or choose another folder"),
    errno.ENOTDIR: ("what should be its folder is a file", "remove that file, or choose another folder"),
    errno.EISDIR: ("a folder has its name", "remove that folder, or choose another"),
}


class CannotWrite(UserError):  # noqa: N818 - reads as what happened
    """A file that must be written cannot be; the message names it, the cause and the remedy.

    Args:
        path: The file.
        error: What the system says.

    Attributes:
        path: The file.
        error: What the system says.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        self.path, self.error = path, error
        cause, remedy = CAUSES.get(error.errno or 0, (error.strerror or str(error), ROOM))
        super().__init__(f"{path} cannot be written: {cause}; {remedy}")

    def __reduce__(self) -> tuple[type[CannotWrite], tuple[Path, OSError]]:
        return CannotWrite, (self.path, self.error)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield where a file is to be written in a block; it gets its name when the block has ended well.

    It is there already, empty, with the rights that the process gives its files (umask); what the block puts in its place gets them, too.

    Args:
        path: The file; an older one is replaced at once, or stays.

    Raises:
        CannotWrite: If it cannot be written; the partial file is removed.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            rights = os.fstat(file.fileno()).st_mode & 0o777
        yield partial
        if partial.stat().st_mode & 0o777 != rights:  # safetensors makes its own file, for the owner alone
            partial.chmod(rights)
        partial.replace(path)
    except Exception as error:
        with suppress(OSError):
            partial.unlink()
        found = system_error(error)
        if found is None:
            raise
        raise CannotWrite(path, found) from None


def write_text(path: Path, text: str) -> None:
    """Write a file of text; see `whole_file`.

    Raises:
        CannotWrite: If it cannot be written.
    """
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def system_error(error: Exception) -> OSError | None:
    """Return what the system says in an error; None if that is not what it is about.

    Example:
        >>> system_error(RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })')).errno
        28
    """
    if isinstance(error, OSError):
        return error
    said = re.search(r"Os \{ code: (\d+)|\(os error (\d+)\)", str(error))  # as Rust's libraries say it
    number = int(said.group(1) or said.group(2)) if said else None
    return OSError(number, os.strerror(number)) if number is not None else None


@contextmanager
def files_of(folder: Path) -> Iterator[None]:
    """Let a block write files of a folder that must be there, by libraries that raise what the system says.

    Raises:
        CannotWrite: If one cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise CannotWrite(Path(error.filename or folder), error) from None


class Lines:
    """A file that lines are added to; what it cannot take now is kept, and written as soon as it can.

    A disk that is full for an hour costs a run nothing. A file that is not there any more never comes back.

    Args:
        path: The file, which is made if it is not there.

    Raises:
        CannotWrite: If it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = b""
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CannotWrite(path, error) from None

    def add(self, line: str) -> CannotWrite | None:
        """Add a line, and return why it is kept, if it is."""
        self._kept += f"{line}\n".encode(errors="backslashreplace")
        return self.write()

    def write(self, sync: bool = False) -> CannotWrite | None:
        """Write what is kept, and return why it cannot be.

        Args:
            sync: Return when it is on the disk.
        """
        try:
            if not os.fstat(self._file).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "removed")
            while self._kept:
                self._kept = self._kept[os.write(self._file, self._kept) :]
            if sync:
                os.fsync(self._file)
        except OSError as error:
            return CannotWrite(self.path, error)
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Pictures:
    """Counts the pictures that could not be written: a run ends well without them.

    Attributes:
        faults: Of each that is missing.
        num: How many were tried.
    """

    def __init__(self) -> None:
        self.faults: list[CannotWrite] = []
        self.num = 0

    @contextmanager
    def write(self, path: Path) -> Iterator[None]:
        """Let a block write a picture; one that it cannot is left out, and what there is of it removed.

        Args:
            path: Of the picture.
        """
        self.num += 1
        try:
            yield
        except OSError as error:
            self.faults.append(CannotWrite(path, error))
            with suppress(OSError):
                path.unlink()

    def __str__(self) -> str:
        """Say how many are missing, and why; nothing if none is."""
        if not self.faults:
            return ""
        return f"{len(self.faults)} of {self.num} pictures are missing; the first: {self.faults[0]}"

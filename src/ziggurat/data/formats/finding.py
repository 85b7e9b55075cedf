r"""Finding the image files that annotations name, also by paths of another machine.

A name is tried as it is written, in each folder where images of the format may lie. Then as another machine meant it, from the longest end of its
path to the shortest: ``C:\work\set\images\a.png`` as ``work/set/images/a.png``, ``set/images/a.png``, ``images/a.png``, ``a.png``, in the same folders. And
at last anywhere in the data set's folder, among the files of its last part the one that shares the longest end with it:

    name    https://server/bucket/night/a.png?key=1        files    day/a.png, night/a.png         found    night/a.png

Two files that share as much are a fault, as a guess between them would be; so is a file that is there as it is written, but outside. Files in a folder of another split (``val``, ``test``) are not looked at. Nothing is taken
from outside of the data set's folder but from a folder that the user has named (``data.images``).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from ziggurat.data.files import walk_files
from ziggurat.data.formats.table import SPLIT_NAMES, Source
from ziggurat.data.readers.pages import is_image_there, without_page
from ziggurat.data.readers.registry import image_suffixes

FOUND_BY_ITS_END = "an image was found by the end of its path"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_DRIVE = re.compile(r"[A-Za-z]:(?=/|$)")


@dataclass(frozen=True)
class Found:
    """Where an image lies, or why nowhere.

    Attributes:
        path: The file; None where there is none.
        is_guess: Whether it lies elsewhere than its name says.
        fault: Why there is none: ``missing``, ``outside`` (it can only lie outside of the data set) or ``ambiguous``.
        places: The files that it may be, where it is ambiguous.
    """

    path: str | None
    is_guess: bool = False
    fault: str = ""
    places: tuple[str, ...] = ()


def parts_of(name: str) -> list[str]:
    r"""Return the parts of a path that any machine has written, without drive, server and what leads upwards.

    Example:
        >>> parts_of(r"..\media\im 1.png"), parts_of(r"C:\data\im.png"), parts_of("https://a.org/b/im%201.png?sig=1%2F2")
        (['media', 'im 1.png'], ['data', 'im.png'], ['b', 'im 1.png'])
        >>> parts_of("/data/local-files/?d=night/im.png"), parts_of("gs://bucket/im.png")
        (['night', 'im.png'], ['im.png'])
    """
    if _URL.match(name):
        name = unquote(urlsplit(name).path)
    elif "?d=" in name:  # Label Studio's way to name files of its server
        name = parse_qs(urlsplit(name).query).get("d", [name])[0]
    name = _DRIVE.sub("", name.replace("\\", "/"))
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def why_missing(source: Source, name: str, found: Found, hint: str = "") -> str:
    """Return why an image has no file, with where was looked and what helps."""
    if found.fault == "ambiguous":
        places = ", ".join(os.path.relpath(place, source.root) for place in found.places[:4])
        return f"ambiguous image: {name!r} may be {places}; write the path from the data set's folder on"
    if found.fault == "outside":
        return (
            f"path leaves the data set: {name!r} does not lie in {source.root}; move the image there, or name its "
            "folder (data.images)"
        )
    return (
        f"missing image: there is no {name!r}{hint}; looked in {source.elsewhere or source.root} and its folders; "
        "data.images=FOLDER names another"
    )


class ImageFinder:
    """Looks for the files of images.

    Names are validated as they are written: a link in the data set's folder may lead elsewhere, as large data sets
    often lie on another disk.

    Args:
        source: Where images may lie.
        folders: Those where they are looked for first; by default the source's.
    """

    def __init__(self, source: Source, folders: Sequence[Path] | None = None) -> None:
        self._roots = [_with_separator(root) for root in (source.root, source.elsewhere) if root is not None]
        named = [] if source.elsewhere is None else [source.elsewhere]
        tried = source.folders if folders is None else folders
        self._folders = [os.path.abspath(folder) for folder in (*named, *tried)]
        split = source.split
        others = [names for one, names in SPLIT_NAMES.items() if one != split and (split or one == "test")]
        self._others = {name for names in others for name in names}

    def find(self, name: str, stems: Sequence[str] = ()) -> Found:
        """Return where an image lies.

        Args:
            name: Its path as an annotation has it.
            stems: Names without suffix that it may have where that is not there.
        """
        may_lie = False
        for path in self._as_written(name, stems):
            may_lie = True
            if is_image_there(path):
                return Found(path)
        if any(is_image_there(os.path.join(folder, name)) for folder in self._folders):
            return Found(None, fault="outside")  # it is there, and it is meant: no other is guessed
        parts = parts_of(name)
        for start in range(len(parts)):
            tail = os.path.join(*parts[start:])
            places = dict.fromkeys(os.path.join(folder, tail) for folder in self._folders)
            files = [place for place in places if is_image_there(place) and self._is_inside(place)]
            if len({os.path.realpath(file) for file in files}) > 1:
                return Found(None, fault="ambiguous", places=tuple(files))
            if files:
                return Found(files[0], is_guess=True)
        if parts:
            found = self._by_its_end(parts)
            if found is not None:
                return found
        return Found(None, fault="missing" if may_lie else "outside")

    def _as_written(self, name: str, stems: Sequence[str]) -> Iterator[str]:
        for folder in self._folders:
            path = os.path.normpath(os.path.join(folder, name))
            if self._is_inside(path):
                yield path
        for stem in stems:
            for folder in self._folders:
                for suffix in image_suffixes():
                    yield os.path.join(folder, stem + suffix)
                    yield os.path.join(folder, stem + suffix.upper())

    def _is_inside(self, path: str) -> bool:
        return any(path.startswith(root) for root in self._roots)

    def _by_its_end(self, parts: Sequence[str]) -> Found | None:
        """Return the file of the last part's name whose path shares most parts at the end; None where there is none."""
        last = without_page(parts[-1])
        parts, page = [*parts[:-1], last], parts[-1][len(last) :]
        shared = {file: _num_shared(file, parts) for file in self._files_by_name.get(last.lower(), ())}
        best = [f"{file}{page}" for file, count in shared.items() if count == max(shared.values())]
        if len(best) > 1:
            return Found(None, fault="ambiguous", places=tuple(best))
        return Found(best[0], is_guess=True) if best else None

    @cached_property
    def _files_by_name(self) -> dict[str, list[str]]:
        """All images of the data set, but for those of other splits, by their names in small letters."""
        files: defaultdict[str, list[str]] = defaultdict(list)
        for root in dict.fromkeys(self._roots):
            for path in walk_files(Path(root), image_suffixes()):
                if not self._others.intersection(part.lower() for part in path.relative_to(root).parts[:-1]):
                    files[path.name.lower()].append(str(path))
        return files


def _with_separator(folder: Path) -> str:
    return os.path.abspath(folder).rstrip(os.sep) + os.sep


def _num_shared(file: str, parts: Sequence[str]) -> int:
    """Return how many parts at the end of a file's path are those of a name, whatever their case."""
    own = [part.lower() for part in file.split(os.sep)]
    count = 0
    for one, other in zip(reversed(own), reversed(parts), strict=False):
        if one != other.lower():
            break
        count += 1
    return count

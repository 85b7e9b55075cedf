"""The project's pages: their code blocks, links and headings, for the test that runs and follows them.

A comment before a block says what a test does with it; readers of the rendered page do not see it::

    <!-- test
    replace: fcos-resnet50-fpn => fcos-test_resnet-fpn
    ziggurat train: --steps 1
    -->

- ``replace: A => B``: ``B`` stands in for ``A``, which must occur.
- ``ziggurat COMMAND: WORDS``: each such command of the block gets these words more.
- ``given: NAME``: the names that a Python block finds, by `support.page_names`.
- ``workers: 2``: a Python block is run on so many.
- ``only: REASON``: the block is not run: the words of its commands are parsed, Python is compiled.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
NOTES = ("replace", "given", "workers", "only")
_FENCE = re.compile(r"^ *```(.*)$")
_HEADING = re.compile(r"^#{1,6} +(.*?) *#*$")
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """Return every page of the project."""
    folders = ["", "docs", "docs/upstream", "examples", "benchmarks/*"]
    return sorted(page for folder in folders for page in ROOT.glob(f"{folder}/*.md".lstrip("/")))


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        page: Where it stands.
        line: Of its first line, from 1.
        language: Behind the fence.
        text: As it stands there.
        notes: What the comment before it says: keys and values, in order.
    """

    page: Path
    line: int
    language: str
    text: str
    notes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def note(self, key: str) -> str | None:
        """Return the value of a note, or None without one."""
        return dict(self.notes).get(key)

    @property
    def replaced(self) -> str:
        """The text with what stands in."""
        text = self.text
        for key, value in self.notes:
            if key == "replace":
                old, arrow, new = (part.strip() for part in value.partition("=>"))
                assert arrow, f"{self}: 'replace' needs A => B, got {value}"
                assert old in text, f"{self}: there is no {old} to be replaced"
                text = text.replace(old, new)
        return text

    def commands(self) -> list[list[str]]:
        """Return the words of each command of a shell block, with those that the notes add."""
        joined = self.replaced.replace("\\\n", " ")
        found = []
        for line in joined.splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                command, words = words[:end], words[end + 1 :]
                more = self.note(" ".join(command[:2]))
                found.append(command + (shlex.split(more) if more else []))
        return found


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    comment: list[str] = []
    begin, language, inside = 0, "", False
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if inside and fence:
            text = "\n".join(lines[begin : number - 1]) + "\n"
            found.append(Block(page, begin + 1, language, text, tuple(map(_note, comment))))
            inside, comment = False, []
        elif fence and not inside:
            begin, language, inside = number, fence[1].strip(), True
        elif not inside and line.strip() == "<!-- test":
            end = lines.index("-->", number)
            comment = lines[number:end]
            after = next(text for text in lines[end + 1 :] if text.strip())
            assert _FENCE.match(after), f"{page}:{number}: no block follows the comment"
    assert not inside, f"{page}: the block of line {begin} does not end"
    return found


def _note(line: str) -> tuple[str, str]:
    key, colon, value = (part.strip() for part in line.partition(":"))
    assert colon, f"a note is KEY: VALUE, got {line}"
    assert key in NOTES or key.startswith("ziggurat "), f"unknown note {key}"
    assert value, f"the note {key} has no value"
    return key, value


class Link(NamedTuple):
    """A link to a file of the project.

    Attributes:
        page: Where it stands.
        file: What it leads to.
        anchor: The heading in it; may be empty.
    """

    page: Path
    file: Path
    anchor: str


def links(page: Path) -> Iterator[Link]:
    """Yield the links of a page to files of the project, of its own and of others."""
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue  # another site: no test asks for it
        path, _, anchor = target.partition("#")
        yield Link(page, (page.parent / path).resolve() if path else page, anchor)


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as a browser of the repository makes them."""
    found: set[str] = set()
    for line in prose(page).splitlines():
        heading = _HEADING.match(line)
        if heading:
            shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])  # a link is its text
            name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            number = 0
            while (f"{name}-{number}" if number else name) in found:
                number += 1
            found.add(f"{name}-{number}" if number else name)
    return found


def prose(page: Path) -> str:
    """Return a page without its code blocks."""
    kept, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        fence = _FENCE.match(line) is not None
        inside ^= fence
        if not inside and not fence:
            kept.append(line)
    return "\n".join(kept) + "\n"

"""The package's own source, parsed: what tests of its structure walk through."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2] / "src" / "ziggurat"


class Source(NamedTuple):
    """A module of the package.

    Attributes:
        name: Such as ``ziggurat.parallel.graph.trace``; of a package, its own.
        path: Of the file.
        tree: What is in it.
        is_package: Whether it is an ``__init__``.
    """

    name: str
    path: Path
    tree: ast.Module
    is_package: bool

    def at(self, node: ast.AST) -> str:
        """Return where a node stands."""
        return f"{self.path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}"


def sources() -> list[Source]:
    """Return all modules of the package."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("ziggurat", *path.relative_to(ROOT).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        found.append(Source(name, path, ast.parse(path.read_text(encoding="utf-8")), is_package))
    return found

"""Imports say what depends on what: none runs in a circle, and none hides in a function."""

import ast
from collections.abc import Iterator

import pytest

from support.source import Source, sources

SOURCES = sources()
NAMES = {source.name for source in SOURCES}
# Where an import waits until it is needed, since `ziggurat --help` shall not wait for PyTorch.
LAZY = ("ziggurat.cli",)


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the modules of the package that a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in NAMES)
    elif isinstance(node, ast.ImportFrom) and node.module in NAMES:
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if name in NAMES else node.module


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those that a type checker alone looks at."""
    for child in ast.iter_child_nodes(tree):
        if not _is_for_types(child):
            yield child
            yield from _statements(child)


def _circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node (Tarjan, 1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        order[node] = lowest[node] = len(order)
        stack.append(node)
        for other in sorted(arrows[node]):
            if other not in order:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], order[other])
        if lowest[node] == order[node]:
            at = stack.index(node)
            component, stack[at:] = stack[at:], []
            if len(component) > 1 or node in arrows[node]:
                found.append(sorted(component))

    for node in sorted(arrows):
        if node not in order:
            visit(node)
    return found


def test_no_modules_import_each_other() -> None:
    """Imports inside functions count, too: whatever needs another at run time."""
    arrows = {
        source.name: {name for node in _statements(source.tree) for name in _imported(node)}
        for source in SOURCES
    }
    assert _circles(arrows) == []


def test_circles_are_found() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "d"}, "e": set()}) == [
        ["a", "b", "c"],
        ["d"],
    ]


@pytest.mark.parametrize(
    "source", [s for s in SOURCES if not s.name.startswith(LAZY)], ids=lambda source: source.name
)
def test_no_import_of_ours_hides_in_a_function(source: Source) -> None:
    hidden = {
        f"{source.at(node)} imports {name}"
        for function in ast.walk(source.tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
        for name in _imported(node)
    }
    assert hidden == set()

"""An axis of a plan is named in the folder of strategies alone: a new one is a new file there, and a line in its registry."""

import ast
from collections.abc import Iterator
from pathlib import Path

from support.source import Source, sources
from ziggurat.strategies.registry import STRATEGIES

OUTSIDE = [source for source in sources() if not source.name.startswith("ziggurat.strategies")]


def _examples(tree: ast.AST) -> set[ast.AST]:
    """Return the strings that are documentation."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, holders) and ast.get_docstring(node))
    return {node.body[0].value for node in nodes if isinstance(node.body[0], ast.Expr)}


def axes_named(source: Source) -> Iterator[str]:
    """Yield where a module names an axis: as a word of its own, or by the name of its class."""
    kinds = {kind.__name__ for kind in STRATEGIES.values()}
    documentation = _examples(source.tree)
    for node in ast.walk(source.tree):
        is_word = isinstance(node, ast.Constant) and node.value in STRATEGIES and node not in documentation
        is_kind = isinstance(node, ast.Name) and node.id in kinds
        is_degree = isinstance(node, ast.Attribute) and node.attr in STRATEGIES
        is_keyword = isinstance(node, ast.keyword) and node.arg in STRATEGIES
        if is_word or is_kind or is_degree or is_keyword:
            yield f"{source.name}:{getattr(node, 'lineno', '?')}"


def test_no_module_outside_names_an_axis():
    assert [place for source in OUTSIDE for place in axes_named(source)] == []


def test_the_test_sees_what_it_looks_for():
    text = "mesh = make_mesh(workers, plan)\nif mesh.plan.sp > 1 and 'tp' in degrees: Plan(dp=2)\nPipelineParallel(model)"
    assert len(list(axes_named(Source("made", Path("made.py"), ast.parse(text), False)))) == 4

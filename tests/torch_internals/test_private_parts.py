"""Nothing but `ziggurat.torch_internals` touches a private part of PyTorch, or of another library."""

import ast

import pytest
import torch
from torch import nn

from support.source import Source, sources

PYTHONS = {("os", "_exit"), ("sys", "_getframe")}  # documented
OF_NAMED_TUPLES = {"_fields", "_replace", "_asdict", "_make"}
# Public by name, but in no documentation, or documented as not meant for users.
UNDOCUMENTED = {
    "__create_chunk_list__", "aten", "batch_norm_update_stats", "reset_iter_state",
    "set_force_sum_reduction_for_comms", "set_reduce_scatter_unused_params", "set_gradient_divide_factor",
    "TorchFunctionMode", "TorchDispatchMode", "HuggingFaceStorageReader", "HuggingFaceStorageWriter",
    "DefaultLoadPlanner", "DefaultSavePlanner",
}  # fmt: skip
OVERRIDDEN = {
    name
    for kind in (nn.Module, torch.Tensor, torch.optim.Optimizer, torch.utils.data.DataLoader)
    for name in dir(kind)
    if name.startswith("_") and not name.startswith("__")
}
MODULES = [source for source in sources() if not source.name.startswith("ziggurat.torch_internals")]


def _own_names(tree: ast.Module) -> set[str]:
    """Return the private names that a module itself defines, of whatever is in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            names.add(node.attr)
    return names


# Of the package, wherever they are defined: a class may have them from another of its modules. What PyTorch has, too, is not theirs.
OURS = set().union(*(_own_names(source.tree) for source in MODULES)) - OVERRIDDEN - set(dir(torch))


def _private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _faults(source: Source) -> list[str]:
    own, faults = _own_names(source.tree) | OURS, []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            hidden = [part for part in parts if (_private(part) and part not in own) or part in UNDOCUMENTED]
            faults += [f"{source.at(node)} imports {part}" for part in hidden]
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            known = node.attr in own or node.attr in OF_NAMED_TUPLES or (owner, node.attr) in PYTHONS
            if (
                _private(node.attr) and not known and owner not in ("self", "cls")
            ) or node.attr in UNDOCUMENTED:
                faults.append(f"{source.at(node)} uses .{node.attr}")
        elif isinstance(node, ast.ClassDef) and node.bases:
            methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
            faults += [f"{source.at(one)} overrides {one.name}" for one in methods if one.name in OVERRIDDEN]
    return faults


@pytest.mark.parametrize("source", MODULES, ids=lambda source: source.name)
def test_no_other_module_touches_a_private_part(source: Source) -> None:
    assert _faults(source) == []


@pytest.mark.parametrize(
    "line",
    [
        "tensor._version",
        "torch._foreach_add_(a, b)",
        "from torch.utils._pytree import tree_map",
        "torch.ops.aten.convolution_backward",
        "rows.__create_chunk_list__()",
        "class A(nn.Module):\n    def _load_from_state_dict(self): ...",
    ],
)
def test_the_rule_finds_what_it_forbids(line: str) -> None:
    example = MODULES[0]._replace(tree=ast.parse(line))
    assert len(_faults(example)) == 1


def test_the_bounds_of_the_version_are_those_that_are_tested() -> None:
    major, minor = map(int, torch.__version__.split(".")[:2])
    assert (2, 14) <= (major, minor) < (2, 16)

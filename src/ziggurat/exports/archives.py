"""Whether a ``.pt2`` archive holds what `ziggurat export` writes, and nothing else: looked at before PyTorch opens it.

`torch.export.load` unpickles (weights, constants, sample inputs, objects), loads compiled libraries, calls any function below ``torch`` or
``operator`` that a graph names, and evaluates the text of symbolic sizes as Python. None of it is needed for our own files: tensors
are stored as bytes, graphs call operations of tensors, and sizes are sums and products.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ziggurat.errors import UserError

_FILES = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|extra/ziggurat\.json|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_OPERATIONS = re.compile(
    r"torch\.ops\.(aten|torchvision)\.\w+\.\w+|torch\.sym_\w+|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|lshift|rshift)"
)
_OF_FILES = ("torch.ops.aten.from_file",)  # opens, and makes, a file
_TERMS = {  # of symbolic sizes
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "floor", "ceiling", "And", "Or", "Not",
    "Equality", "Eq", "Unequality", "Ne", "GreaterThan", "Ge", "LessThan", "Le", "StrictGreaterThan", "Gt", "StrictLessThan", "Lt",
    "FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "ModularIndexing", "Where", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv",
    "CeilToInt", "FloorToInt", "TruncToInt", "TruncToFloat", "RoundToInt", "ToFloat", "Identity", "true", "false",
}  # fmt: skip
_SYMBOL = re.compile(r"[a-z]+\d+")
_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.keyword, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator,
    ast.unaryop, ast.cmpop,
)  # fmt: skip


def check_archive(path: Path) -> None:
    """Look into an archive.

    Raises:
        UserError: If it holds something that an export of ours does not.
        zipfile.BadZipFile: If it is no archive, or a damaged one.
    """
    with zipfile.ZipFile(path) as archive:
        names = [one.filename for one in archive.infolist()]
        if len({*names}) < len(names):
            raise _foreign(path, "two files of one name")
        for one in archive.infolist():
            _, _, name = one.filename.partition("/")
            if not _FILES.fullmatch(name):
                raise _foreign(path, f"the file {one.filename}")
            if one.compress_type != zipfile.ZIP_STORED:
                raise _foreign(
                    path, f"the file {one.filename} in another form, which may be larger than it looks"
                )
            if name.startswith("data/sample_inputs/") and one.file_size:
                raise _foreign(path, "pickled inputs, which may run anything")
            if name.endswith("_config.json"):
                _check_payloads(path, _json(archive, one.filename))
            elif name == "models/model.json":
                for fault in _faults_of_graph(_json(archive, one.filename)):
                    raise _foreign(path, fault)


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    return json.loads(archive.read(name))


def _check_payloads(path: Path, config: Any) -> None:
    """See that each tensor is stored as bytes."""
    payloads = (
        config["config"] if isinstance(config, dict) and len(config) == 1 and "config" in config else None
    )
    if not isinstance(payloads, dict):
        raise _foreign(path, "a list of tensors in another form")
    for one in payloads.values():
        if not isinstance(one, dict) or one.get("use_pickle") is not False:
            raise _foreign(path, "pickled objects, which may run anything")
        if not _PAYLOAD.fullmatch(str(one.get("path_name"))):
            raise _foreign(path, "an object that is no tensor")


def _faults_of_graph(graph: Any) -> Iterator[str]:
    """Yield what a graph calls or evaluates that no export of ours does."""
    open_ones = [graph]
    while open_ones:
        one = open_ones.pop()
        if isinstance(one, list):
            open_ones += one
        if not isinstance(one, dict):
            continue
        for key, value in one.items():
            if key in ("target", "as_operator") and not _is_operation(value):
                yield f"a call of {str(value)[:80]}, which is no operation of tensors"
            elif key == "expr_str" and not _is_size(value):
                yield f"the size {str(value)[:80]}, which is no sum or product"
            elif key in ("as_custom_obj", "as_graph") and value is not None:
                yield "an object that is no tensor"
        open_ones += one.values()


def _is_operation(name: Any) -> bool:
    return isinstance(name, str) and bool(_OPERATIONS.fullmatch(name)) and not name.startswith(_OF_FILES)


def _is_size(text: Any) -> bool:
    """Return whether a text is an expression of sizes, and nothing else that Python would evaluate."""
    if not isinstance(text, str) or len(text) > 10_000:
        return False
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(
        isinstance(node, _NODES)
        and (not isinstance(node, ast.Name) or node.id in _TERMS or bool(_SYMBOL.fullmatch(node.id)))
        and (not isinstance(node, ast.Call) or isinstance(node.func, ast.Name))
        and (
            not isinstance(node, ast.Constant)
            or isinstance(node.value, int | float)
            or (isinstance(node.value, str) and bool(_SYMBOL.fullmatch(node.value)))
        )
        for node in nodes
    )


def _foreign(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is not opened: it holds {what}, and no export of Ziggurat does; make one with `ziggurat export`"
    )

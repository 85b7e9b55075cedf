"""Reading a YAML file that a user has written: what the YAML library passes over in silence, or answers in words of its own, is a fault here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ziggurat.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML without Python's objects, in which a name may be given once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping.

        Raises:
            ConstructorError: If a name is given twice: PyYAML takes the last.
        """
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            line = key.start_mark.line + 1
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"'{key.value}' is given twice, in line {seen[key.value]} and here",
                    key.start_mark,
                )
            seen[key.value] = line
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_yaml(
    path: Path, what: str = "config", example: str = "settings by name, such as 'train: {lr: 0.001}'"
) -> dict[Any, Any]:
    """Return what a YAML file holds by name.

    Args:
        path: Of the file.
        what: It is, in messages.
        example: What it must hold, in messages.

    Raises:
        UserError: If it cannot be read, is not YAML, names something twice, or does not hold names.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = _Loader(text).get_single_data()  # a safe loader: it makes no objects
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"the {what} {path} is not YAML: byte {error.start} is not UTF-8; save it as UTF-8"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"the {what} {path} is not YAML: {_reason(error)}") from None
    except (ValueError, RecursionError):  # a date or a number that cannot be; brackets in brackets
        raise UserError(
            f"the {what} {path} is not YAML: a value is too long, too deep, or a date that there is not"
        ) from None
    if tree is None:
        raise UserError(f"the {what} {path} must hold {example}: it is empty")
    if not isinstance(tree, dict):
        kind = "list" if isinstance(tree, list) else "single value"
        raise UserError(f"the {what} {path} must hold {example}: got a {kind}")
    return tree


def _reason(error: yaml.YAMLError) -> str:
    """Return what is wrong and where, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"
    return " ".join(f"{error.problem or error.context}".split()) + place

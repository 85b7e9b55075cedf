"""What a program is, and where they are found.

A program is a function without arguments that returns a network, with a line that says what it does. It stands in a file of
its class; ``SIZES`` and ``PLANS`` of the file say where it takes another input, or other plans. So it can be verified by hand::

    PYTHONPATH=tests ziggurat verify programs.memory:row_slice_scaled --input 2x3x24x20 --plan sp=2
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

SIZE = "2x3x24x20"
PLANS = ("sp=2",)
CLASSES = {
    "memory": "memory that is shared",
    "unchanged": "an operation that changes nothing",
    "axes": "who owns an axis",
    "draws": "memory order of random numbers",
    "likeness": "arguments that say type and device only",
    "names": "two functions of one name",
    "outside": "state outside of PyTorch's generator",
    "processes": "the network talks to other processes",
    "reference": "the reference itself",
}
# of the file that came with the issue, which is read where it is present
GIVEN = {
    "memory": "inplace_slice_rows inplace_window_view",
    "unchanged": "same_size_interpolate_then_inplace same_size_topdown_add",
    "axes": "coordinate_attention plus_its_transpose",
    "draws": "dropout_on_tokens noise_channels_last",
    "likeness": "plain_expand_as plain_to_like_summed mean_type_as_then_larger",
    "names": "torch_normal",
    "outside": "buffer_by_data tensor_hook assigned_buffer numpy_random weight_hook_clamps",
    "processes": "own_all_reduce",
    "reference": "batch_norm_tokens_one_image",
}


@dataclass(frozen=True)
class Program:
    """A network with what it is put through.

    Attributes:
        name: Of its function.
        kind: Its class, a key of `CLASSES`.
        build: The function.
        shape: Of the images.
        plans: Under which it is compared with one worker.
        summary: What it does.
    """

    name: str
    kind: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    plans: tuple[str, ...]
    summary: str


def own_programs() -> list[Program]:
    """Return the programs of this folder, class by class."""
    modules = {kind: importlib.import_module(f"programs.{kind}") for kind in CLASSES}
    return [program for kind, module in modules.items() for program in read_programs(module, kind)]


def given_programs() -> list[Program]:
    """Return the programs of the file that came with the issue; none where it is absent."""
    path = given_file()
    if not path.is_file():
        return []
    spec = importlib.util.spec_from_file_location("given_programs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["given_programs"] = module
    spec.loader.exec_module(module)
    kinds = {name: kind for kind, names in GIVEN.items() for name in names.split()}
    return [
        Program(
            found.name, kinds.get(found.name, "given"), found.build, found.shape, found.plans, found.summary
        )
        for found in read_programs(module, "given")
    ]


def given_file() -> Path:
    """Return where the file that came with the issue is looked for."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data" / "programs"
    return Path(os.environ.get("ZIGGURAT_PROGRAMS", default)) / "programs.py"


def read_programs(module: ModuleType, kind: str) -> list[Program]:
    """Return the programs of a file in its order: its public functions, with its ``SIZES`` and ``PLANS``."""
    sizes, plans = getattr(module, "SIZES", {}), getattr(module, "PLANS", {})
    functions = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    unknown = (set(sizes) | set(plans)) - set(functions)
    if unknown:
        raise ValueError(f"SIZES and PLANS of {module.__name__} name no program: {sorted(unknown)}")
    return [
        Program(
            name,
            kind,
            function,
            tuple(int(size) for size in sizes.get(name, SIZE).split("x")),
            tuple(plans[name].split()) if name in plans else PLANS,
            " ".join((function.__doc__ or "").split()),
        )
        for name, function in functions.items()
    ]

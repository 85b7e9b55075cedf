"""A program as data: the statements of a network's forward, from which readable source is printed.

What a worker runs is that very source, so a report shows exactly what ran::

    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.m1 = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            v1 = self.m1(x)
            v2 = v1[:, :, 2:9]
            v2.mul_(0.5)
            return v1
"""

from __future__ import annotations

import hashlib
import itertools
import linecache
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that the printed source uses
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from support.own_swish import OwnSwish
from ziggurat.parallel.spatial import declare

INPUT = "x"


class Layer(nn.Module):
    """A layer whose forward is a function, of itself and what it is given: as the blocks of real networks are.

    Args:
        compute: The function.
        layers: Its own ones.
    """

    def __init__(self, compute: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.compute, self.layers = compute, nn.ModuleList(layers)

    def forward(self, *given: Any) -> Any:
        """Call the function."""
        return self.compute(self.layers, *given)


declare("OwnSwish", "pointwise")

NAMES = {
    "torch": torch, "nn": nn, "F": F, "np": np, "random": random, "Layer": Layer, "checkpoint": checkpoint,
    "OwnSwish": OwnSwish, "swish": OwnSwish.apply,
}  # fmt: skip

# What PyTorch and Python raise where a statement does not go with its variables.
NOT_FITTING = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    NotImplementedError,
    AttributeError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Statement:
    """One statement of a forward.

    Attributes:
        kind: Its name in the catalogue.
        code: What it computes; of several lines, the last one is what its target becomes.
        target: The variable that it makes; empty where it only changes something.
        reads: The variables that it uses.
        setup: Lines of ``__init__`` that it needs.
        rehearsal: What stands for the code where tensors have no values; empty for the code itself.
    """

    kind: str
    code: str
    target: str = ""
    reads: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    rehearsal: str = ""

    def lines(self, rehearsed: bool = False) -> list[str]:
        """Return the lines of source, without indentation."""
        lines = (self.rehearsal if rehearsed and self.rehearsal else self.code).split("\n")
        return [*lines[:-1], f"{self.target} = {lines[-1]}"] if self.target else lines

    def renamed(self, old: str, new: str) -> Statement:
        """Return the statement with another variable in the place of one that it uses."""

        def changed(text: str) -> str:
            return re.sub(rf"(?<![\w.]){old}\b", new, text)

        reads = tuple(dict.fromkeys(new if name == old else name for name in self.reads))
        return replace(self, code=changed(self.code), rehearsal=changed(self.rehearsal), reads=reads)


@dataclass(frozen=True)
class Program:
    """A network, and the images that it is given.

    Attributes:
        seed: From which it was generated; of its weights, its images and what it draws.
        shape: Of the images, ``(B, C, H, W)``.
        channels_last: Whether they lie in memory so.
        statements: Of its forward, in order.
        outputs: The variables that it returns.
        form: In what: ``tensor``, ``tuple``, ``list`` or ``dict``.
    """

    seed: int
    shape: tuple[int, ...]
    channels_last: bool
    statements: tuple[Statement, ...]
    outputs: tuple[str, ...]
    form: str = "tuple"

    def source(self) -> str:
        """Return the source of the network."""
        setup = dict.fromkeys(itertools.chain.from_iterable(one.setup for one in self.statements))
        lines = ["class Program(nn.Module):"]
        if setup:
            lines += ["    def __init__(self):", "        super().__init__()"]
            lines += [f"        {line}" for line in setup] + [""]
        lines.append(f"    def forward(self, {INPUT}):")
        lines += [f"        {line}" for one in self.statements for line in one.lines()]
        return "\n".join([*lines, f"        return {self._returned()}", ""])

    def _returned(self) -> str:
        if self.form == "dict":
            return "{" + ", ".join(f'"{name}": {name}' for name in self.outputs) + "}"
        if self.form == "list":
            return f"[{', '.join(self.outputs)}]"
        if self.form == "tuple":
            return "(" + "".join(f"{name}, " for name in self.outputs) + ")"
        return self.outputs[0]

    def build(self) -> nn.Module:
        """Return the network: in float64, with weights that the seed decides on."""
        source = self.source()
        file = f"<program {self.seed} {hashlib.sha256(source.encode()).hexdigest()[:8]}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # for tracebacks
        names: dict[str, Any] = dict(NAMES)
        exec(compile(source, file, "exec"), names)
        torch.manual_seed(self.seed)
        network: nn.Module = names["Program"]()
        return network.double()

    def images(self) -> Tensor:
        """Return the images: normally distributed, by the seed."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        return drawn.contiguous(memory_format=torch.channels_last) if self.channels_last else drawn

    def describe(self) -> str:
        """Return the source with what goes in."""
        memory = ", channels last" if self.channels_last else ""
        return f"# seed {self.seed}, images {'x'.join(map(str, self.shape))}{memory}\n{self.source()}"

    @property
    def kinds(self) -> list[str]:
        """The kinds of its statements, each once."""
        return list(dict.fromkeys(one.kind for one in self.statements))

    def to_json(self) -> dict[str, Any]:
        """Return the program as JSON has it."""
        return asdict(self)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Program:
        """Return a program from what `to_json` gave."""
        statements = tuple(
            Statement(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()})
            for one in found["statements"]
        )
        return Program(
            **{
                **found,
                "shape": tuple(found["shape"]),
                "statements": statements,
                "outputs": tuple(found["outputs"]),
            }
        )


def forget_sources() -> None:
    """Forget the source of programs that were built: there may be many."""
    for file in [name for name in linecache.cache if name.startswith("<program ")]:
        del linecache.cache[file]


def used_by(statements: Sequence[Statement]) -> Iterator[str]:
    """Yield the variables that statements use."""
    for one in statements:
        yield from one.reads

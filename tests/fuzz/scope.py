"""What is known of a program while it is written: its variables, as tensors that have a shape, strides and memory but no values.

Each statement is run on PyTorch's meta device when it is added. So shapes need no rules of ours, a statement that PyTorch
refuses is not added, and which variables share memory is known. What backward will need of a memory is noted by autograd's
own hook: changed in place, it would make backward fail on one worker, too.
"""

from __future__ import annotations

import functools
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fuzz.overlap import NothingReadAndWritten
from fuzz.program import INPUT, NAMES, NOT_FITTING, Statement
from ziggurat.torch_internals.tensors import memory_key, version_of

MOST_VALUES = 30_000  # of a tensor
RECENT = 0.6  # chance that a variable is one of the last few
AWAY = 0.85  # chance that a variable is not the input
ALIAS = 0.6  # chance that a variable shares memory with what was changed last

FIELD = r"\{([^{}]*)\}"
VARIABLE = rf"(?<![\w.])(?:v[0-9]+|{INPUT})\b"

# The dims of the roles by the letters that templates name them with.
ROLES = {
    "map": "BCHW", "last": "BHWC", "tokens": "BNC", "series": "BCN", "rows": "BCL", "vector": "BC", "scalar": "",
    "square": "BCD", "five": "BCHDW", "number": "",
}  # fmt: skip


class Unwritable(Exception):  # noqa: N818 - caught by the generator
    """A statement that does not fit: there is no such variable, or PyTorch refuses it."""


@dataclass(frozen=True)
class Variable:
    """A variable of a program.

    Attributes:
        name: In the source.
        role: What its dims are, see `ROLES`; ``number`` for one of Python's.
        tensor: Without values; None for a number.
    """

    name: str
    role: str
    tensor: Tensor | None

    @property
    def memory(self) -> int:
        """A number of the memory that it lies in; 0 for a number."""
        return 0 if self.tensor is None else memory_key(self.tensor)

    def size(self, letter: str) -> int:
        """Return the size of the dim that a letter of the role stands for."""
        if self.tensor is None or letter not in ROLES[self.role]:
            raise Unwritable(f"a {self.role} has no dim {letter}")
        return self.tensor.shape[ROLES[self.role].index(letter)]


@dataclass(frozen=True)
class Template:
    """A kind of statement: text with fields, see `Scope.fill`.

    Attributes:
        kind: Its name.
        text: Its code.
        role: Of the variable that it makes; empty where it makes none; ``same`` for that of the first that it uses.
        setup: Lines of ``__init__``.
        weight: How often it is chosen, relative to others.
        fits: Whether it goes with the first variable that it uses.
        rehearsal: Its code for tensors without values.
    """

    kind: str
    text: str
    role: str = ""
    setup: str = ""
    weight: float = 1.0
    fits: Callable[[Variable], bool] | None = None
    rehearsal: str = ""

    @functools.cached_property
    def fields(self) -> frozenset[str]:
        """The fields of its code that stand for variables, without numbers."""
        found = (
            field.rstrip("0123456789") for field in re.findall(r"\{((?:write )?[a-z]+[0-9]?)\}", self.text)
        )
        return frozenset(field for field in found if _is_variable(field))


class Scope:
    """The state of a program that is being written.

    Args:
        rng: Makes all choices.
        shape: Of the images.
        channels_last: How they lie in memory.
    """

    def __init__(self, rng: random.Random, shape: tuple[int, ...], channels_last: bool) -> None:
        self.rng = rng
        images = torch.empty(shape, dtype=torch.float64, device="meta")
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        images.requires_grad_()
        self.network = nn.Module()
        self.values: dict[str, Any] = {**NAMES, "self": self.network, INPUT: images}
        self.variables = [Variable(INPUT, "map", images)]
        self.needed: set[int] = {memory_key(images)}  # memories that backward needs, and the leaf's
        self.statements: list[Statement] = []
        self.num_names, self.changed = 0, 0
        self._bound: dict[str, str] = {}
        self._reads: list[Variable] = []

    # -- choosing -------------------------------------------------------------------------------------------------------

    def pick(self, candidates: list[Variable]) -> Variable:
        """Return one of several variables: often a late one, or one that shares memory with what was changed last."""
        if not candidates:
            raise Unwritable("there is no such variable")
        if len(candidates) > 1 and candidates[0].name == INPUT and self.rng.random() < AWAY:
            candidates = candidates[1:]
        aliases = [one for one in candidates if one.memory == self.changed]
        if aliases and self.rng.random() < ALIAS:
            return self.rng.choice(aliases)
        if self.rng.random() < RECENT:
            return self.rng.choice(candidates[-3:])
        return self.rng.choice(candidates)

    def of_role(self, role: str, writable: bool = False) -> list[Variable]:
        """Return the variables of a role (``any``: tensors of all roles), those alone that may be changed in place where that is asked for."""
        found = [v for v in self.variables if v.role == role or (role == "any" and v.tensor is not None)]
        return [v for v in found if self.is_writable(v)] if writable else found

    def is_writable(self, variable: Variable) -> bool:
        """Return whether a variable may be changed in place: backward needs none of its memory, and no two of its elements share theirs."""
        tensor = variable.tensor
        if tensor is None or variable.memory in self.needed:
            return False
        return all(stride or size == 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))

    def fields(self) -> set[str]:
        """Return the fields of templates for which the program has a variable."""
        found = {"any"}
        for one in self.variables:
            found |= {one.role, f"write {one.role}", "write any"} if self.is_writable(one) else {one.role}
        return found

    # -- templates ------------------------------------------------------------------------------------------------------

    def fill(self, text: str) -> str:
        """Fill in a template.

        ========================  ==================================================================================
        ``{map}`` ``{tokens}`` .. a variable of a role; ``{map2}`` another choice
        ``{write map}``           one that may be changed in place
        ``{like}``                one of the shape of the first, perhaps the same
        ``{B}`` ``{C}`` ``{H}``   a size of the first one's; B as what the network is given, not as a number
        ``{cut H}``               a slice of that size
        ``{at H}``                a position of that size
        ``{factor}`` ``{small}``  a number about 1, about 0
        ``{new}``                 a name of an attribute
        ``{a|b|c}``               one of several texts
        ========================  ==================================================================================
        """
        for is_meant in (
            _is_variable,
            _is_like,
            _is_any,
        ):  # sizes are those of the first variable: it is chosen first
            before = ""
            while before != text:  # a field may stand within the texts of a choice
                before = text
                text = re.sub(FIELD, functools.partial(self._field, is_meant), text)
        return text

    def _field(self, is_meant: Callable[[str], bool], match: re.Match[str]) -> str:
        field = match.group(1)
        if not is_meant(field):
            return match.group()
        if "|" in field:
            return self.rng.choice(field.split("|"))
        if field in self._bound:
            return self._bound[field]
        made = self._make_field(field)
        if not field.startswith(("cut ", "at ", "factor", "small")):  # else each is chosen for itself
            self._bound[field] = made
        return made

    def _make_field(self, field: str) -> str:
        word, _, rest = field.partition(" ")
        plain = field.rstrip("0123456789")
        if plain in ROLES or plain == "any":
            return self._use(self.of_role(plain))
        if word == "write":
            return self._use(self.of_role(rest.rstrip("0123456789"), writable=True))
        if plain == "like":
            first = self.first.tensor
            assert first is not None
            return self._use(
                [v for v in self.variables if v.tensor is not None and v.tensor.shape == first.shape]
            )
        if word == "cut":
            return cut_text(self.rng, self.first.size(rest))
        if word == "at":
            size = self.first.size(rest)
            return str(self.rng.choice([0, size // 2, size - 1, -1, -size]))
        if plain == "factor":
            return self.rng.choice(["0.5", "0.9", "1.5", "-0.7", "2"])
        if plain == "small":
            return self.rng.choice(["0.1", "0.25", "-0.5", "1"])
        if plain == "new":
            self.num_names += 1
            return f"m{self.num_names}"
        if field == "B":
            return f"{INPUT}.shape[0]"
        if len(field) == 1 and field.isupper():
            return str(self.first.size(field))
        raise KeyError(f"a template has the unknown field {{{field}}}")

    def _use(self, candidates: list[Variable]) -> str:
        chosen = self.pick(candidates)
        self._reads.append(chosen)
        return chosen.name

    @property
    def first(self) -> Variable:
        """The first variable that the statement uses."""
        if not self._reads:
            raise Unwritable("it uses no variable yet")
        return self._reads[0]

    # -- statements -----------------------------------------------------------------------------------------------------

    def write(self, template: Template) -> Statement:
        """Add a statement of a kind.

        Raises:
            Unwritable: If it does not fit; nothing is added.
        """
        self._bound, self._reads = {}, []
        code = self.fill(template.text)
        if template.fits is not None and not template.fits(self.first):
            raise Unwritable("it does not go with this variable")
        setup = tuple(self.fill(template.setup).split("\n")) if template.setup else ()
        rehearsal = self.fill(template.rehearsal)
        role = self.first.role if template.role == "same" else template.role
        target = f"v{sum(1 for one in self.statements if one.target) + 1}" if role else ""
        reads = tuple(dict.fromkeys(re.findall(VARIABLE, code)))
        statement = Statement(template.kind, code, target, reads, setup, rehearsal)
        self._rehearse(statement, role)
        self.statements.append(statement)
        return statement

    def _rehearse(self, statement: Statement, role: str) -> None:
        """Run a statement without values, and take note of what it makes, changes, and saves for backward."""
        source = "\n".join([*statement.setup, "self.double()"]) if statement.setup else ""
        saved: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            saved[memory_key(tensor)] = min(version_of(tensor), saved.get(memory_key(tensor), 1 << 30))
            return tensor

        versions = {one.name: version_of(one.tensor) for one in self.variables if one.tensor is not None}
        try:
            with (
                warnings.catch_warnings(),
                torch.device("meta"),
                torch.autograd.graph.saved_tensors_hooks(note, lambda t: t),
                NothingReadAndWritten(),
            ):
                warnings.simplefilter("ignore")
                exec("\n".join([source, *statement.lines(rehearsed=True)]), self.values)
        # whatever PyTorch raises where a statement does not fit
        except NOT_FITTING as error:
            raise Unwritable(f"{type(error).__name__}: {error}") from error
        if any(p.numel() == 0 for p in self.network.parameters()):
            self.network = self.values["self"] = nn.Module()
            raise Unwritable("a layer has no weights")
        value = self.values.get(statement.target)
        tensors = [one.tensor for one in self.variables if one.tensor is not None]
        tensors += [value] if isinstance(value, Tensor) else []
        if any(version_of(t) > saved.get(memory_key(t), 1 << 30) for t in tensors):
            raise Unwritable("it changes what its own backward needs")
        if statement.target:
            self._check(value, role)
            self.variables.append(
                Variable(statement.target, role, value if isinstance(value, Tensor) else None)
            )
        self.needed |= set(saved)
        for one in self.variables:
            if one.tensor is not None and versions.get(one.name, version_of(one.tensor)) != version_of(
                one.tensor
            ):
                self.changed = one.memory

    def _check(self, value: Any, role: str) -> None:
        if role == "number":
            return
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise Unwritable("it makes no tensor of real numbers")
        if value.numel() > MOST_VALUES or value.dim() != len(ROLES[role]):
            raise Unwritable(f"it makes a tensor of shape {tuple(value.shape)}")


def _is_variable(field: str) -> bool:
    return field.startswith("write ") or field.rstrip("0123456789") in (*ROLES, "any")


def _is_like(field: str) -> bool:
    return _is_variable(field) or field.rstrip("0123456789") == "like"


def _is_any(field: str) -> bool:
    return True


def cut_text(rng: random.Random, size: int) -> str:
    """Return the text of a slice of a dim: of a part, from the end, of every so many, of one, of none."""
    start = rng.randrange(size + 1)
    stop = rng.randint(start, size)
    texts = [
        f"{start}:{stop}",
        f"{start}:{stop}",
        f"{start}:",
        f":{stop}",
        f":-{rng.randint(1, max(1, size - 1))}",
        f"-{rng.randint(1, max(1, size))}:",
        "::2",
        "1::2",
        f"{min(1, size)}:-1",
        f"{start}:{min(start + 1, size)}",
    ]
    return f"{start}:{start}" if rng.random() < 0.03 else rng.choice(texts)

"""Random programs: a pure function of a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from fuzz.kinds import CLASSES, KINDS
from fuzz.program import INPUT, Program, used_by
from fuzz.scope import Scope, Template, Unwritable

SIZES = (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 21, 23, 24)
SMALL = (1, 2, 3)  # fewer rows than workers, or as many
FEWEST, MOST = 4, 14  # statements
TRIES = 12  # for each statement
RARE = 4.0  # times the weight of kinds that use a variable of another role than a map
OTHER_ROLE = 0.4  # chance, twice, that a program begins with a variable of another role than a map
COMMON = {"map", "any", "write map", "write any"}
CHANGE = 0.15  # chance that a statement is chosen among those that change something in place
OTHERS = ("last", "tokens", "series", "rows", "vector", "scalar", "five", "square")
CHANGES = (*CLASSES["changes in place"],)
MAKERS = [kind for kind in KINDS if kind.role in OTHERS and kind.fields <= {"map", "any"}]

Form = Literal["any", "branches", "pair", "stages"]
STEM = Template(
    "stem",
    "self.{new}({map})",
    "map",
    "self.{new} = nn.Conv2d({C}, {3|4|4|6}, {3, padding=1|1|3, padding=1, stride=2})",
)
PAIR = Template(
    "pair of layers", "self.{new}({map})", "map",
    "self.{new} = nn.Sequential(nn.Conv2d({C}, 8, {1|3, padding=1}), nn.{ReLU|Tanh|GELU}(), nn.Conv2d(8, {C}, {1|3, padding=1}))",
)  # fmt: skip
BRANCHES = Template(
    "branches", "self.{new}({map}) {+|*} torch.tanh(self.{new2}({map}))", "map",
    "self.{new} = nn.Conv2d({C}, {C}, 3, padding=1)\nself.{new2} = nn.Conv2d({C}, {C}, {1|5, padding=2})",
)  # fmt: skip
STAGES = Template(
    "second stage", "self.{new}(torch.tanh({map}))", "map", "self.{new} = nn.Conv2d({C}, {C}, 3, padding=1)"
)
FORMS = {"any": (), "pair": (PAIR,), "branches": (BRANCHES,), "stages": (STAGES,)}


def generate(seed: int, form: Form = "any") -> Program:
    """Return the program of a seed.

    Args:
        seed: Decides on everything.
        form: ``pair``: with a pair of wide layers, which tp can split; ``branches``: with parts that lp can compute side by side;
            ``stages``: with two layers, between which pp can cut.
    """
    rng = random.Random(f"{form} {seed}")
    shape = (rng.choice((1, 2, 2, 2, 3)), rng.choice((2, 3, 3, 4)), _extent(rng), _extent(rng))
    if rng.random() < 0.15:  # square
        shape = (*shape[:3], shape[2])
    scope = Scope(rng, shape, rng.random() < 0.2)
    required = [STEM, *FORMS[form]]
    for template in required:
        _write_one(scope, [template])
    for _ in range(2):
        if rng.random() < OTHER_ROLE:
            _write_one(scope, MAKERS)
    for _ in range(rng.randint(FEWEST, MOST)):
        _write_one(scope, CHANGES if rng.random() < CHANGE else KINDS)
    outputs = _outputs(scope)
    kind = rng.choice(["tensor"] if len(outputs) == 1 else ["tuple", "list", "dict"])
    return Program(
        seed,
        shape,
        scope.variables[0].tensor.stride(1) == 1 and shape[1] > 1,
        tuple(scope.statements),
        outputs,
        kind,
    )


def _extent(rng: random.Random) -> int:
    return rng.choice(SMALL if rng.random() < 0.08 else SIZES)


def _write_one(scope: Scope, kinds: Sequence[Template]) -> None:
    """Add a statement of one of several kinds, if one of a few tries fits."""
    have = scope.fields()
    possible = [kind for kind in kinds if kind.fields <= have]
    weights = [kind.weight * (RARE if kind.fields - COMMON else 1.0) for kind in possible]
    for _ in range(TRIES if possible else 0):
        try:
            scope.write(scope.rng.choices(possible, weights)[0])
            return
        except Unwritable:
            continue


def _outputs(scope: Scope) -> tuple[str, ...]:
    """Return what the program returns: the last variable, and others that nothing uses, or that share memory with what was changed."""
    found = [v for v in scope.variables[1:] if v.tensor is not None and v.tensor.requires_grad]
    if not found:
        return (INPUT,)
    used = set(used_by(scope.statements))
    ends = [v for v in found[:-1] if v.name not in used]
    changed = [v for v in found if v.memory == scope.changed]
    chosen = [found[-1], *scope.rng.sample(ends, min(len(ends), 3))]
    if changed and scope.rng.random() < 0.5:
        chosen.append(scope.rng.choice(changed))
    return tuple(dict.fromkeys(v.name for v in chosen))

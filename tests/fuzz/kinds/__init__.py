"""The kinds of statements that programs are made of, by class."""

from fuzz.kinds import (
    changes,
    layers,
    likes,
    matrices,
    memory,
    randomness,
    rarer,
    reductions,
    resampling,
    state,
    views,
)
from fuzz.scope import Template

CLASSES: dict[str, tuple[Template, ...]] = {
    "layers": layers.KINDS,
    "resampling": resampling.KINDS,
    "views": views.KINDS,
    "changes in place": changes.KINDS,
    "memory": memory.KINDS,
    "randomness": randomness.KINDS,
    "likes and plain tensors": likes.KINDS,
    "reductions": reductions.KINDS,
    "products": matrices.KINDS,
    "rarer operations": rarer.KINDS,
    "hooks and buffers": state.KINDS,
}
KINDS: tuple[Template, ...] = tuple(kind for kinds in CLASSES.values() for kind in kinds)

"""Relative errors of one step, tensor by tensor: what a comparison finds, and what rounding is held against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["loss", "outputs", "gradient", "input", "buffers", "norm", "state"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Errors:
    """Relative errors of one step.

    Attributes:
        of: The error of each tensor that was compared, by its kind and name, such as ``("gradient", "stem.weight")``; losses and
            inputs go by the number of the microbatch, outputs by that and their own (``1.0``), the gradient's norm by nothing.

    Example:
        >>> errors = Errors({("gradient", "stem.weight"): 1e-15, ("gradient", "stem.bias"): 3e-15, ("norm", ""): 0.0})
        >>> errors.gradient, errors.worst_parameter, errors.largest
        (3e-15, 'stem.bias', 3e-15)
    """

    of: Mapping[tuple[Kind, str], float]

    def worst(self, kind: Kind) -> tuple[float, str]:
        """Return the largest error of a kind, and its tensor; zero and nothing, where there is no such tensor."""
        return max(
            ((error, name) for (one, name), error in self.of.items() if one == kind), default=(0.0, "")
        )

    @property
    def largest(self) -> float:
        """The largest of all."""
        return max(self.of.values(), default=0.0)

    @property
    def loss(self) -> float:
        """Largest of the losses of all microbatches."""
        return self.worst("loss")[0]

    @property
    def outputs(self) -> float:
        """Largest of all outputs."""
        return self.worst("outputs")[0]

    @property
    def gradient(self) -> float:
        """Largest of all parameters' gradients."""
        return self.worst("gradient")[0]

    @property
    def worst_parameter(self) -> str:
        """The parameter whose gradient that is; empty if there are no parameters."""
        return self.worst("gradient")[1]

    @property
    def input(self) -> float:
        """Of the input's gradient."""
        return self.worst("input")[0]

    @property
    def buffers(self) -> float:
        """Largest of all buffers."""
        return self.worst("buffers")[0]

    @property
    def norm(self) -> float:
        """Of the gradient's norm."""
        return self.worst("norm")[0]

    @property
    def state(self) -> float:
        """Largest of weights, moving average and moments after the step, each kind by itself."""
        return self.worst("state")[0]

    def above(self, bound: float) -> dict[tuple[Kind, str], float]:
        """Return the errors that break a bound, the largest first."""
        broken = {key: error for key, error in self.of.items() if error > bound}
        return dict(sorted(broken.items(), key=lambda item: -item[1]))

    def summary(self) -> dict[str, Any]:
        """Return the largest error of each kind, and the worst parameter, buffer and tensor of the state by name."""
        return {kind: self.worst(kind)[0] for kind in KINDS} | {
            "worst_parameter": self.worst_parameter,
            "worst_buffer": self.worst("buffers")[1],
            "worst_state": self.worst("state")[1],
        }

    def __str__(self) -> str:
        """Say the summary."""
        return ", ".join(f"{key}={value!r}" for key, value in self.summary().items())

    __repr__ = __str__


def join_errors(all_errors: Iterable[Errors]) -> Errors:
    """Return the largest errors of several comparisons: of all workers, or of several steps.

    Example:
        >>> join_errors([Errors({("norm", ""): 1e-15}), Errors({("norm", ""): 2e-15, ("loss", "0"): 0.0})]).of
        {('norm', ''): 2e-15, ('loss', '0'): 0.0}
    """
    joined: dict[tuple[Kind, str], float] = {}
    for errors in all_errors:
        for key, error in errors.of.items():
            joined[key] = max(error, joined.get(key, 0.0))
    return Errors(joined)


def name_of(key: tuple[Kind, str]) -> str:
    """Return a tensor's name for people.

    Example:
        >>> name_of(("gradient", "stem.weight")), name_of(("norm", "")), name_of(("outputs", "0.1"))
        ('gradient of stem.weight', "gradient's norm", 'output 1 of microbatch 0')
    """
    kind, name = key
    microbatch, _, number = name.partition(".")
    words: dict[Kind, str] = {
        "loss": f"loss of microbatch {name}",
        "outputs": f"output {number} of microbatch {microbatch}",
        "gradient": f"gradient of {name}",
        "input": f"gradient of the input of microbatch {name}",
        "buffers": f"buffer {name}",
        "norm": "gradient's norm",
        "state": name,
    }
    return words[kind]

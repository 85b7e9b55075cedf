"""What a broken bound means: the plan's fault, rounding that the network amplifies, or a network that is not the same twice.

Rounding explains an error where the same tensor moves as far when the step on one worker is rounded in other ways, and where that is little.
Outputs that agree to 1e-13 with a gradient that is off by 1 are no rounding, whatever one worker does by itself: PyTorch's own kernels may
compute wrongly in one way of rounding and not in another (docs/upstream/batch_norm_cpu.md), which must not become an excuse for a plan. So each tensor
is judged by itself, and not at all where rounding moves it far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ziggurat.verification.errors import Errors, name_of

Verdict = Literal["exact", "rounding", "unclear", "wrong", "nondeterministic"]
MOST_ROUNDING = (
    4  # times what rounding in some other ways does to a tensor: a plan rounds in a way of its own
)
MOST_AMPLIFIED = 1e3  # times the bound; what moves further when it is rounded in other ways may hide a fault


@dataclass(frozen=True)
class Judgement:
    """A verdict, and why.

    Attributes:
        verdict: ``exact``: no bound is broken. ``rounding``: where one is, rounding does as much on one worker. ``unclear``: it does more, so that
            a fault may be hidden. ``wrong``: it does less. ``nondeterministic``: the step on one worker breaks the bound when it is repeated.
        why: Of everything but ``exact``: the tensor that decides, with its figures.
    """

    verdict: Verdict
    why: str = ""


def judge(errors: Errors, repeated: Errors, rounding: Errors | None, bound: float) -> Judgement:
    """Judge the errors of a step.

    Args:
        errors: Under the plan, against one worker.
        repeated: Of the step on one worker, repeated unchanged.
        rounding: Of the step on one worker, rounded in other ways; needed where the bound is broken.
        bound: For each tensor.

    Example:
        >>> same, moved = Errors({("gradient", "stem.weight"): 0.0}), Errors({("gradient", "stem.weight"): 2e-10})
        >>> judge(Errors({("gradient", "stem.weight"): 3e-10}), same, moved, 1e-10).verdict
        'rounding'
        >>> print(judge(Errors({("gradient", "stem.weight"): 1.0}), same, moved, 1e-10).why)
        gradient of stem.weight is off by 1.0e+00; rounding in other ways moves it by 2.0e-10 on one worker
    """
    broken = errors.above(bound)
    if not broken:
        return Judgement("exact")
    unstable = repeated.above(bound)
    if unstable:
        key = next(iter(unstable))
        return Judgement(
            "nondeterministic",
            f"{name_of(key)} is off by {unstable[key]:.1e} when one worker repeats the step",
        )
    moved = {} if rounding is None else rounding.of
    verdicts = {key: _judge_tensor(error, moved.get(key, 0.0), bound) for key, error in broken.items()}
    verdict = max(verdicts.values(), key=_SEVERITY.index)
    key = next(key for key, one in verdicts.items() if one == verdict)
    return Judgement(
        verdict,
        f"{name_of(key)} is off by {broken[key]:.1e}; rounding in other ways moves it by {moved.get(key, 0.0):.1e} on one worker",
    )


_SEVERITY: tuple[Verdict, ...] = ("rounding", "unclear", "wrong")


def _judge_tensor(error: float, moved: float, bound: float) -> Verdict:
    """Judge the error of a tensor that rounding in other ways moves so far on one worker."""
    if error > MOST_ROUNDING * moved:
        return "wrong"
    return "rounding" if moved <= MOST_AMPLIFIED * bound else "unclear"

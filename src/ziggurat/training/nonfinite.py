"""Numbers that are not finite: in which step, on which worker, of which samples, in which parameter."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

from torch import Tensor, nn

from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.whole import local
from ziggurat.training.step import StepResult


def nonfinite_faults(
    result: StepResult, term_names: Sequence[str], samples: Sequence[str], parallel: Parallel[Any]
) -> list[str]:
    """Return a sentence for each microbatch whose loss or gradient is not finite, the same on every worker.

    Args:
        result: Of the step, which is not done yet.
        term_names: Name of each term of the loss.
        samples: Names the samples of each microbatch.
        parallel: Says which worker computes a microbatch.
    """
    step, terms = parallel.state.step + 1, result.terms
    bad = (~terms.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        return [
            f"the loss is not finite in step {step}, microbatch {index}, on {_worker(index, parallel)} "
            f"({_values(term_names, terms[index])}); samples: {samples[index]}"
            for index in bad
        ]
    if result.bad_microbatches:
        return [
            f"the gradient is not finite in step {step}, microbatch {index}, on {_worker(index, parallel)}; first bad "
            f"parameter: {name}; samples: {samples[index]}"
            for index, name in sorted(result.bad_microbatches.items())
        ]
    each = ", though that of each microbatch is: it overflows in the sum" if parallel.looks_at_each else ""
    return [
        f"the gradient is not finite in step {step}{each}; first bad parameter: "
        f"{result.bad_gradient or 'none, it is their norm'}; samples: {', '.join(samples)}"
    ]


def _values(names: Sequence[str], values: Tensor) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values.tolist(), strict=True))


def _worker(index: int, parallel: Parallel[Any]) -> str:
    """Name the worker that computes the loss of a microbatch, or those that do so together."""
    found = parallel.workers_of(index)
    return f"worker {found[0]}" if len(found) == 1 else f"workers {found[0]} to {found[-1]}"


def bad_weights(model: nn.Module, but: Container[str] = ()) -> list[str]:
    """Return this worker's weights and buffers, but those of some names, that are not finite: no later step could mend them."""
    held = ((name, local(value)) for name, value in model.state_dict().items() if not value.is_meta)
    return [name for name, value in held if name not in but and not value.isfinite().all()]

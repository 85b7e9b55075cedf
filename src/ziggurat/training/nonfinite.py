"""Numbers that are not finite: in which step, on which worker, of which samples, in which parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from ziggurat.strategies.sharded import local
from ziggurat.strategies.training import Training


def nonfinite_faults(
    step: int,
    terms: Tensor,
    term_names: Sequence[str],
    samples: Sequence[str],
    parallel: Training,
    find_gradients: Callable[[], dict[int, str]],
) -> list[str]:
    """Return a sentence for each microbatch whose loss or gradient is not finite, the same on every worker.

    Args:
        step: The step, from 0.
        terms: Terms of the loss of each microbatch, shape ``(num_leaves, num_terms)``.
        term_names: Name of each term.
        samples: Names the samples of each microbatch.
        parallel: Says which worker computes a microbatch; holds the gradient of the global batch.
        find_gradients: Called where every loss is finite: returns the first bad parameter of each microbatch whose
            gradient is not, over all workers.
    """
    bad = (~terms.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        return [
            f"the loss is not finite in step {step + 1}, microbatch {index}, on {_worker(index, len(terms), parallel)} "
            f"({_values(term_names, terms[index])}); samples: {samples[index]}"
            for index in bad
        ]
    gradients = find_gradients()
    if gradients:
        return [
            f"the gradient is not finite in step {step + 1}, microbatch {index}, on "
            f"{_worker(index, len(terms), parallel)}; first bad parameter: {name}; samples: {samples[index]}"
            for index, name in sorted(gradients.items())
        ]
    name = parallel.bad_gradient()
    each = ", though that of each microbatch is: it overflows in the sum" if parallel.looks_at_each else ""
    return [
        f"the gradient is not finite in step {step + 1}{each}; "
        f"first bad parameter: {name or 'none, it is their norm'}; samples: {', '.join(samples)}"
    ]


def _values(names: Sequence[str], values: Tensor) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values.tolist(), strict=True))


def _worker(index: int, num_leaves: int, parallel: Training) -> str:
    """Name the worker that computes the loss of a microbatch, or those that share its images."""
    ranks = range(parallel.workers.size)
    place = next(rank for rank in ranks if index in parallel.leaves_of_worker(num_leaves, rank))
    found = parallel.workers_of_loss(place)
    return f"worker {found[0]}" if len(found) == 1 else f"workers {found[0]} to {found[-1]}"


def bad_weights(model: nn.Module) -> list[str]:
    """Return this worker's weights and buffers that are not finite: no later step could mend them."""
    held = ((name, local(value)) for name, value in model.state_dict().items() if not value.is_meta)
    return [name for name, value in held if not value.isfinite().all()]

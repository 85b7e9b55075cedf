"""Spatial parallelism of whole training steps: every plan gives the gradients of one worker, to rounding."""

import functools

import numpy as np
import pytest

from support.ranks import run_ranks
from support.spatial_steps import CASES, steps

PLANS = {"sp=2": 2, "sp=3": 3, "sp=1x2": 2, "sp=2x2": 4, "dp=2,sp=2": 4}
BOUND = 1e-10


@functools.cache
def expected():
    (alone,) = run_ranks(steps, 1, ("", tuple(CASES)))
    return alone


def error(found, wanted):
    """Return how far two arrays are apart, relative to the larger."""
    return np.abs(found - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("plan", PLANS)
def test_a_step_is_that_of_one_worker(plan):
    for by_case in run_ranks(steps, PLANS[plan], (plan, tuple(CASES))):
        for case, (terms, gradients, buffers) in by_case.items():
            wanted_terms, wanted_gradients, wanted_buffers = expected()[case]
            assert error(terms, wanted_terms) < BOUND, case
            assert gradients.keys() == wanted_gradients.keys()
            largest = max(np.abs(gradient).max() for gradient in wanted_gradients.values())
            for name, gradient in wanted_gradients.items():
                apart = np.abs(gradients[name] - gradient).max()
                # a bias before a batch norm has no gradient but rounding
                assert apart < BOUND * max(np.abs(gradient).max(), 1e-4 * largest), (case, name)
            for name, buffer in wanted_buffers.items():
                assert error(buffers[name], buffer) < BOUND, (case, name)


def test_the_bits_of_all_workers_are_the_same_and_do_not_depend_on_dp():
    cases = ("fcos",)
    pair, four = run_ranks(steps, 2, ("sp=2", cases)), run_ranks(steps, 4, ("dp=2,sp=2", cases))
    first = pair[0]["fcos"]
    for other in [pair[1], *four]:
        for found, wanted in zip(other["fcos"][1:], first[1:], strict=True):
            for name in wanted:
                assert np.array_equal(found[name], wanted[name]), name

"""What a broken bound means, tensor by tensor."""

from __future__ import annotations

import pytest

from ziggurat.verification.errors import Errors
from ziggurat.verification.judgement import judge

BOUND = 1e-10
OUTPUT, STEM, HEAD = ("outputs", "0.0"), ("gradient", "stem.weight"), ("gradient", "head.weight")
SAME = Errors({OUTPUT: 0.0, STEM: 0.0, HEAD: 0.0})


def errors(output: float, stem: float, head: float) -> Errors:
    return Errors({OUTPUT: output, STEM: stem, HEAD: head})


@pytest.mark.parametrize(
    ("found", "rounding", "verdict", "tensor"),
    [
        (errors(1e-13, 1e-11, 1e-12), None, "exact", ""),
        (errors(1e-13, 3e-10, 1e-12), errors(1e-13, 2e-10, 1e-12), "rounding", "stem"),
        (
            errors(1e-13, 3e-10, 2e-10),
            errors(1e-13, 2e-10, 1e-12),
            "wrong",
            "head",
        ),  # another tensor's rounding
        (errors(1e-13, 1.0, 1e-12), errors(1e-13, 2e-10, 1e-12), "wrong", "stem"),
        (errors(1e-13, 1.0, 1e-12), errors(1e-13, 1.0, 1e-12), "unclear", "stem"),  # PyTorch's batch norm
        (errors(1e-13, 1.0, 3e-10), errors(1e-13, 1.0, 1e-12), "wrong", "head"),
        (errors(1e-13, 1.0, 3e-10), errors(1e-13, 1.0, 2e-10), "unclear", "stem"),
        (errors(2e-10, 1e-12, 1e-12), errors(1e-13, 1.0, 1.0), "wrong", "output"),
    ],
)
def test_each_tensor_is_judged_by_its_own_rounding(
    found: Errors, rounding: Errors | None, verdict: str, tensor: str
) -> None:
    judgement = judge(found, SAME, rounding, BOUND)
    assert judgement.verdict == verdict, judgement.why
    assert tensor in judgement.why
    assert bool(judgement.why) == (verdict != "exact")


def test_what_one_worker_does_not_repeat_is_not_judged() -> None:
    judgement = judge(errors(1.0, 1.0, 1.0), errors(0.0, 0.0, 0.5), SAME, BOUND)
    assert judgement.verdict == "nondeterministic"
    assert "head" in judgement.why
    assert judge(errors(1e-12, 0.0, 0.0), errors(0.5, 0.0, 0.0), None, BOUND).verdict == "exact"

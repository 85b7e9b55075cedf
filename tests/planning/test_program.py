"""A worker's program: what it counts."""

from __future__ import annotations

import pytest

from ziggurat.planning.program import Form, Kernel, Mark, Program, Start, Wait, sent_bytes

RELU = Kernel("aten.relu.default", (Form((2, 8), (8, 1), "float32"),))


def test_kernels_are_counted_by_what_they_do_on_what() -> None:
    other = Kernel("aten.relu.default", (Form((2, 8), (1, 2), "float32"),))
    program = Program(0, (Mark("forward 0"), RELU, other, RELU))
    assert program.kernels == {RELU: 2, other: 1}


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Start("swap", (0, 1, 2), sends=((1, 10), (2, 5)), receives=((1, 99),)), 15),
        (Start("all-reduce", (0, 1), num_bytes=10), 10),
        (Start("all-gather", (0, 1, 2), num_bytes=10), 20),
        (Start("all-to-all", (0, 1, 2), num_bytes=10), 10),
        (Start("barrier", (0, 1)), 0),
        (Start("broadcast", (0,), num_bytes=10), 0),
    ],
)
def test_bytes_are_what_a_ring_carries(start: Start, expected: int) -> None:
    assert sent_bytes(start) == expected
    assert Program(0, (start, Wait(0), start)).bytes_sent == 2 * expected

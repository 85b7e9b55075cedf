"""What ``make test`` selects from a long table of cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sampled import selected


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    number=st.integers(1, 40),
)
def test_a_selection_holds_every_value(sizes, number):
    cases = {"-": {}}
    for parameter, size in enumerate(sizes):
        cases = {
            f"{name}-{value}": values | {f"p{parameter}": value}
            for name, values in cases.items()
            for value in range(size)
        }
    chosen = selected(cases, number)
    assert len(chosen) == min(number, len(cases))
    assert chosen == selected(dict(reversed(cases.items())), number)  # the same, in whatever order they come
    assert chosen <= selected(cases, number + 1)
    if number >= sum(sizes):
        for parameter, size in enumerate(sizes):
            assert {cases[name][f"p{parameter}"] for name in chosen} == set(range(size))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("letter", "abcde")
@pytest.mark.parametrize("number", range(2))
def test_what_is_not_selected_is_slow(request, letter, number):
    table = request.node.nodeid.partition("[")[0]
    cases = {
        f"{table}[{number}-{letter}]": {"letter": letter, "number": number}
        for number in range(2)
        for letter in "abcde"
    }
    is_slow = request.node.get_closest_marker("slow") is not None
    assert is_slow == (request.node.nodeid not in selected(cases, 3))


@pytest.mark.sampled(0)
def test_one_case_may_be_left_to_test_all(request):
    assert request.node.get_closest_marker("slow") is not None

"""Lines through measured points."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.planning.fits import fit_line

positive = st.floats(1e-3, 1e3)


@given(
    start=positive, slope=positive, works=st.lists(st.integers(1, 10**6), min_size=3, max_size=8, unique=True)
)
def test_a_line_is_found_again(start, slope, works):
    line = fit_line([(work, start + slope * work) for work in works])
    for work in works:
        assert line.at(work) == pytest.approx(start + slope * work, rel=1e-6)
    assert line.residual == pytest.approx(0, abs=1e-3)


@given(st.lists(st.tuples(positive, positive), min_size=1, max_size=6))
def test_no_line_starts_or_falls_below_zero(points):
    line = fit_line(points)
    assert line.at(0.0) >= 0
    assert line.slope >= 0


def test_one_size_is_a_rate_with_no_word_on_how_good():
    line = fit_line([(2, 4), (2, 6)])
    assert line.at(4) == 10
    assert line.residual is None


def test_points_off_the_line_show_in_the_residual():
    assert fit_line([(1, 1), (2, 4), (3, 3), (4, 8)]).residual > 0.2

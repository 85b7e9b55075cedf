"""The loss of each task takes the course that is stored for it: all workers together cannot drift away unseen."""

import pytest

from golden.main import RELATIVE, STEPS, curve, stored
from support.small_runs import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_a_run_takes_its_stored_course(tmp_path, task):
    found, expected = curve(task, tmp_path), stored(task)
    assert len(expected["losses"]) == STEPS
    assert found["losses"] == pytest.approx(expected["losses"], rel=RELATIVE)
    # a gradient's norm moves more where rounding decides between positions
    assert found["gradient_norms"] == pytest.approx(expected["gradient_norms"], rel=25 * RELATIVE)

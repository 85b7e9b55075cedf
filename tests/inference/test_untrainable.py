"""Networks that predict, and cannot be trained (they change in place what a gradient needs, or have none), under a plan."""

from __future__ import annotations

import pytest

from fuzz.forward import ForwardJudge
from fuzz.pool import Pool, judge_one
from fuzz.program import Program, Statement

FIRST = Statement("conv", "self.m1(x)", "v1", ("x",), ("self.m1 = nn.Conv2d(3, 4, 3, padding=1)",))
LAST = Statement("conv", "self.m2(v2)", "v3", ("v2",), ("self.m2 = nn.Conv2d(4, 4, 3, padding=1)",))
WAYS = {
    "two changes": "v1.sigmoid_().clamp_(min=0)",
    "an activation twice": "F.relu(F.relu(v1, inplace=True), inplace=True)",
    "no gradient": "v1.argmax(1, keepdim=True).expand(-1, 4, -1, -1).to(v1.dtype)",
    "detached": "(v1 * 2).detach()",
    "a view of several": "[part.mul_(2) for part in v1.unbind(1)] and v1",
}


@pytest.mark.parametrize("plan", ["sp=2", "pp=2", "dp=2"])
def test_predictions_are_those_of_one_worker(plan: str) -> None:
    pool = Pool(plan, judge=ForwardJudge)
    try:
        for way, code in WAYS.items():
            changed = Statement("changed", code, "v2", ("v1",))
            program = Program(3, (2, 3, 8, 7), False, (FIRST, changed, LAST), ("v3",), "tensor")
            finding = judge_one(pool, program)
            allowed = ("exact", "refused") if way == "a view of several" else ("exact",)
            assert finding.verdict in allowed, (way, finding)
    finally:
        pool.close()

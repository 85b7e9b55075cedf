"""Programs under plans: each is exact, or refused by name with a remedy; never wrong, crashed or hung."""

from __future__ import annotations

from collections import Counter

import pytest

from programs.program import CLASSES, Program, given_file, given_programs, own_programs
from programs.run import Key, Verdict, key_of, run_programs

PROGRAMS = own_programs()
GIVEN = given_programs()
CASES = [(program, plan) for program in PROGRAMS + GIVEN for plan in program.plans]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict[tuple[Key, str], Verdict]:
    """What came of all programs that this session has chosen: their workers are forked for many together."""
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    chosen = [call.params["case"] for call in calls if "case" in call.params]
    cases = [case for case in CASES if any(case is one for one in chosen)]
    return {(key_of(verdict.program), verdict.plan): verdict for verdict in run_programs(cases)}


@pytest.mark.sampled(60)
@pytest.mark.parametrize("case", CASES, ids=[f"{p.kind}.{p.name}-{plan}" for p, plan in CASES])
def test_exact_or_refused(case: tuple[Program, str], verdicts: dict[tuple[Key, str], Verdict]) -> None:
    program, plan = case
    alone = verdicts.get((key_of(program), ""))
    assert alone is None, f"by PyTorch alone: {alone.verdict}: {alone.message} {alone.error}"
    found = verdicts[key_of(program), plan]
    assert found.is_kept, f"{program.summary} {found.verdict}: {found.error:.1e} {found.message}"
    if found.verdict == "refused":
        reason, _, remedy = found.message.rpartition(";")
        assert reason, f"a refusal says what is wrong, and what helps: {found.message}"
        assert remedy, f"a refusal says what is wrong, and what helps: {found.message}"


def test_programs_that_came_with_the_issue() -> None:
    if not GIVEN:
        pytest.skip(f"they are not at {given_file()}; set ZIGGURAT_PROGRAMS to their folder")
    assert {program.kind for program in GIVEN} <= set(CLASSES)


def test_every_class_has_programs() -> None:
    counts = Counter(program.kind for program in PROGRAMS)
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) >= 10
    assert sum(counts.values()) >= 150
    assert all(program.summary for program in PROGRAMS)
    assert len({program.name for program in PROGRAMS}) == len(PROGRAMS)

"""The search: all plans are looked at, those that rules refuse say why, and the best are the best."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.errors import UserError
from ziggurat.planning.search import (
    Candidate,
    Refused,
    candidates_of,
    plans_of,
    savers_of,
    search,
    variants_of,
)
from ziggurat.planning.simulate import Simulated
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.registry import STRATEGIES


def step(seconds, peak=0):
    return Simulated(seconds, (seconds,), ((0.0,),), (0,), (peak,), ((),))


def no_rule(plan):
    pass


@pytest.mark.parametrize("power", range(5))
def test_every_product_of_axes_once(power):
    plans = list(plans_of(2**power))
    slots = len(STRATEGIES) + sum(strategy.takes_grid for strategy in STRATEGIES.values())
    assert len(plans) == len(set(plans)) == math.comb(power + slots - 1, slots - 1)
    assert {plan.num_workers for plan in plans} == {2**power}


def test_plans_of_twelve_workers_have_all_that_can_be_named():
    named = {"dp=3,sp=2x2", "dp=12", "sp=3x4", "sp=1x12", "dp=2,sp=3,pp=2", "tp=3,lp=4"}
    assert named <= {str(plan) for plan in plans_of(12)}


def test_images_of_one_dim_are_cut_along_it_alone():
    assert [str(plan) for plan in plans_of(2, num_dims=1) if "sp" in plan.degrees] == ["sp=2"]


def test_what_does_not_go_together_is_refused_in_the_words_of_the_rule():
    taken, refused = candidates_of(4, 2, {}, no_rule)
    words = {str(one.candidate): one.reason for one in refused}
    with pytest.raises(UserError) as error:
        parse_plan("dp=2,fsdp=2")
    assert words["dp=2,fsdp=2"] == str(error.value)
    assert not {str(one.plan) for one in taken} & set(words)
    assert {str(one.plan) for one in taken} | set(words) == {str(plan) for plan in plans_of(4)}


def test_what_the_run_refuses_is_refused_with_its_reason():
    def small_batch(plan):
        if plan.num_data > 2:
            raise UserError(f"{plan} has too few samples")

    taken, refused = candidates_of(4, 2, {}, small_batch)
    assert Refused(Candidate(Plan(dp=4)), "dp=4 has too few samples") in refused
    assert Plan(dp=2, sp=2) in {one.plan for one in taken}


def test_variants_are_all_products_of_what_is_left_open():
    open_ones = [dict(one.settings) for one in variants_of(parse_plan("dp=2,pp=2"), {})]
    assert open_ones == [{"pipeline.schedule": name} for name in ("1f1b", "gpipe", "interleaved")]
    chosen = list(variants_of(Plan(pp=2), {"pipeline.schedule": "gpipe"}))
    assert chosen == [Candidate(Plan(pp=2))]
    assert list(variants_of(Plan(dp=2), {})) == [Candidate(Plan(dp=2))]


def test_what_takes_too_much_memory_comes_again_with_settings_that_take_less():
    plain = Candidate(parse_plan("dp=2,pp=2"), (("pipeline.schedule", "gpipe"),))
    saving = {"pipeline.shard_optimizer": 30, "pipeline.checkpoint": 50}

    def judge(one: Candidate) -> Simulated:
        peak = 100 - sum(saving.get(key, 0) for key, _ in one.settings)
        return Simulated(1.0, (1.0,), ((0.0,),), (0,), (peak,), ((),))

    def found(memory: float, **fixed: str) -> list[dict[str, object]]:
        result = search(
            [plain], lambda one: 0.5, judge, memory=memory, savers=lambda one: savers_of(one, fixed)
        )
        assert len(result.refused) == len({one.candidate for one in result.refused})
        return [dict(one.candidate.settings) for one in result.best]

    kept = {"pipeline.schedule": "gpipe"}
    sharded, again = {"pipeline.shard_optimizer": True}, {"pipeline.checkpoint": "stage"}
    assert found(100) == [kept]
    assert sorted(map(len, found(75))) == [2, 2]
    assert found(60)[0] == kept | again
    assert found(20) == [kept | sharded | again]
    assert found(10) == []
    assert found(60, **{"pipeline.checkpoint": "none"}) == []


@given(
    st.lists(st.tuples(st.floats(0.1, 9), st.floats(0, 1), st.booleans()), min_size=1, max_size=12),
    st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_the_best_are_those_of_all(drawn, num_best):
    """Bounds are drawn as a share of what each takes; some are refused only when they are simulated."""
    candidates = [Candidate(Plan(dp=number + 1)) for number in range(len(drawn))]
    of = dict(zip(candidates, drawn, strict=True))

    def judge(candidate):
        seconds, _, works = of[candidate]
        return step(seconds) if works else Refused(candidate, "no")

    found = search(candidates, lambda one: of[one][0] * of[one][1], judge, num_best)
    wanted = sorted(seconds for seconds, _, works in drawn if works)[:num_best]
    assert [one.step.seconds for one in found.best[:num_best]] == wanted
    assert found.is_certain
    looked_at = [*(one.candidate for one in found.best), *(one.candidate for one in found.refused)]
    assert sorted(map(str, [*looked_at, *(one for one, _ in found.left)])) == sorted(map(str, candidates))


def test_what_cannot_be_better_is_not_simulated():
    seconds = {"dp=2": 1.0, "sp=2": 2.0, "pp=2": 5.0}
    judged = []

    def judge(candidate):
        judged.append(str(candidate))
        return step(seconds[str(candidate)])

    candidates = [Candidate(parse_plan(text)) for text in seconds]
    found = search(candidates, lambda one: seconds[str(one)] - 0.5, judge, num_best=1)
    assert judged == ["dp=2"]
    assert found.left == ((candidates[1], 1.5), (candidates[2], 4.5))
    assert found.is_certain


def test_a_search_whose_time_is_spent_says_what_it_has_left():
    now = [0.0]

    def judge(candidate):
        now[0] += 10
        return step(10 - candidate.plan.num_workers)

    candidates = [Candidate(Plan(dp=number)) for number in (2, 3, 4)]
    found = search(candidates, lambda one: one.plan.num_workers, judge, 3, seconds=15, clock=lambda: now[0])
    assert [one.candidate for one in found.best] == [candidates[1], candidates[0]]
    assert found.left == ((candidates[2], 4),)
    assert not found.is_certain
    first_only = search(candidates, lambda one: 1.0, judge, 3, seconds=0, clock=lambda: now[0])
    assert len(first_only.best) == 1


def test_what_needs_more_memory_is_refused_with_both_sizes():
    candidates = [Candidate(Plan(dp=2)), Candidate(Plan(sp=2))]
    peaks = {candidates[0]: 3 * 10**9, candidates[1]: 10**9}
    found = search(candidates, lambda one: 0.0, lambda one: step(1.0, peaks[one]), memory=2e9)
    assert [one.candidate for one in found.best] == [candidates[1]]
    assert found.refused == (Refused(candidates[0], "a worker needs 3.00 GB, and has 2.00 GB"),)


def test_what_would_take_longer_than_there_is_time_is_left_and_cheaper_ones_are_looked_at():
    cheap, dear, last = (Candidate(Plan(dp=degree)) for degree in (2, 3, 4))
    cost = {cheap: 1.0, dear: 50.0, last: 2.0}
    now = [0.0]

    def judge(one: Candidate) -> Simulated:
        now[0] += cost[one]
        return step(5.0 - one.plan.size("dp"))

    found = search(
        [cheap, dear, last], lambda one: 0.5, judge, seconds=10.0, clock=lambda: now[0], cost=cost.__getitem__
    )
    assert [one.candidate for one in found.best] == [last, cheap]
    assert found.left == ((dear, 0.5),)
    assert not found.is_certain

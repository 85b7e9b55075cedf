"""Which workers meet first: those of one machine, where each has as many neighbours; or as the setting says."""

import pytest

from support.ranks import run_ranks
from ziggurat.strategies.machines import find_tiers, tiers_of
from ziggurat.strategies.mesh import make_mesh


@pytest.mark.parametrize(
    ("machines", "tiers"),
    [
        ("aaaabbbb", (4, 2)), ("aabbccdd", (2, 4)), ("aaaaaaaa", (8,)), ("abcdefgh", (8,)), ("aaaaabbb", (8,)),
        ("aabbaabb", (8,)), ("aabbc", (5,)), ("ab", (2,)), ("a", (1,)),
    ],
)  # fmt: skip
def test_two_tiers_need_as_many_neighbours_on_each_machine(machines, tiers):
    assert tiers_of(machines) == tiers


def found(workers, hierarchy, machines):
    return find_tiers(workers, hierarchy, machines[workers.rank])


@pytest.mark.parametrize(
    ("hierarchy", "machines", "tiers"),
    [
        ("auto", "aabb", (2, 2)), ("auto", "aaaa", (4,)), ("flat", "aabb", (4,)), ("2x2", "aaaa", (2, 2)),
        ("4", "aabb", (4,)), ("8x4", "aabb", (2, 2)), ("2x2", "aab", (3,)),
    ],
)  # fmt: skip
def test_the_setting_decides_where_it_fits(hierarchy, machines, tiers):
    assert run_ranks(found, len(machines), (hierarchy, machines)) == [tiers] * len(machines)


def groups(workers, plan, hierarchy):
    with make_mesh(workers, plan, hierarchy) as mesh:
        return [group.gather(workers.rank) for group in mesh.data.tiers]


def test_only_workers_that_take_other_samples_meet_by_tiers():
    assert run_ranks(groups, 4, ("dp=4", "2x2")) == [
        [[0, 1], [0, 2]],
        [[0, 1], [1, 3]],
        [[2, 3], [0, 2]],
        [[2, 3], [1, 3]],
    ]
    assert run_ranks(groups, 4, ("dp=2,sp=2", "2x2")) == [[[0, 2]], [[1, 3]], [[0, 2]], [[1, 3]]]
    assert run_ranks(groups, 4, ("dp=4", "auto")) == [[[0, 1, 2, 3]]] * 4

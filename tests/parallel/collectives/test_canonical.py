"""The canonical sum: its tree without processes, its exchange on 1 to 4 workers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.ranks import run_ranks
from ziggurat.parallel.collectives.canonical import (
    Accumulator,
    Span,
    are_leaves,
    children,
    fold,
    fold_rows,
    gather_leaves,
    gradients_held,
    partition,
    subtrees,
    sum_leaves,
)

counts = st.integers(min_value=1, max_value=40)


def tree_sum(leaves: list[float], start: int, stop: int) -> float:
    """The definition, in Python floats: halves at the largest power of two."""
    if stop - start == 1:
        return leaves[start]
    middle = start + 2 ** ((stop - start - 1).bit_length() - 1)
    return tree_sum(leaves, start, middle) + tree_sum(leaves, middle, stop)


@given(counts, st.integers(min_value=1, max_value=5))
def test_as_many_gradients_are_held_as_the_accumulator_holds(num_leaves, num_workers):
    for part in partition(num_leaves, num_workers):
        accumulator, held = Accumulator(part, num_leaves), []
        for leaf in part:
            before = len(accumulator.roots)
            left = accumulator.take_left(leaf)
            value = torch.ones(1) if left is None else left.add_(1)
            held.append((before, len(accumulator.roots) + 1))
            accumulator.add(leaf, value, has_left=left is not None)
        assert gradients_held(part, num_leaves) == held
        assert sum(float(root) for root in accumulator.roots.values()) == len(part)
        if num_workers == 1:
            assert max(most for _, most in held) <= max(1, (num_leaves - 1).bit_length()), "log2, rounded up"


def test_uneven_leaves_are_spread_with_the_larger_parts_first():
    assert partition(8, 3) == [range(0, 3), range(3, 6), range(6, 8)]
    assert partition(2, 3) == [range(0, 1), range(1, 2), range(2, 2)]


def test_the_left_child_holds_the_largest_power_of_two():
    assert children(Span(0, 8)) == (Span(0, 4), Span(4, 8))
    assert children(Span(0, 5)) == (Span(0, 4), Span(4, 5))
    assert children(Span(4, 7)) == (Span(4, 6), Span(6, 7))


@given(counts, st.integers(min_value=1, max_value=9))
def test_the_subtrees_of_all_workers_are_the_leaves_once_each(num_leaves, num_workers):
    spans = [s for part in partition(num_leaves, num_workers) for s in subtrees(part, Span(0, num_leaves))]
    covered = [leaf for span in spans for leaf in range(span.start, span.stop)]
    assert covered == list(range(num_leaves))


@given(counts)
def test_a_worker_holds_few_roots(num_leaves):
    for num_workers in range(1, num_leaves + 1):
        for part in partition(num_leaves, num_workers):
            assert len(subtrees(part, Span(0, num_leaves))) <= 2 * max(1, len(part)).bit_length()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_the_accumulator_adds_in_the_order_of_the_tree(values):
    accumulator = Accumulator(range(len(values)), len(values))
    for i, value in enumerate(values):
        accumulator.add(i, torch.tensor([value], dtype=torch.float64))
        assert len(accumulator.roots) <= len(values).bit_length()
    (total,) = accumulator.roots.values()
    assert total.item() == tree_sum(values, 0, len(values))


def test_leaves_must_come_in_order():
    accumulator = Accumulator(range(2, 4), 4)
    accumulator.add(2, torch.zeros(1))
    with pytest.raises(ValueError, match=r"got 2, expected \[3\]"):
        accumulator.add(2, torch.zeros(1))


def test_the_order_matters_so_the_other_tests_can_fail():
    leaves = torch.tensor([[1e8], [1.0], [-1e8], [1.0]])
    assert sum_leaves(leaves).item() == 0.0  # (1e8 + 1) + (-1e8 + 1) in float32
    assert sum(leaves.flatten()).item() == 1.0  # ((1e8 + 1) - 1e8) + 1


def leaf_values(num_leaves: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_leaves)
    scale = 10.0 ** torch.randint(-4, 5, (num_leaves, length), generator=generator)
    return torch.randn((num_leaves, length), generator=generator) * scale


def gathered(workers, num_leaves, tiers):
    workers.arrange(tiers)
    workers.barrier()  # where nothing is gathered, nobody leaves before all are connected
    values = leaf_values(num_leaves, 3)
    part = partition(num_leaves, workers.size)[workers.rank]
    found = gather_leaves(
        values[part.start : part.stop], partition(num_leaves, workers.size), workers
    ).numpy()
    workers.barrier()  # where nothing is gathered, nobody leaves while others still meet
    return found


@pytest.mark.sampled(7)
@pytest.mark.parametrize("tiers", [(3,), (2, 2), (2, 3)])
@pytest.mark.parametrize("num_leaves", [0, 1, 2, 7])
def test_gathered_leaves_are_in_order(num_leaves, tiers):
    for leaves in run_ranks(gathered, math.prod(tiers), (num_leaves, tiers)):
        assert (leaves == leaf_values(num_leaves, 3).numpy()).all()


@pytest.mark.parametrize("num_leaves", [*range(1, 34), 63, 64, 100])
def test_rows_are_added_level_by_level_in_the_order_of_the_tree(num_leaves):
    leaves = leaf_values(num_leaves, 5)
    by_definition = fold({Span(i, i + 1): leaf.clone() for i, leaf in enumerate(leaves)}, Span(0, num_leaves))
    before = leaves.clone()
    assert torch.equal(sum_leaves(leaves), by_definition)
    assert torch.equal(leaves, before)


@pytest.mark.parametrize("parts", [(8, 4), (12, 3), (7, 7), (24, 6), (3, 3), (8, 3), (9, 4)])
def test_roots_are_added_like_leaves_where_they_are_as_large(parts):
    """Of workers with as many leaves each; where the answer is no, some node is split otherwise."""
    num_leaves, workers = parts
    node = Span(0, num_leaves)
    spans = [span for part in partition(num_leaves, workers) for span in subtrees(part, node)]
    leaves = leaf_values(num_leaves, 5)
    roots = {span: sum_leaves(leaves[span.start : span.stop]) for span in spans}
    by_definition = sum_leaves(leaves)
    assert are_leaves(spans, node) == (parts not in ((8, 3), (9, 4)))
    if are_leaves(spans, node):
        assert torch.equal(fold_rows(torch.stack(list(roots.values()))), by_definition)


def test_no_leaves_sum_to_zero():
    assert sum_leaves(torch.ones(0, 3)).tolist() == [0, 0, 0]

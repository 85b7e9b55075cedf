"""Rows of a canonical sum over passes, on any number of workers, with parts: the bits of the tree."""

from __future__ import annotations

import pytest
import torch

from support.ranks import run_ranks
from ziggurat.parallel.collectives.canonical import Span, fold, partition
from ziggurat.parallel.collectives.row_sum import Pass, RowSum
from ziggurat.parallel.collectives.workers import Workers

ROWS = 12


def leaf(index, part):
    generator = torch.Generator().manual_seed(100 * index + part)
    return torch.randn(ROWS, generator=generator)


def rows_of(workers, num_leaves, num_parts):
    """Return this worker's rows of two steps: one by passes that count, and with company where others have more."""
    now = Pass()
    sums = RowSum(workers, num_parts, now)
    place, part = divmod(workers.rank, num_parts)
    parts = partition(num_leaves, workers.size // num_parts)
    most = max(map(len, parts))
    found = []
    for _ in range(2):
        now.step, now.num_leaves = now.step + 1, num_leaves
        for number in range(most):
            mine = parts[place]
            now.leaf = mine[number] if number < len(mine) else None
            now.is_last = number == most - 1
            rows = torch.full((ROWS // workers.size,), torch.nan)
            whole = leaf(now.leaf, part) if now.leaf is not None else torch.zeros(ROWS)
            sums(rows, whole)
            assert now.is_last or not rows.any(), "nothing yet"
        found.append(rows)
    assert torch.equal(*found)
    return found[0]


@pytest.mark.parametrize(
    ("world", "num_leaves", "num_parts"), [(2, 2, 1), (3, 8, 1), (4, 7, 1), (4, 5, 2), (3, 2, 1), (2, 1, 2)]
)
def test_rows_have_the_bits_of_the_tree(world, num_leaves, num_parts):
    trees = {
        Span(part, part + 1): fold(
            {Span(i, i + 1): leaf(i, part) for i in range(num_leaves)}, Span(0, num_leaves)
        )
        for part in range(num_parts)
    }
    expected = fold(trees, Span(0, num_parts))
    assert torch.equal(torch.cat(run_ranks(rows_of, world, (num_leaves, num_parts))), expected)


def test_a_pass_that_did_not_come_is_found():
    now = Pass(step=1, num_leaves=2, leaf=1, is_last=True)
    with pytest.raises(ValueError, match="leaves must come in order"):
        RowSum(Workers(), 1, now)(torch.zeros(ROWS), torch.ones(ROWS))
    now = Pass(step=1, num_leaves=2, leaf=0, is_last=True)
    with pytest.raises(RuntimeError, match=r"not taken of the microbatches \[1\]"):
        RowSum(Workers(), 1, now)(torch.zeros(ROWS), torch.ones(ROWS))

"""Boxes and layouts by themselves: any boxes, any owners, no model and no process."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.ranks import run_ranks
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.boxes import Box, subtract
from ziggurat.strategies.layout import Layout, Placement
from ziggurat.strategies.squares import row_squares


def elements(box):
    return set(itertools.product(*map(range, box.start, box.stop)))


@st.composite
def shapes(draw, most=3):
    return tuple(draw(st.lists(st.integers(0, 5), max_size=most)))


@st.composite
def boxes_in(draw, shape):
    pairs = [sorted((draw(st.integers(0, size)), draw(st.integers(0, size)))) for size in shape]
    return Box(tuple(low for low, _ in pairs), tuple(high for _, high in pairs))


@given(st.data())
def test_boxes_are_sets_of_elements(data):
    shape = data.draw(shapes())
    one, other, third = (data.draw(boxes_in(shape)) for _ in range(3))
    assert one.numel == len(elements(one))
    assert elements(one.intersect(other)) == elements(one) & elements(other)
    for rest, expected in (
        (one.minus(other), elements(one) - elements(other)),
        (subtract(one, [other, third]), elements(one) - elements(other) - elements(third)),
    ):
        found = [element for box in rest for element in elements(box)]
        assert len(found) == len(set(found)), "no element twice"
        assert set(found) == expected
        assert all(box.numel for box in rest)


@st.composite
def placements(draw, most_workers=4):
    """Placements in which each element lies somewhere: random boxes of each worker, and what is left goes to anyone."""
    shape = draw(shapes())
    count = draw(st.integers(1, most_workers))
    held = []
    for _ in range(count):
        mine = []
        for box in draw(st.lists(boxes_in(shape), max_size=2)):
            mine += subtract(box, mine)
        held.append(mine)
    left = subtract(Box.of(shape), [box for mine in held for box in mine])
    for box in left or ([Box.of(shape)] if not any(held) else []):
        held[draw(st.integers(0, count - 1))].append(box)
    return Placement(shape, tuple(map(tuple, held)))


class OneOf(Workers):
    """A worker of several, whose collectives are played by what the others would say."""

    def __init__(self, rank, size):
        self.rank, self.size, self.device, self.group = rank, size, torch.device("cpu"), None


@given(placements())
def test_each_element_has_one_owner_the_first_that_holds_it(placement):
    owner = {}
    for rank in range(len(placement.boxes)):
        for number, box in placement.owned(rank):
            assert elements(box) <= elements(placement.boxes[rank][number])
            for element in elements(box):
                assert element not in owner
                owner[element] = rank
    for element in elements(Box.of(placement.shape)):
        holders = [
            rank for rank, boxes in enumerate(placement.boxes) if any(element in elements(b) for b in boxes)
        ]
        assert owner[element] == holders[0]


@given(st.lists(placements(2), min_size=1, max_size=3), st.integers(0, 2**16))
def test_norm_and_chunks_are_those_of_the_whole(drawn, seed):
    size = max(len(placement.boxes) for placement in drawn)
    placed = {
        f"t{n}": Placement(p.shape, (*p.boxes, *[()] * (size - len(p.boxes)))) for n, p in enumerate(drawn)
    }
    generator = torch.Generator().manual_seed(seed)
    wholes = {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in placed.items()
    }
    held = [
        {name: tuple(box.of_tensor(wholes[name]) for box in p.boxes[rank]) for name, p in placed.items()}
        for rank in range(size)
    ]
    squares, written = [], {name: torch.full(p.shape, torch.nan).double() for name, p in placed.items()}
    for rank in range(size):
        layout = Layout(placed, OneOf(rank, size))
        layout.workers.add_up = lambda part: squares.append(part.clone()) or part
        layout.norm(held[rank])
        for name in placed:
            for chunk in layout.owned(name, held[rank][name]):
                box = Box(
                    chunk.offsets,
                    tuple(o + n for o, n in zip(chunk.offsets, chunk.tensor.shape, strict=True)),
                )
                assert box.of_tensor(written[name]).isnan().all(), "written once"
                box.of_tensor(written[name]).copy_(chunk.tensor)
    for name, whole in wholes.items():
        assert torch.equal(written[name], whole)
    if squares:  # of each row, what each worker answers for
        expected = torch.cat(row_squares(wholes.values()))
        torch.testing.assert_close(sum(squares), expected)


def test_an_element_that_lies_nowhere_is_refused():
    with pytest.raises(ValueError, match="no worker holds"):
        Placement((4, 2), ((Box((0, 0), (2, 2)),), (Box((3, 0), (4, 2)),)))


def spread_rows(workers):
    """Three tensors: whole on all, in rows, and on the second worker alone."""
    whole = {
        "all": torch.arange(6.0).view(2, 3),
        "rows": torch.arange(15.0).view(5, 3),
        "second": torch.tensor(7.0),
    }
    rows = (0, 3, 5)
    box = Box((rows[workers.rank], 0), (rows[workers.rank + 1], 3))
    mine = {
        "all": ((2, 3), (Box.of((2, 3)),)),
        "rows": ((5, 3), (box,)),
        "second": ((), (Box.of(()),) if workers.rank else ()),
    }
    layout = Layout.agree(mine, workers)
    held = {name: tuple(b.of_tensor(whole[name]).clone() for b in boxes) for name, (_, boxes) in mine.items()}
    norm = layout.norm(held)
    gathered = {name: tensor for name, tensor in layout.gather(held) if tensor is not None}
    last = dict(layout.gather(held, to=1))
    if workers.rank:
        held["rows"][0][1, 1] = torch.inf
    return norm.item(), gathered, last, layout.first_bad(held), whole, layout.is_whole


def test_over_workers():
    outcomes = run_ranks(spread_rows, 2)
    for rank, (norm, first, last, bad, whole, is_whole) in enumerate(outcomes):
        assert not is_whole
        expected = torch.cat([tensor.flatten() for tensor in whole.values()]).norm().item()
        assert norm == pytest.approx(expected, rel=1e-6)
        assert bad == "rows"
        for found in (first,) if rank == 0 else (last,):
            assert {name: tensor.tolist() for name, tensor in found.items()} == {
                name: tensor.tolist() for name, tensor in whole.items()
            }

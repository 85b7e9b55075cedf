from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ziggurat.data.batch import SampleId
from ziggurat.data.sampler import Sampler, microbatch_ids, smallest_microbatch

numbers = st.integers(1, 60)
ORDER_OF_SEED_0 = [4, 0, 7, 3, 5, 2, 1, 6]


@given(num_samples=numbers, batch_size=numbers, seed=st.integers(0, 2**40), epoch=st.integers(0, 5))
def test_an_epoch_is_a_permutation(num_samples: int, batch_size: int, seed: int, epoch: int) -> None:
    sampler = Sampler(num_samples, batch_size, seed)
    first = sampler.num_steps(epoch)
    batches = [sampler.batch(first + step) for step in range(sampler.num_steps(1))]
    ids = [id for batch in batches for id in batch]
    assert sorted(id.sample for id in ids) == list(range(num_samples))
    assert {id.epoch for id in ids} == {epoch}
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert 1 <= len(batches[-1]) <= batch_size


@given(num_samples=numbers, batch_size=numbers, order=st.randoms(use_true_random=False))
def test_a_batch_does_not_depend_on_what_was_asked_before(
    num_samples: int, batch_size: int, order: random.Random
) -> None:
    steps = list(range(20))
    expected = [Sampler(num_samples, batch_size, 1).batch(step) for step in steps]
    sampler = Sampler(num_samples, batch_size, 1)
    order.shuffle(steps)
    assert all(sampler.batch(step) == expected[step] for step in steps)


def test_epochs_and_seeds_differ() -> None:
    orders = {Sampler(50, 50, seed).batch(step) for seed in range(3) for step in range(3)}
    assert len({tuple(id.sample for id in order) for order in orders}) == 9


def test_the_order_of_seed_0_stays_what_it_is() -> None:
    assert [id.sample for id in Sampler(8, 8, 0).batch(0)] == ORDER_OF_SEED_0


@given(st.integers(1, 8), st.integers(1, 6), st.data())
def test_microbatches_are_fixed_pieces(size: int, count: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, size * count))
    batch = tuple(SampleId(0, sample) for sample in range(length))
    pieces = microbatch_ids(batch, size * count, count)
    assert sum(pieces, ()) == batch
    assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert 1 <= len(pieces[-1]) <= size
    assert len(pieces) <= count


@given(numbers, st.integers(1, 8), st.integers(1, 6), st.integers(0, 20))
def test_the_smallest_microbatch_of_a_run(num_samples: int, size: int, count: int, num_steps: int) -> None:
    sampler = Sampler(num_samples, size * count, 0)
    steps = range(num_steps or sampler.num_steps(1))
    pieces = [piece for step in steps for piece in microbatch_ids(sampler.batch(step), size * count, count)]
    assert smallest_microbatch(num_samples, size * count, count, num_steps) == min(map(len, pieces))


@pytest.mark.parametrize(("batch_size", "count"), [(8, 3), (2, 4)])
def test_microbatches_must_divide_the_batch(batch_size: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"must divide the batch size: got {count} and {batch_size}"):
        microbatch_ids((), batch_size, count)


def test_nothing_to_sample() -> None:
    with pytest.raises(ValueError, match="must be positive: got 0 and 4"):
        Sampler(0, 4, 0)

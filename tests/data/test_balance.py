"""Repeat factors against Detectron2's formula, written down slowly, and figures worked by hand; epochs with repeats."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.data.balance import ClassCounts
from ziggurat.data.sampler import Sampler, microbatch_ids

# Four images of cats (0), dogs (1) and a wolf (2), and one without objects.
IMAGES = [{0: 3}, {0: 1, 1: 1}, {0: 4}, {0: 7, 2: 1}, {}]

some_images = st.lists(
    st.dictionaries(st.integers(0, 6), st.integers(1, 9), max_size=4), min_size=1, max_size=30
)


def factors_of_detectron2(images: list[dict[int, int]], threshold: float) -> list[float]:
    """As ``RepeatFactorTrainingSampler.repeat_factors_from_category_frequency`` does it, step by step."""
    category_freq: defaultdict[int, float] = defaultdict(int)
    for image in images:
        for category in set(image):
            category_freq[category] += 1
    for category, count in category_freq.items():
        category_freq[category] = count / len(images)
    category_rep = {c: max(1.0, math.sqrt(threshold / freq)) for c, freq in category_freq.items()}
    return [max({category_rep[c] for c in image}, default=1.0) for image in images]


def factors_by_instances(images: list[dict[int, int]], threshold: float) -> list[float]:
    """The same with the geometric mean of the shares of images and of objects."""
    total = sum(sum(image.values()) for image in images)
    rep = {}
    for c in {c for image in images for c in image}:
        of_images = sum(c in image for image in images) / len(images)
        of_objects = sum(image.get(c, 0) for image in images) / total
        rep[c] = max(1.0, math.sqrt(threshold / math.sqrt(of_images * of_objects)))
    return [max({rep[c] for c in image}, default=1.0) for image in images]


def test_factors_worked_by_hand() -> None:
    counts = ClassCounts.of(IMAGES, 3)
    # the wolf and the dog are in a fifth of the images: sqrt(0.8 / 0.2) = 2; cats in four fifths: 1
    assert counts.repeat_factors("repeat", 0.8).tolist() == pytest.approx([1, 2, 1, 2, 1])
    # the wolf is one of 17 objects, as is the dog: f = sqrt(1/5 * 1/17) = 1 / sqrt(85), so sqrt(0.8 * 9.21954) = 2.71581
    assert counts.repeat_factors("repeat-instances", 0.8).tolist() == pytest.approx(
        [1, 2.71581, 1, 2.71581, 1], abs=5e-6
    )
    assert counts.repeat_factors("repeat", 0.1).tolist() == [1] * 5
    assert counts.repeat_factors("none", 1.0).tolist() == [1] * 5


@settings(max_examples=40, deadline=None)
@given(images=some_images, threshold=st.floats(1e-4, 1.0))
def test_factors_are_those_of_the_slow_references(images: list[dict[int, int]], threshold: float) -> None:
    counts = ClassCounts.of(images, 7)
    assert counts.repeat_factors("repeat", threshold).tolist() == pytest.approx(
        factors_of_detectron2(images, threshold)
    )
    assert counts.repeat_factors("repeat-instances", threshold).tolist() == pytest.approx(
        factors_by_instances(images, threshold)
    )


def test_where_an_image_has_one_label_both_are_alike() -> None:
    counts = ClassCounts.of([{0: 1}] * 9 + [{1: 1}], 2, "images")
    both = [counts.repeat_factors(balance, 0.5) for balance in ("repeat", "repeat-instances")]
    assert both[0].tolist() == pytest.approx(both[1].tolist())
    assert both[0][-1] == pytest.approx(math.sqrt(5))


def test_fractions_are_rounded_at_random_by_their_size() -> None:
    factors = np.array([1.0, 1.25, 2.5, 3.9])
    sampler = Sampler(4, 4, seed=3, factors=factors)
    drawn = np.array([sampler.repeats(epoch) for epoch in range(4000)])
    assert (drawn >= np.floor(factors)).all()
    assert (drawn <= np.ceil(factors)).all()
    # the standard error of a share of 4000 draws is at most 0.008
    assert np.abs(drawn.mean(axis=0) - factors).max() < 0.03
    other = np.array([Sampler(4, 4, seed=4, factors=factors).repeats(epoch) for epoch in range(100)])
    assert (other != drawn[:100]).any(), "keyed by the seed"
    # what one sample draws says nothing of another
    extra = drawn[:, 1:] - np.floor(factors[1:])
    assert np.abs(np.corrcoef(extra.T) - np.eye(3)).max() < 0.06


factor_lists = st.lists(st.floats(1.0, 4.0), min_size=1, max_size=40)


@settings(max_examples=40, deadline=None)
@given(
    factors=factor_lists, batch_size=st.integers(1, 20), seed=st.integers(0, 2**32), epoch=st.integers(0, 4)
)
def test_an_epoch_has_each_sample_as_often_as_drawn(
    factors: list[float], batch_size: int, seed: int, epoch: int
) -> None:
    sampler = Sampler(len(factors), batch_size, seed, factors)
    first, last = sampler.num_steps(epoch), sampler.num_steps(epoch + 1)
    batches = [sampler.batch(step) for step in range(first, last)]
    ids = [id for batch in batches for id in batch]
    assert len(set(ids)) == len(ids), "a repeat is an id of its own"
    assert {id.epoch for id in ids} == {epoch} == {sampler.epoch(step) for step in range(first, last)}
    counts = Counter(id.sample for id in ids)
    assert [counts[sample] for sample in range(len(factors))] == sampler.repeats(epoch).tolist()
    assert {(id.sample, id.repeat) for id in ids} == {(s, r) for s in counts for r in range(counts[s])}
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= batch_size


@settings(max_examples=40, deadline=None)
@given(factors=factor_lists, batch_size=st.integers(1, 20), order=st.randoms(use_true_random=False))
def test_a_balanced_batch_does_not_depend_on_what_was_asked_before(
    factors: list[float], batch_size: int, order: random.Random
) -> None:
    steps = list(range(8))
    expected = [Sampler(len(factors), batch_size, 1, factors).batch(step) for step in steps]
    sampler = Sampler(len(factors), batch_size, 1, factors)
    order.shuffle(steps)
    assert all(sampler.batch(step) == expected[step] for step in steps)


def test_factors_of_one_change_nothing() -> None:
    for step in range(12):
        assert Sampler(17, 5, 2, [1.0] * 17).batch(step) == Sampler(17, 5, 2).batch(step)


@settings(max_examples=40, deadline=None)
@given(factor_lists, st.integers(1, 6), st.integers(1, 5), st.integers(1, 25))
def test_the_smallest_microbatch_of_a_balanced_run(
    factors: list[float], size: int, count: int, num_steps: int
) -> None:
    sampler = Sampler(len(factors), size * count, 0, factors)
    pieces = [
        piece
        for step in range(num_steps)
        for piece in microbatch_ids(sampler.batch(step), size * count, count)
    ]
    assert sampler.smallest_microbatch(count, num_steps) == min(map(len, pieces))


@pytest.mark.parametrize("factors", [[1.0], [1.0, 0.5], [1.0, math.nan]])
def test_factors_below_one_are_refused(factors: list[float]) -> None:
    with pytest.raises(ValueError, match="2 samples need as many factors of 1 or more"):
        Sampler(2, 4, 0, factors)

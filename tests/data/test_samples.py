"""A sample is a pure function of (seed, id): the same bits in another process, in another order."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from support.datasets import Sized
from support.ranks import run_ranks
from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.batch import Objects, Sample, SampleId
from ziggurat.data.digits import DigitScenes
from ziggurat.data.samples import TrainingSamples
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.system.forking import fork_context
from ziggurat.tasks.detection.targets import ObjectKind

CONFIG = replace(DataConfig(), crop=64, flip="both", quarter_turns=True, color_jitter=0.4)


class Plain(Sized):
    """Images of given sizes, in one colour each."""

    classes = ("a",)
    category_ids = (1,)

    def objects(self, index: int) -> Objects:
        return Objects(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([0]))

    def image(self, index: int) -> Tensor:
        return torch.full((3, *self.sizes[index]), 40 * index + 40, dtype=torch.uint8)


def digest(sample: Sample) -> str:
    tensors = [sample.image_CHW, sample.target.boxes_xyxy, sample.target.labels]
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


def digits() -> TrainingSamples:
    return TrainingSamples(
        DigitScenes(replace(DigitsConfig(), train_scenes=20), "train"), ObjectKind(), CONFIG, seed=3
    )


def digests(ids: list[SampleId]) -> list[str]:
    samples = digits()
    return [digest(samples.sample(id)) for id in ids]


def test_the_same_bits_in_another_process_and_order() -> None:
    ids = [SampleId(epoch, sample) for epoch in (0, 7) for sample in range(10)]
    expected = digests(ids)
    with fork_context().Pool(1) as pool:
        others = pool.apply(digests, (ids[::-1],))
        pool.close()
        pool.join()
    assert others[::-1] == expected
    assert len(set(expected)) == len(ids)


def test_bits_do_not_depend_on_threads_and_the_global_generators() -> None:
    id = SampleId(1, 2)
    config = replace(CONFIG, crop=512, scale_min=1.3)
    samples = TrainingSamples(
        DigitScenes(replace(DigitsConfig(), size=512), "train"), ObjectKind(), config, seed=3
    )
    expected = digest(samples.sample(id))
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    assert run_ranks(digest_on_two_threads, 1, (samples, id)) == [expected]
    assert digest(samples.sample(id)) == expected
    assert torch.equal(state, torch.random.get_rng_state())


def digest_on_two_threads(workers: Workers, samples: TrainingSamples, id: SampleId) -> str:
    torch.set_num_threads(2)
    return digest(samples.sample(id))


def test_a_large_image_counts_for_its_pixels() -> None:
    samples = TrainingSamples(Plain((64, 64), (10, 10), (128, 192), (64, 96)), ObjectKind(), CONFIG, seed=0)
    assert len(samples) == 1 + 1 + 6 + 2
    assert [samples.image_index(sample) for sample in range(10)] == [0, 1, 2, 2, 2, 2, 2, 2, 3, 3]
    values = [int(samples.sample(SampleId(0, sample)).image_CHW.max()) for sample in (0, 1, 2)]
    assert values[1] <= values[2]


def test_pixels_are_counted_after_the_resize() -> None:
    config = replace(CONFIG, resize=128, resize_limit=10_000)
    assert len(TrainingSamples(Plain((64, 64)), ObjectKind(), config, seed=0)) == 4


@pytest.mark.parametrize("size", [(64, 64), (10, 300), (300, 10), (1, 1), (63, 65)])
def test_a_sample_is_a_crop(size: tuple[int, int]) -> None:
    samples = TrainingSamples(Plain(size), ObjectKind(), CONFIG, seed=0)
    sample = samples.sample(SampleId(0, 0))
    assert sample.image_CHW.shape == (3, 64, 64)
    assert sample.image_CHW.dtype == torch.uint8
    boxes = sample.target.boxes_xyxy
    assert ((boxes >= 0) & (boxes <= 64)).all()


def test_the_cached_image_is_not_written_to() -> None:
    samples = TrainingSamples(
        Plain((64, 64)), ObjectKind(), replace(CONFIG, scale_min=1.0, scale_max=1.0), seed=0
    )
    first = samples.sample(SampleId(0, 0)).image_CHW
    first.zero_()
    assert samples.sample(SampleId(0, 0)).image_CHW.max() > 0


def test_a_sample_is_named_by_its_image() -> None:
    assert (
        TrainingSamples(Plain((64, 64)), ObjectKind(), CONFIG, seed=0).describe(SampleId(2, 0))
        == "0 of epoch 2 (0.png)"
    )

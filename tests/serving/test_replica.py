"""What a replica answers is what `ziggurat predict` of each image alone writes, bit for bit, in any group."""

import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from support.served import SIZES, png, served
from ziggurat.commands.predict import predict
from ziggurat.commands.runs import members_of
from ziggurat.config.serve_config import ServeConfig
from ziggurat.data.extents import Region
from ziggurat.data.views import View
from ziggurat.serving.exchange import ARRAYS, MASK, PICTURE, ROWS, Answer, Ask, Refused
from ziggurat.serving.opening import Served
from ziggurat.serving.replica import Replica
from ziggurat.torch_internals.machine import cpu_has_bf16_units

ALL = frozenset({ROWS, PICTURE, MASK, ARRAYS})
FILES = {"picture": PICTURE, "mask": MASK}


def ask(index, wants=ALL):
    return Ask(str(index), png(index), f"{index}.png", wants)


def same(one, other):
    arrays = one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays
    )
    return arrays and (one.rows, one.picture, one.mask) == (other.rows, other.picture, other.mask)


@pytest.fixture(scope="module")
def alone(replicas):
    """Of each task what is answered to each image by itself."""
    return {
        name: [one.answer([ask(index)])[0] for index in range(len(SIZES))] for name, one in replicas.items()
    }


@pytest.mark.sampled(2)
@pytest.mark.parametrize("task", ["detect", "classify", "segment"])
def test_an_answer_is_what_predict_writes(runs, alone, tmp_path, task):
    for index, answer in enumerate(alone[task]):
        file = tmp_path / f"{index}.png"
        file.write_bytes(png(index))
        out = tmp_path / f"out-{index}"
        predict(str(runs[task]), [str(file)], str(out), {"plan": "dp=1"})
        text = (out / "predictions.json").read_text()
        text = text.replace(f"{tmp_path.as_posix()}/{index}.png", f"{index}.png").replace(f"{out}/", "")
        assert json.dumps(answer.rows) == text
        assert answer.rows
        (picture,) = out.glob(f"{index}.*")
        assert answer.picture == picture.read_bytes()
        masks = list((out / "masks").glob("*")) if (out / "masks").exists() else []
        assert [answer.mask] == [one.read_bytes() for one in masks] or not (answer.mask or masks)


@pytest.mark.parametrize("task", ["detect", "classify", "segment"])
def test_an_answer_does_not_depend_on_its_group(replicas, alone, task):
    orders = [(0, 1, 2, 3), (3, 2, 1, 0), (1, 1, 0), (2, 3)]
    for order in orders:
        answers = replicas[task].answer([ask(index) for index in order])
        assert all(same(found, alone[task][index]) for index, found in zip(order, answers, strict=True)), (
            order
        )


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_images_share_a_batch_only_where_that_keeps_their_bits(replicas, task):
    """On the network itself: where a shape is said to keep bits, batches of it do; else each image is a batch of its own."""
    batches = replicas[task]._desk._computer._batches
    for extent in ((64, 64), (256, 256)):

        def work(extent=extent):
            keeps = batches.keep_bits(extent)
            return keeps, batches.work_of([View(extent, (Region.whole(extent),))] * 3).batches

        keeps, made = replicas[task]._thread.submit(work).result()
        assert [len(batch) for batch in made] == ([3] if keeps else [1, 1, 1]) or (keeps and len(made) < 3)


def test_batches_of_a_network_whose_bits_depend_on_them_are_refused(replicas):
    """A layer that adds what depends on the number of images: the probe must see it, and nothing where each is computed by itself."""
    computer = replicas["segment"]._desk._computer
    model = computer.predictor.model

    def by_itself(module, given, output):  # whatever the processor does with batches of this size
        each = [module.forward(image[None]) for image in given[0]]
        return {name: torch.cat([one[name] for one in each]) for name in output}

    def leans(module, given, output):
        return {name: one + 1e-3 * len(given[0]) for name, one in output.items()}

    def judge(hooks):
        handles = [model.register_forward_hook(hook) for hook in hooks]
        try:
            return type(computer._batches)(computer.predictor.compute(), 3).keep_bits((256, 256))
        finally:
            for handle in handles:
                handle.remove()

    assert replicas["segment"]._thread.submit(judge, [by_itself]).result()
    assert not replicas["segment"]._thread.submit(judge, [by_itself, leans]).result()


def test_one_bad_image_does_not_touch_the_others(replicas, alone):
    truncated = png(1)[:3000]
    asks = [ask(0), Ask("b", truncated, "bad.png", ALL), Ask("c", b"GIF89a", "worse.gif", ALL), ask(3)]
    first, bad, worse, last = replicas["detect"].answer(asks)
    assert same(first, alone["detect"][0])
    assert same(last, alone["detect"][3])
    assert isinstance(bad, Refused)
    assert (bad.status, worse.status) == (422, 422)
    assert "bad.png" in str(bad)
    assert "/" not in str(bad)


def test_pixels_are_seen_as_their_file_is(replicas, alone):
    with Image.open(io.BytesIO(png(0))) as image:
        pixels = np.asarray(image)
    (found,) = replicas["detect"].answer([Ask("p", pixels, "0.png", ALL)])
    assert found.rows == alone["detect"][0].rows


def test_an_image_of_too_many_pixels_is_not_decoded(runs):
    replica = Replica(served(runs["detect"]), ServeConfig(max_pixels=64 * 64))
    try:
        small, large = replica.answer([ask(0), ask(3)])
    finally:
        replica.close()
    assert isinstance(small, Answer)
    assert large.status == 413
    assert "13500" in str(large)


def test_nothing_is_left_on_the_disk(runs):
    replica = Replica(served(runs["classify"]), ServeConfig())
    folder = replica._folder
    replica.answer([ask(0)])
    assert not list(Path(folder).iterdir())
    replica.close()
    assert not Path(folder).exists()


@pytest.mark.skipif(not cpu_has_bf16_units(), reason="nothing is packed without units for bfloat16")
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_weights_are_packed_once_for_all_requests(runs, tmp_path, task):
    """Each layer by the second request of a shape, and never again; answers are those of `predict`, which packs nothing for one image."""
    settings = {"plan": "dp=1", "dtype": "bf16"}
    replica = Replica(Served(task, members_of(str(runs[task]), settings, "predict")), ServeConfig())
    try:
        packed = replica._desk._computer.predictor.compute().executor.packed
        answers, counts = [], []
        for _ in range(5):
            answers += replica.answer([ask(0, frozenset({ROWS, PICTURE}))])
            counts.append(packed.num_packings)
        num_bytes = packed.num_bytes
    finally:
        replica.close()
    assert counts[0] == 0
    assert counts[1] > 5
    assert counts[1:] == [counts[1]] * 4
    assert num_bytes > 0
    assert packed.num_bytes == 0, "forgotten with the replica"
    file = tmp_path / "0.png"
    file.write_bytes(png(0))
    predict(str(runs[task]), [str(file)], str(tmp_path / "out"), settings)
    text = (tmp_path / "out" / "predictions.json").read_text()
    text = text.replace(f"{file}", "0.png").replace(f"{tmp_path / 'out'}/", "")
    (picture,) = (tmp_path / "out").glob("0.*")
    assert all(json.dumps(one.rows) == text for one in answers)
    assert all(one.picture == picture.read_bytes() for one in answers)


@pytest.fixture(scope="module")
def group(runs):
    """A replica of two workers."""
    replica = Replica(served(runs["detect"], "sp=2"), ServeConfig())
    yield replica
    replica.close()


class TestGroup:
    """A replica of two workers; the last test ends it."""

    def test_bands_are_equal_to_rounding_and_groups_to_the_bit(self, group, alone):
        found = [group.answer([ask(index)])[0] for index in range(len(SIZES))]
        for one, other in zip(found, alone["detect"], strict=True):
            for name in ("boxes_xyxy", "scores"):
                np.testing.assert_allclose(one.arrays[name], other.arrays[name], rtol=1e-4, atol=1e-3)
        together = group.answer([ask(index) for index in range(len(SIZES))])
        assert all(same(a, b) for a, b in zip(found, together, strict=True))

    def test_a_bad_image_is_refused_by_both_workers(self, group, alone):
        bad, sound = group.answer([Ask("b", png(1)[:3000], "bad.png"), ask(0)])
        assert bad.status == 422
        assert len(sound.rows) == len(alone["detect"][0].rows)

    def test_a_lost_worker_ends_the_replica(self, group):
        leader = group._desk._leader
        workers = psutil.Process(leader.pid).children()
        assert len(workers) == 2
        os.kill(workers[1].pid, signal.SIGKILL)
        leader.wait(60)
        assert not group.is_well()
        with pytest.raises(Refused) as refused:
            group.answer([ask(0)])
        assert refused.value.status == 503
        assert not psutil.pid_exists(workers[0].pid)

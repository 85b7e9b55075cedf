"""Tiled detection on all workers."""

import threading

import pytest
import torch

from support.fake_detector import BrightSquares, FindSquares, Squares
from support.predictions import all_predictions
from support.ranks import run_ranks
from support.targets import stack_targets
from ziggurat.config import DataConfig, DecodeConfig, ModelConfig, RunConfig
from ziggurat.data.batch import Microbatch, Objects, SampleId
from ziggurat.data.dataset import ImageRecord
from ziggurat.errors import UserError
from ziggurat.inference import reading, tiles
from ziggurat.models.build import build_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.registry import make_task

DECODE = DecodeConfig(max_detections=500)
SIZES = [(64, 64), (150, 201), (30, 64), (300, 70), (64, 64)]


def detect(images, config, decode=DECODE, workers=None, batch=3, **options):
    options = {"dtype": "fp32", "channels_last": True, "batch": batch} | options
    mesh = make_mesh(workers or Workers())
    config = RunConfig(data=config, decode=decode)
    return all_predictions(BrightSquares(), FindSquares(config), images, config, mesh, **options)


def rows(detections):
    """Return detections as a sorted list: ties of the score have no order of their own."""
    columns = (detections.boxes_xyxy.tolist(), detections.scores.tolist(), detections.labels.tolist())
    return sorted((*box, score, label) for box, score, label in zip(*columns, strict=True))


@pytest.mark.parametrize("overlap", [0.4, 0.5, 0.7])
@pytest.mark.parametrize("crop", [64, 100])
def test_tiles_give_what_the_whole_image_gives(crop, overlap):
    images = Squares(SIZES)
    whole = detect(images, DataConfig(crop=512))
    tiled = detect(images, DataConfig(crop=crop, tile_overlap=overlap))
    assert [rows(one) for one in tiled] == [rows(one) for one in whole]
    for index, one in enumerate(whole):
        assert sorted(one.boxes_xyxy.tolist()) == sorted(images.objects(index).boxes_xyxy.tolist())
        assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)


def test_without_overlap_cut_objects_are_found_in_parts():
    image = Squares([(64, 128)])
    whole = detect(image, DataConfig(crop=128))[0]
    parts = detect(image, DataConfig(crop=64, tile_overlap=0.0))[0]
    assert len(parts) > len(whole)


@pytest.mark.parametrize(("resize", "tolerance"), [(30, 2.0), (120, 1.0)])
def test_boxes_of_a_resized_image_are_in_its_own_pixels(resize, tolerance):
    # Resizing blurs: an edge moves by up to a pixel of the network's input.
    images = Squares([(60, 90), (90, 60)], largest=20, per_image=1)
    found = detect(images, DataConfig(crop=64, resize=resize, tile_overlap=0.75))
    for index, one in enumerate(found):
        truth = images.objects(index).boxes_xyxy
        distance = (one.boxes_xyxy[:, None] - truth[None]).abs().amax(dim=2)
        assert distance.shape == (1, 1)
        assert distance.max() <= tolerance


def test_no_images():
    assert detect(Squares([]), DataConfig()) == []


def test_the_number_of_detections_is_of_a_tile():
    """An image of several has more; what a tile had to leave away is counted."""
    large, small = detect(
        Squares([(200, 200), (64, 64)]), DataConfig(crop=64), DecodeConfig(max_detections=7)
    )
    assert len(large) > 7
    assert large.num_cut > 0
    assert (len(small), small.num_cut) == (7, len(Squares([(200, 200), (64, 64)]).objects(1)) - 7)


def test_the_mode_of_the_model_and_the_threads_are_left_as_they_were():
    model = BrightSquares().train()
    before = threading.active_count(), torch.get_num_threads()
    mesh, config = make_mesh(Workers()), RunConfig(data=DataConfig(crop=64), decode=DECODE)
    images, options = Squares([(64, 64)]), {"dtype": "fp32", "channels_last": False, "batch": 2}
    found = all_predictions(model, FindSquares(config), images, config, mesh, **options)
    assert model.training
    assert (threading.active_count(), torch.get_num_threads()) == before
    assert not found[0].boxes_xyxy.is_inference()


def test_progress_counts_tiles():
    calls = []
    detect(
        Squares([(64, 160)]),
        DataConfig(crop=64, tile_overlap=0.25),
        batch=2,
        progress=lambda *c: calls.append(c),
    )
    assert calls == [(2, 3), (3, 3)]


@pytest.mark.parametrize("ahead", [1, 10 * 64 * 64])
def test_few_images_are_decoded_ahead(monkeypatch, ahead):
    monkeypatch.setattr(reading, "AHEAD_PIXELS", ahead)
    images = Squares([(64, 64)] * 30)
    decoded = []
    detect(
        images,
        DataConfig(crop=64),
        batch=1,
        progress=lambda done, _: decoded.append(len(images.decoded) - done),
    )
    assert images.decoded == list(range(30))
    assert max(decoded) <= max(1, ahead // (64 * 64))


class Broken(Squares):
    """Images 1 and 3 are broken; image 2 is not of the size that it should have."""

    def image(self, index):
        if index in (1, 3):
            raise UserError(f"cannot decode {index}.png")
        image = super().image(index)
        return image[:, 1:] if index == 2 else image


def detect_broken(workers):
    with pytest.raises(UserError) as caught:
        detect(Broken([(64, 64)] * 6), DataConfig(crop=64), workers=workers, batch=1)
    return caught.value.faults


@pytest.mark.parametrize("world", [1, 2])
def test_every_worker_lists_every_broken_image(world):
    for faults in run_ranks(detect_broken, world):
        assert [fault[:20] for fault in faults] == [
            "cannot decode 1.png",
            "the image 2.png has ",
            "cannot decode 3.png",
        ]
        assert "64 x 63 pixels, not 64 x 64" in faults[1]


class Noise:
    """Images of random pixels."""

    sizes = ((64, 64), (180, 150), (50, 64), (64, 64), (64, 100), (33, 31))

    def __len__(self):
        return len(self.sizes)

    def record(self, index):
        return ImageRecord(f"{index}.png", index + 1, *self.sizes[index])

    def image(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, *self.sizes[index]), dtype=torch.uint8, generator=generator)


def small_model(head):
    torch.manual_seed(3)
    model = build_model(ModelConfig(f"{head}-test_resnet-fpn", levels="p3-p5", channels=16, head_depth=1), 2)
    return model.to(memory_format=torch.channels_last)


def detect_noise(workers, head, dtype):
    config = RunConfig(
        dtype=dtype,
        data=DataConfig(crop=64, tile_overlap=0.25),
        decode=DecodeConfig(score_threshold=0.0, candidates=30, max_detections=25),
    )
    model = small_model(head)
    tiles = []
    found = all_predictions(
        model,
        make_task(model, config),
        Noise(),
        config,
        make_mesh(workers),
        lambda done, total: tiles.append(total),
    )
    return [(d.boxes_xyxy.tolist(), d.scores.tolist(), d.labels.tolist()) for d in found], tiles[-1]


@pytest.mark.parametrize(("head", "dtype"), [("fcos", "bf16"), ("retinanet", "fp32")])
def test_the_same_bits_on_any_number_of_workers(head, dtype, monkeypatch):
    monkeypatch.setitem(tiles.BATCH_PIXELS, "cpu", 2 * 64 * 64)
    ((alone, num_tiles),) = run_ranks(detect_noise, 1, (head, dtype))
    assert sum(len(scores) for _, scores, _ in alone) > 50
    for world in (2, 3):
        results = run_ranks(detect_noise, world, (head, dtype))
        assert all(found == alone for found, _ in results)
        assert sum(tiles for _, tiles in results) == num_tiles
        assert min(tiles for _, tiles in results) >= num_tiles // world - 3


@pytest.mark.parametrize("head", ["fcos", "retinanet"])
def test_training_goes_on_after_detection(head):
    """Nothing that was made in inference mode, such as a cached anchor, may get into the graph of a loss."""
    config = RunConfig(dtype="fp32", data=DataConfig(crop=64))
    model = small_model(head)
    task = make_task(model, config)
    all_predictions(model, task, Noise(), config, make_mesh(Workers()))
    objects = Objects(torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([1]))
    images = torch.rand(1, 3, 64, 64)
    batch = Microbatch(
        0, (SampleId(0, 0),), images.to(torch.uint8), ((64, 64),), stack_targets([objects], 64, 64)
    )
    assignment = task.assign(batch)
    shares = task.loss_shares(model.train()(images), assignment, task.normalizers(assignment))
    torch.stack(list(shares.values())).sum().backward()
    assert all(p.grad is not None for p in model.head.parameters())

"""Detections, probabilities and labels are those of one worker where several share each image.

In float64, where what differs is not rounding: of two scores that differ by 1e-7, float32 may take either.
"""

import functools

import pytest
import torch

from support.predictions import all_predictions, compute_for
from support.ranks import run_ranks
from ziggurat.config import RunConfig, override
from ziggurat.data.dataset import ImageRecord
from ziggurat.errors import UserError
from ziggurat.inference.run import run_images
from ziggurat.models.build import build_model
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.registry import make_task

PLANS = {"sp=2": 2, "sp=3": 3, "sp=1x2": 2, "sp=2x2": 4, "dp=2,sp=2": 4}
HEADS = ("fcos", "retinanet", "atss")
SMALL = {
    "model.levels": "p3-p6", "model.channels": 16, "model.head_depth": 1, "data.tile_overlap": 0.25,
    "decode.score_threshold": 0.0, "decode.candidates": 40, "decode.max_detections": 30, "dtype": "fp32",
}  # fmt: skip


class Noise:
    """Images of random pixels."""

    sizes = ((96, 64), (150, 130), (50, 64), (64, 100), (33, 31))

    def __len__(self):
        return len(self.sizes)

    def record(self, index):
        return ImageRecord(f"{index}.png", index + 1, *self.sizes[index])

    def image(self, index):
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, *self.sizes[index]), dtype=torch.uint8, generator=generator)


def build(name, crop):
    config = override(RunConfig(), SMALL | {"model.name": name, "data.crop": crop})
    torch.manual_seed(3)
    model = build_model(config.model, num_classes=3)
    with torch.no_grad():  # scores that differ
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model = model.double().to(memory_format=torch.channels_last)
    model.register_forward_pre_hook(lambda module, arguments: (arguments[0].double(),))
    return model, config


def detect(workers, plan):
    """Return the detections of each head, of whole images and of tiles."""
    mesh, results = make_mesh(workers, plan), []
    for head in HEADS:
        for crop in (256, 64):
            model, config = build(f"{head}-test_resnet-fpn", crop)
            found = all_predictions(model, make_task(model, config), Noise(), config, mesh)
            results.append(
                [(d.boxes_xyxy.numpy(), d.scores.numpy(), d.labels.numpy(), cut_of(d)) for d in found]
            )
    return results


def cut_of(found):
    return found.num_cut, found.candidates_cut, round(found.best_cut, 9)


@functools.cache
def of_one_worker(function):
    return run_ranks(function, 1, ("",))[0]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("plan", PLANS)
def test_detections_are_those_of_one_worker(plan):
    alone = of_one_worker(detect)
    assert sum(len(scores) for case in alone for _, scores, _, _ in case) > 500
    assert sum(cut[1] for case in alone for *_, cut in case) > 500
    for results in run_ranks(detect, PLANS[plan], (plan,)):
        for case, expected in zip(results, alone, strict=True):
            for (boxes, scores, labels, cut), (true_boxes, true_scores, true_labels, true_cut) in zip(
                case, expected, strict=True
            ):
                assert cut == pytest.approx(true_cut)
                assert labels.tolist() == true_labels.tolist()
                assert boxes == pytest.approx(true_boxes, abs=1e-9)
                assert scores == pytest.approx(true_scores, rel=1e-10)


def label(workers, plan):
    """Return the probabilities of a classifier, and the labels of each pixel with the worker that has them."""
    mesh = make_mesh(workers, plan)
    model, config = build("timm:test_resnet", 64)
    probabilities = torch.stack(all_predictions(model, make_task(model, config), Noise(), config, mesh))
    maps = []
    for crop in (256, 64):
        model, config = build("smp:unet/test_resnet", crop)
        labels: dict = {}
        run_images(make_task(model, config), Noise(), compute_for(model, config, mesh), labels.__setitem__)
        maps.append({index: one.numpy() for index, one in labels.items()})
    return probabilities.numpy(), maps


@pytest.mark.parametrize("plan", PLANS)
def test_probabilities_and_labels_are_those_of_one_worker(plan):
    alone, expected_maps = of_one_worker(label)
    results = run_ranks(label, PLANS[plan], (plan,))
    assert all(found == pytest.approx(alone, rel=1e-6) for found, _ in results)  # they are float32
    for number, expected in enumerate(expected_maps):
        owners = [index for _, maps in results for index in maps[number]]
        assert sorted(owners) == sorted(expected), "every image is one worker's"
        for _, maps in results:
            for index, labels in maps[number].items():
                assert (labels == expected[index]).all()


class Broken(Noise):
    """The second image can be read by nobody but the first worker."""

    def __init__(self, workers):
        self.workers = workers

    def image(self, index):
        if index == 1 and not self.workers.is_first:
            raise UserError("cannot decode 1.png")
        return super().image(index)


def detect_broken(workers):
    model, config = build("fcos-test_resnet-fpn", 64)
    with pytest.raises(UserError) as caught:
        all_predictions(model, make_task(model, config), Broken(workers), config, make_mesh(workers, "sp=2"))
    return caught.value.faults


def test_what_one_worker_cannot_read_ends_all_of_them():
    assert run_ranks(detect_broken, 2) == [["cannot decode 1.png"]] * 2

"""Data parallelism of a whole detector: the gradients of the plain computation, however unequal the microbatches are."""

import pytest
import torch

from support.ranks import run_ranks
from support.targets import stack_targets
from ziggurat.config import RunConfig, override
from ziggurat.data.batch import Microbatch, Objects, SampleId
from ziggurat.models.build import build_model
from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.tasks.detection.targets import ObjectTargets
from ziggurat.tasks.registry import make_task

SIZE = 64
COUNTS = [(0, 0), (1, 0), (45, 60), (2, 3), (0, 1)]  # objects of each image of each microbatch


def make_detector(head, normalizer):
    settings = {
        "model.name": f"{head}-test_resnet-fpn", "model.levels": "p3-p5", "model.channels": 16, "model.head_depth": 1,
        "model.norm": "frozen", "loss.normalizer": normalizer,
    }  # fmt: skip
    config = override(RunConfig(), settings)
    torch.manual_seed(0)
    model = build_model(config.model, num_classes=3).double().train()
    return model, make_task(model, config)


def make_microbatch(index):
    generator = torch.Generator().manual_seed(index)
    images = torch.rand((2, 3, SIZE, SIZE), generator=generator, dtype=torch.float64)
    objects = []
    for count in COUNTS[index]:
        corner = torch.rand((count, 2), generator=generator) * (SIZE - 30)
        boxes = torch.cat([corner, corner + 4 + 26 * torch.rand((count, 2), generator=generator)], dim=1)
        objects.append(Objects(boxes, torch.randint(0, 3, (count,), generator=generator)))
    ids = tuple(SampleId(0, 2 * index + i) for i in range(2))
    return Microbatch(index, ids, images, ((SIZE, SIZE),) * 2, stack_targets(objects, SIZE, SIZE))


def plain_gradients(head, normalizer):
    """One process, one forward pass of all images, one loss."""
    model, task = make_detector(head, normalizer)
    parts = [make_microbatch(index) for index in range(len(COUNTS))]
    batch = Microbatch(
        0,
        tuple(id for part in parts for id in part.ids),
        torch.cat([part.images_BCHW for part in parts]),
        tuple(size for part in parts for size in part.sizes),
        ObjectTargets(
            torch.cat([part.targets.boxes_xyxy for part in parts]),
            torch.cat([part.targets.labels for part in parts]),
            tuple(count for part in parts for count in part.targets.counts),
        ),
    )
    assignment = task.assign(batch)
    shares = task.loss_shares(model(batch.images_BCHW), assignment, task.normalizers(assignment))
    loss = sum(shares.values())
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def parallel_gradients(workers, head, normalizer):
    model, task = make_detector(head, normalizer)
    parallel = DataParallel(model, workers)
    parallel.start(len(COUNTS))
    batches = [make_microbatch(index) for index in parallel.mine]
    assignments = [task.assign(batch) for batch in batches]
    totals = parallel.sum([task.normalizers(a) for a in assignments], len(task.normalizer_names))
    losses = []
    for batch, assignment in zip(batches, assignments, strict=True):
        with parallel.leaf(batch.index):
            loss = sum(task.loss_shares(model(batch.images_BCHW), assignment, totals).values())
            loss.backward()
        losses.append(loss.detach().view(1))
    parallel.finish_gradients()
    loss = parallel.sum(losses, width=1).item()
    parallel.finish_statistics()
    parallel.close()
    return loss, {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("head", "normalizer"),
    [
        ("fcos", "positives"),
        ("fcos", "images"),
        ("retinanet", "positives"),
        ("retinanet", "images"),
        ("atss", "positives"),
    ],
)
@pytest.mark.parametrize("world", [1, 2, 3])
def test_gradients_are_those_of_the_plain_computation(head, normalizer, world):
    expected_loss, expected = plain_gradients(head, normalizer)
    for loss, found in run_ranks(parallel_gradients, world, (head, normalizer)):
        assert loss == pytest.approx(expected_loss, rel=1e-10)
        for name, gradient in expected.items():
            error = (torch.from_numpy(found[name]) - gradient).norm() / gradient.norm().clamp(min=1e-12)
            assert error < 1e-10, (name, error)


def test_a_mean_of_ratios_would_be_wrong_so_the_other_test_can_fail():
    """What most toolkits do: each microbatch divides by its own positives, and the results are averaged."""
    _, expected = plain_gradients("fcos", "positives")
    model, task = make_detector("fcos", "positives")
    for index in range(len(COUNTS)):
        batch = make_microbatch(index)
        assignment = task.assign(batch)
        shares = task.loss_shares(model(batch.images_BCHW), assignment, task.normalizers(assignment))
        (sum(shares.values()) / len(COUNTS)).backward()
    found = dict(model.named_parameters())
    errors = [(found[n].grad - g).norm() / g.norm().clamp(min=1e-12) for n, g in expected.items()]
    assert max(errors) > 0.1

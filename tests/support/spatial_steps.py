"""One training step of each task in float64, on any plan: what the tests of spatial parallelism compare."""

from dataclasses import replace

import torch

from support.targets import stack_targets
from ziggurat.config import RunConfig, override
from ziggurat.data.batch import Microbatch, Objects, SampleId
from ziggurat.data.extents import cut_out
from ziggurat.models.build import build_model
from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.strategies.mesh import make_mesh
from ziggurat.tasks.registry import make_task
from ziggurat.tasks.segmentation.targets import MaskTargets

HEIGHT, WIDTH = 100, 76  # neither is a multiple of a stride; the coarse levels are too small to be cut
COUNTS = [(0, 0), (3, 9)]  # objects of each image of each microbatch
DETECTOR = {"model.channels": 8, "model.head_depth": 1, "model.levels": "p3-p6"}
CASES = {
    "fcos": {"model.name": "fcos-test_resnet-fpn", **DETECTOR},
    "retinanet": {"model.name": "retinanet-test_resnet-pafpn", **DETECTOR},
    "atss": {"model.name": "atss-test_resnet-fpn", **DETECTOR},
    "segment": {
        "model.name": "smp:unet/tu-test_resnet",
        "model.channels": 16,
        "loss.segmentation": "ce+dice",
    },
    "pnn": {"model.name": "pnn", "model.pnn.channels": 4, "model.pnn.hidden": 8},
    "spp": {"model.name": "spp-test_resnet"},
    "timm": {"model.name": "timm:test_resnet"},
}


def build(case):
    """Return model and task of a case, the same on every worker."""
    config = override(RunConfig(), CASES[case])
    torch.manual_seed(0)
    model = build_model(config.model, num_classes=3).double().train()
    return model, make_task(model, config)


def make_microbatch(index, task):
    """Return images of a microbatch with their targets."""
    generator = torch.Generator().manual_seed(index)
    images = torch.rand((2, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.float64)
    targets = [_target(task, count, generator) for count in COUNTS[index]]
    ids = tuple(SampleId(0, 2 * index + i) for i in range(2))
    sizes = ((HEIGHT, WIDTH),) * 2
    return Microbatch(index, ids, images, sizes, stack_targets(targets, HEIGHT, WIDTH))


def _target(task, count, generator):
    if task == "classify":
        return count % 3
    if task == "segment":
        mask = torch.randint(0, 2, (HEIGHT, WIDTH), generator=generator).to(torch.uint8)
        mask[:10] = 255
        return mask
    corner = torch.rand((count, 2), generator=generator) * torch.tensor([WIDTH - 50, HEIGHT - 50])
    boxes = torch.cat([corner, corner + 4 + 46 * torch.rand((count, 2), generator=generator)], dim=1)
    return Objects(boxes, torch.randint(0, 3, (count,), generator=generator))


def cut_batch(batch, mesh):
    """Return a worker's part of a microbatch, as its loader makes it."""
    part = mesh.part(*batch.extent)
    if part is None:
        return batch
    targets = batch.targets
    if isinstance(targets, MaskTargets):
        targets = MaskTargets(cut_out(targets.labels_BHW, part.own))
    return replace(batch, images_BCHW=cut_out(batch.images_BCHW, part.tile), targets=targets, part=part)


def step(workers, plan, case):
    """Return loss terms, gradients and buffers of one step, as the training loop computes them."""
    mesh = make_mesh(workers, plan)
    model, task = build(case)
    mesh.name_layers(model)
    parallel = DataParallel(model, mesh.dp, mesh.sp)
    parallel.start(len(COUNTS))
    batches = [cut_batch(make_microbatch(index, model.task), mesh) for index in parallel.mine]
    assignments = [task.assign(batch) for batch in batches]
    counts = [task.normalizers(assignment) for assignment in assignments]
    totals = parallel.sum(counts, len(task.normalizer_names), parts=task.normalizers_are_parts)
    if task.output_sum_names:
        with torch.no_grad():
            sums = [
                task.output_sums(_forward(model, batch, mesh), assignment)
                for batch, assignment in zip(batches, assignments, strict=True)
            ]
        totals = torch.cat([totals, parallel.sum(sums, len(task.output_sum_names))])
    losses = []
    for batch, assignment in zip(batches, assignments, strict=True):
        with parallel.leaf(batch.index):
            shares = task.loss_shares(_forward(model, batch, mesh), assignment, totals)
            torch.stack(list(shares.values())).sum().backward()
        losses.append(torch.stack(list(shares.values())).detach().double())
    parallel.finish_gradients()
    terms = parallel.gather(losses, len(task.term_names)).numpy()
    parallel.finish_statistics()
    parallel.close()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return terms, gradients, {name: buffer.numpy() for name, buffer in model.named_buffers()}


def _forward(model, batch, mesh):
    return model(mesh.spread(batch.images_BCHW, batch.part))


def steps(workers, plan, cases):
    """Return the step of each case; one group of processes for all of them."""
    return {case: step(workers, plan, case) for case in cases}

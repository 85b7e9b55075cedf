"""One training step of each task in float64, on any plan: what the tests of spatial parallelism compare."""

from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from support.targets import stack_targets
from ziggurat.config import RunConfig, override
from ziggurat.data.batch import Microbatch, Objects, SampleId
from ziggurat.data.extents import cut_out
from ziggurat.models.build import build_model
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.setting import image_spec
from ziggurat.strategies.state import TrainState
from ziggurat.tasks.registry import make_task
from ziggurat.tasks.segmentation.targets import MaskTargets
from ziggurat.training.step import Step

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


@dataclass(frozen=True)
class PlainFeed:
    """Images as they are, spread over the workers that share them."""

    mesh: Mesh

    def images(self, batch):
        return self.mesh.spread(batch.images_BCHW, batch.part)

    def seed(self, batch):
        pass

    def announce(self, name, batch):
        pass

    def compute(self):
        return nullcontext()


def step(workers, plan, case):
    """Return loss terms, gradients and buffers of one step of training."""
    with make_mesh(workers, plan) as mesh:
        model, task = build(case)
        state = TrainState.start(model, torch.optim.SGD(model.parameters(), lr=0.0))
        spec = replace(image_spec((2, 3, HEIGHT, WIDTH), False, mesh), dtype=torch.float64)
        parallel = Parallel(state, mesh, Setting(spec, RunConfig(), len(COUNTS), nullcontext))
        mine = parallel.microbatches_of(len(COUNTS))
        batches = [cut_batch(make_microbatch(index, model.task), mesh) for index in mine]
        result = Step(parallel, task, PlainFeed(mesh))(batches, len(COUNTS))
        parallel.close()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return result.terms.numpy(), gradients, {name: buffer.numpy() for name, buffer in model.named_buffers()}


def steps(workers, plan, cases):
    """Return the step of each case; one group of processes for all of them."""
    return {case: step(workers, plan, case) for case in cases}

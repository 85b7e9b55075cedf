"""A training loop of your own, under any plan: python examples/own_loop.py [PLAN], such as dp=3, sp=2 or dp=2,tp=2."""

import sys
from contextlib import nullcontext

import torch
from torch import nn

from ziggurat import (
    Parallel,
    RunConfig,
    Setting,
    Step,
    TrainState,
    Workers,
    WorkerSettings,
    launch,
    make_mesh,
)
from ziggurat.config import override
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.runs.folder import weights_sha256
from ziggurat.strategies.plan import parse_plan
from ziggurat.tasks.own import whole_output

NUM_MICROBATCHES = 8  # part of the run's definition, as the seed is


def make_microbatch(step, index):
    generator = torch.Generator().manual_seed(1000 * step + index)
    labels = torch.randint(0, 2, (4,), generator=generator)
    return torch.randn(4, 3, 32, 32, generator=generator) + 0.3 * labels.view(4, 1, 1, 1), labels


class BrightOrDark:
    """The loss: a share of it for each microbatch, divided by the samples of the whole batch, over all workers."""

    term_names, normalizer_names, output_sum_names = ["classes"], ["images"], []
    normalizers_are_parts = False

    def assign(self, batch):
        return batch[1]

    def normalizers(self, labels):
        return torch.tensor([float(len(labels))], dtype=torch.float64)

    def loss_shares(self, outputs, labels, totals):
        logits, num_workers = whole_output(outputs)  # workers that share the images take an equal part each
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        return {"classes": loss / (totals[0].item() * num_workers)}


class Feed:
    """What the model sees of a microbatch."""

    def __init__(self, mesh):
        self.images = lambda batch: mesh.cut(batch[0])

    def seed(self, batch):
        pass  # nothing is random in this model; dropout would be keyed here

    def announce(self, name, batch):
        pass

    compute = staticmethod(nullcontext)


def train(workers: Workers, plan: str, steps: int = 20):
    """Return the losses, and the hash of the weights on the first worker."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )
    state = TrainState.start(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    config = override(RunConfig(), {"tensor.min_width": 8})  # layers of so few channels would not be split
    with make_mesh(workers, plan) as mesh:
        images, _ = make_microbatch(0, 0)
        parallel = Parallel(state, mesh, Setting(spec_of(images), config, NUM_MICROBATCHES, nullcontext))
        take_step = Step(parallel, BrightOrDark(), Feed(mesh), clip_norm=1.0)
        losses = []
        for step in range(steps):
            mine = parallel.microbatches_of(NUM_MICROBATCHES)
            result = take_step([make_microbatch(step, index) for index in mine], NUM_MICROBATCHES)
            state.complete()
            losses.append(result.terms.sum().item())
        whole = parallel.whole_average()  # no average is kept: the model itself
        parallel.close()
    return losses, whole and weights_sha256(whole)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "dp=2"
    world = parse_plan(chosen).num_workers
    losses, digest = launch(train, (chosen,), world, WorkerSettings(threads=1, device="cpu"))
    print(f"{chosen}: loss {losses[0]:.4f} to {losses[-1]:.4f}, weights {digest}")

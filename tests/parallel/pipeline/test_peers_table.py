"""What PyTorch's own pipelining gets wrong or hangs on (measured, torch 2.14.1, gloo): here every row is exact."""

import pytest
import torch
from torch import nn

from support.local_stages import weighted_sum
from support.ranks import run_ranks
from ziggurat.parallel.graph.trace import Tracer
from ziggurat.parallel.pipeline.pipeline import Pipeline, Work
from ziggurat.parallel.pipeline.schedules import num_stages

CUT = {2: ["c4"], 4: ["c3", "c5", "top"]}


class Pyramid(nn.Module):
    """C2 to C5 and a top: four maps cross a cut; C4 is an output, and feeds C5."""

    def __init__(self):
        super().__init__()
        self.c2 = nn.Conv2d(3, 4, 3, padding=1)
        self.c3, self.c4, self.c5 = (nn.Conv2d(4, 4, 3, 2, 1) for _ in range(3))
        self.top = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        c2 = self.c2(x)
        c3 = self.c3(c2)
        c4 = self.c4(c3)
        c5 = self.c5(c4)
        return c2, c3, c4, c5, self.top(c5)


class Skip(Pyramid):
    """A map of the first stage is used by the last alone."""

    def forward(self, x):
        c2 = self.c2(x)
        return self.top(self.c5(self.c4(self.c3(c2)))).sum((2, 3)) + c2.mean((2, 3))


class ManyUsers(Pyramid):
    """A map of the first stage is used by every later one."""

    def forward(self, x):
        c2 = self.c2(x)
        pooled = c2.mean((2, 3), keepdim=True)
        c4 = self.c4(self.c3(c2) * pooled) + pooled
        return self.top(self.c5(c4) * pooled) + pooled


STEPS = {
    "equal sizes": [[(2, 64, 64)] * 4],
    "odd sizes": [[(2, 65, 77)] * 4],
    "sizes that change between steps": [[(2, 64, 64)] * 2, [(2, 96, 48)] * 2, [(1, 33, 64)] * 2],
    "sizes that change within a step": [[(2, 64, 64), (1, 48, 80), (2, 33, 64), (1, 64, 64)]],
    "7 images in 4 microbatches": [[(2, 64, 64)] * 3 + [(1, 64, 64)]],
}


def images_of(shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(b, 3, h, w, generator=generator, dtype=torch.float64) for b, h, w in shapes]


def make(network):
    torch.manual_seed(0)
    return network().double()


def run_steps(workers, network, schedule, steps):
    model = make(network)
    stages = num_stages(schedule, workers.size)
    pipeline = Pipeline(model, Tracer(model), CUT[stages], workers, schedule)
    results = []
    for shapes in steps:
        images = images_of(shapes)
        _, losses = pipeline.step(
            Work(len(images), images.__getitem__, lambda outputs, _: weighted_sum(outputs))
        )
        results.append((losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        model.zero_grad(set_to_none=True)
    return results


@pytest.mark.sampled(15)
@pytest.mark.parametrize(
    ("workers", "schedule"), [(2, "gpipe"), (2, "1f1b"), (2, "interleaved"), (4, "1f1b")]
)
@pytest.mark.parametrize("network", [Pyramid, Skip, ManyUsers])
@pytest.mark.parametrize("row", STEPS)
def test_the_row_is_exact(workers, schedule, network, row):
    steps = STEPS[row]
    of_workers = run_ranks(run_steps, workers, (network, schedule, steps))
    for number, shapes in enumerate(steps):
        model = make(network)
        losses = {}
        for index, images in enumerate(images_of(shapes)):
            loss = weighted_sum(model(images))
            loss.backward()
            losses[index] = loss.detach()
        found, gradients = {}, {}
        for results in of_workers:
            found |= results[number][0]
            gradients |= results[number][1]
        assert all(torch.equal(found[index], loss) for index, loss in losses.items())
        assert gradients.keys() == dict(model.named_parameters()).keys()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-12, atol=1e-12)

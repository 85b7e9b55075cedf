"""A network with all that is awkward to cut, and its stages one after the other in one process."""

import copy
from typing import NamedTuple

import torch
from torch import nn

from ziggurat.parallel.graph.runner import StageRunner
from ziggurat.parallel.graph.stages import find_places, make_stages
from ziggurat.parallel.graph.trace import Tracer, spec_of


class Maps(NamedTuple):
    fine: torch.Tensor
    others: dict


class Skips(nn.Module):
    """Skips over stages, several consumers, an overwritten map, a reused layer, tied weights, a constant, shapes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.act = nn.ReLU(inplace=True)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.shared.weight
        self.drop = nn.Dropout(0.3)
        self.scales = [torch.tensor(0.5, dtype=torch.float64)]
        self.register_buffer("shift", torch.ones(1, 4, 1, 1, dtype=torch.float64))

    def forward(self, images):
        if images.shape[-1] % 2:
            images = nn.functional.pad(images, (0, 1))
        first = self.act(self.stem(images))
        second = self.shared(first) * self.scales[0]
        third = self.down(second) + self.shift
        third[:, 1] += 1
        up = nn.functional.interpolate(third, size=second.shape[-2:], mode="nearest")
        up += first
        one, two = self.tied(up).chunk(2, dim=1)
        with torch.no_grad():
            ones = torch.arange(4, device=images.device) + self.drop(first).mean() * 0
        joined = self.shared(torch.cat([one, two], 1)) + ones.view(1, 4, 1, 1)
        return Maps(joined, {"first": first, "third": [self.drop(third)]})


def run_stages(model, images, cut, loss_of):
    """Return outputs and loss; gradients are left in the parameters and the images."""
    graph = Tracer(model).trace(spec_of(images))
    stages = make_stages(graph, find_places(graph, cut))
    runner, made, held = StageRunner(model), {}, []
    for stage in stages:
        received = {v: _copy(made[n, v]) for n, values in stage.receives.items() for v in values}
        if stage.number == 0:
            received[(-1, 0)] = images
        held.append(runner.forward(stage, graph, received))
        made |= {(stage.number, value): tensor for value, tensor in held[-1].sent.items()}
    outputs = held[-1].outputs
    held[-1].loss = loss_of(outputs)
    loss = held[-1].loss.detach()
    gradients = {}
    for stage, one in reversed(list(zip(stages, held, strict=True))):
        wanted = {
            value: sum(
                gradients[n, value]
                for n in sorted(stage.sends, reverse=True)
                if value in stage.sends[n] and (n, value) in gradients
            )
            for value in one.sent
            if one.sent[value].requires_grad
            and any((n, value) in gradients for n, values in stage.sends.items() if value in values)
        }
        back = runner.backward(one, wanted)
        gradients |= {(stage.number, value): g for value, g in back.items() if g is not None}
    return outputs, loss


def _copy(tensor):
    """Return a tensor as it arrives on another worker."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def weighted_sum(outputs):
    """Return a number that depends on every output."""
    generator = torch.Generator().manual_seed(1)
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in leaves)


def compare_with_whole(model, images, cut):
    """Assert that a model and its stages compute the same, from the same weights and the same seed."""
    other = copy.deepcopy(model)
    results = []
    for one, run in ((model, None), (other, run_stages)):
        given = images.clone().requires_grad_()
        torch.manual_seed(3)
        if run is None:
            outputs = one(given)
            loss = weighted_sum(outputs)
            loss.backward()
        else:
            outputs, loss = run(one, given, cut, weighted_sum)
        results.append((outputs, loss.detach(), given.grad, one))
    (whole, loss, gradient, _), (parts, loss_of_parts, gradient_of_parts, _) = results
    assert type(whole) is type(parts)
    leaves = torch.utils._pytree.tree_leaves
    for one, two in zip(leaves(whole), leaves(parts), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(loss, loss_of_parts)
    torch.testing.assert_close(gradient_of_parts, gradient, rtol=1e-12, atol=1e-14)
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None:
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-12, atol=1e-13 + 1e-12 * scale, msg=name)
    for p, q in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.equal(p, q)

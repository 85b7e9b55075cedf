"""Each function of tensor parallelism against torch's own whole function, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from support.ranks import run_ranks
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.tensor.cross_entropy import cross_entropy
from ziggurat.parallel.tensor.layers import ColumnLayer, PartDropout, RowLayer, cut_between
from ziggurat.parallel.tensor.operators import TensorAxis, copy_in, join, sum_out
from ziggurat.parallel.tensor.split import SplitTensor


def close(value: torch.Tensor, reference: torch.Tensor) -> None:
    torch.testing.assert_close(value, reference, rtol=1e-10, atol=1e-12)


def _adjoints(workers: Workers) -> None:
    """<A x, y> = <x, A' y>, summed over all workers: of `join` y is one for all, and its gradient counted once."""
    axis = TensorAxis(workers)
    torch.manual_seed(0)
    whole_x, whole_y = torch.randn(2, workers.size, 3, 4, dtype=torch.float64).unbind()
    x = whole_x[workers.rank].clone().requires_grad_()
    copy_in(x, axis).backward(whole_y[workers.rank])
    assert x.grad is not None
    close(x.grad, whole_y.sum(0))
    x.grad = None
    total = sum_out(x, axis)
    close(total, whole_x.sum(0))
    total.backward(whole_y[0])
    close(x.grad, whole_y[0])
    x.grad = None
    joined, y = join(x, axis, 1), torch.randn(3, 4 * workers.size, dtype=torch.float64)
    close(joined, torch.cat([*whole_x], 1))
    joined.backward(y)
    left = float((joined.detach() * y).sum())
    parts = workers.gather(float((x.detach() * x.grad).sum()))
    assert left == pytest.approx(sum(parts), rel=1e-12)
    assert axis.bytes_sent > 0


@pytest.mark.parametrize("world", [2, 3])
def test_adjoints(world: int) -> None:
    run_ranks(_adjoints, world)


def test_gradcheck() -> None:
    axis, x = TensorAxis(Workers()), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 2])
    assert torch.autograd.gradcheck(lambda t: copy_in(t, axis), x)
    assert torch.autograd.gradcheck(lambda t: sum_out(t, axis), x)
    assert torch.autograd.gradcheck(lambda t: join(t, axis, 1), x)
    assert torch.autograd.gradcheck(lambda t: cross_entropy(t, labels, axis, 0.1), x)


def _cross_entropy(workers: Workers, smoothing: float) -> None:
    torch.manual_seed(0)
    logits = (30 * torch.randn(5, 12, dtype=torch.float64)).requires_grad_()
    labels, weights = torch.tensor([0, 11, 5, 6, 3]), torch.randn(5, dtype=torch.float64)
    whole = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    whole.backward(weights)
    axis = TensorAxis(workers)
    part = axis.part(logits.detach(), 1).clone().requires_grad_()
    losses = cross_entropy(part, labels, axis, smoothing)
    losses.backward(weights)
    close(losses, whole)
    assert part.grad is not None
    assert logits.grad is not None
    close(part.grad, axis.part(logits.grad, 1))
    assert axis.bytes_sent == 2 * (workers.size - 1) * 5 * 8 // workers.size + (
        2 * (workers.size - 1) * 15 * 8 // workers.size
    )  # maxima and sums: no logits


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("world", [2, 3])
def test_cross_entropy(world: int, smoothing: float) -> None:
    run_ranks(_cross_entropy, world, (smoothing,))


def _loss_of_parts(workers: Workers) -> None:
    """PyTorch's own loss, called in its forms on logits that are spread over workers."""
    torch.manual_seed(0)
    whole = torch.randn(5, 12, dtype=torch.float64)
    axis, labels = TensorAxis(workers), torch.tensor([0, 11, 5, -100, 3])
    logits = SplitTensor(axis.part(whole, 1).clone(), axis, 1)
    loss = functional.cross_entropy
    close(loss(logits, labels), loss(whole, labels))
    close(loss(logits, target=labels, label_smoothing=0.1), loss(whole, target=labels, label_smoothing=0.1))
    close(loss(logits, labels, reduction="sum"), loss(whole, labels, reduction="sum"))
    each = {"ignore_index": 5, "reduction": "none"}
    close(loss(logits, labels.clamp(0), **each), loss(whole, labels.clamp(0), **each))
    moved = axis.bytes_sent
    close(loss(input=logits, target=labels), loss(input=whole, target=labels))
    close(loss(logits, labels, torch.arange(12.0).double()), loss(whole, labels, torch.arange(12.0).double()))
    assert axis.bytes_sent > moved, "class weights need the logits of all classes"
    for wrong in (12, -1):
        with pytest.raises(IndexError, match=f"labels must be from 0 to 11: got {wrong}"):
            loss(logits, torch.tensor([0, 1, wrong, 2, 3]))


def test_the_loss_of_parts() -> None:
    run_ranks(_loss_of_parts, 2)


def _pair(workers: Workers, layers: nn.Sequential, x: torch.Tensor) -> None:
    """Hold first > between > second, split, against the same layers whole."""
    axis, whole = TensorAxis(workers), copy.deepcopy(layers)
    first, *between, second = layers
    chain: list[nn.Module] = [ColumnLayer(first, axis)]
    for layer in between:
        if isinstance(layer, nn.Dropout):
            layer = PartDropout(layer, axis)
        elif not isinstance(layer, nn.ReLU):
            cut_between(layer, axis)
        chain.append(layer)
    split = nn.Sequential(*chain, RowLayer(second, axis))
    results = []
    for one in (whole, split):
        given = x.clone().requires_grad_()
        torch.manual_seed(1)
        output = one(given)
        output.square().sum().backward()
        results.append((output, given.grad))
    for value, reference in zip(results[1], results[0], strict=True):
        close(value, reference)
    references = dict(whole.named_parameters()) | dict(whole.named_buffers())
    for name, parameter in (*split.named_parameters(), *split.named_buffers()):
        reference = references[name]
        value = parameter if parameter.grad is None else parameter.grad
        wanted = reference if reference.grad is None else reference.grad
        if value.shape != wanted.shape:
            wanted = axis.part(wanted, 1 if name.startswith(f"{len(layers) - 1}.") else 0)
        close(value, wanted)


PAIRS = {
    "linear": (nn.Linear(5, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 7)),
    "no bias": (nn.Linear(5, 12, bias=False), nn.Linear(12, 7, bias=False)),
    "conv": (nn.Conv2d(5, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 7, 3, padding=2, dilation=2)),
    "group": (nn.Conv2d(5, 12, 1), nn.GroupNorm(6, 12), nn.ReLU(), nn.Conv2d(12, 7, 3, padding="same")),
    "depthwise": (nn.Conv2d(5, 12, 1), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(), nn.Conv2d(12, 7, 1)),
    "volumes": (nn.Conv3d(5, 6, 3), nn.ReLU(), nn.Conv3d(6, 2, 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("world", [2, 3])
def test_pairs(kind: str, world: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*copy.deepcopy(PAIRS[kind])).double()
    shape = {"linear": (4, 3, 5), "no bias": (4, 5), "volumes": (2, 5, 4, 5, 6)}.get(kind, (2, 5, 9, 8))
    run_ranks(_pair, world, (layers, torch.randn(shape, dtype=torch.float64)))

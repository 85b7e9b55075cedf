"""A tensor that has a hook, and whose memory is changed in place afterwards: the gradient of one worker, or a refusal by name.

Of a tensor of its own PyTorch calls the hook with the gradient of what was there before; the hook of a view it forgets. A worker's
part may be a view where the whole is none, and the other way round.
"""

import itertools

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.conformance import is_fit
from support.whole_and_bands import Case, assert_exact, compare

MAKERS = {
    "product": lambda b: b * 1.5, "pad": lambda b: F.pad(b, (0, 1, 0, 1)), "pad by reflection": lambda b: F.pad(b, (1, 1, 1, 1), mode="reflect"),
    "mean": lambda b: F.adaptive_avg_pool2d(b, 1), "means": lambda b: F.adaptive_avg_pool2d(b, 2), "moments": lambda b: torch.var_mean(b, (2, 3))[1],
    "bilinear": lambda b: F.interpolate(b, scale_factor=2, mode="bilinear"), "nearest": lambda b: F.interpolate(b, size=(5, 5)),
    "area": lambda b: F.interpolate(b, size=(2, 2), mode="area"), "instance norm": F.instance_norm, "group norm": lambda b: F.group_norm(b, 1),
    "einsum": lambda b: torch.einsum("bchw,bdhw->bcd", b, b), "linear": lambda b: F.linear(b.permute(0, 2, 3, 1), b.new_ones(3, 2), b.new_ones(3)),
    "matmul": lambda b: b.flatten(2).transpose(1, 2) @ b.new_ones(2, 3), "gram": lambda b: b.flatten(2) @ b.flatten(2).transpose(1, 2),
    "convolution": lambda b: F.conv2d(b, b.new_ones(2, 2, 3, 3), padding=1), "pooling": lambda b: F.avg_pool2d(b, 2, ceil_mode=True),
    "rows": lambda b: b[:, :, 1:], "columns": lambda b: b[..., 1:], "channels": lambda b: b[:, 1:], "chosen": lambda b: b[:, :, [0, 2]],
    "transpose": lambda b: b.transpose(2, 3), "permute": lambda b: b.permute(0, 2, 3, 1), "flatten": lambda b: b.flatten(2), "view": lambda b: b.view(b.shape),
    "expand": lambda b: b.unsqueeze(0), "cat": lambda b: torch.cat([b, b]), "cat of rows": lambda b: torch.cat([b, b], 2), "roll": lambda b: b.roll(1, 2),
    "flip": lambda b: b.flip(2), "rot90": lambda b: b.rot90(1, (2, 3)), "clone": lambda b: b.clone(), "itself": lambda b: b, "contiguous": lambda b: b.contiguous(),
    "largest": lambda b: b.amax((2, 3), keepdim=True), "sum": lambda b: b.sum((2, 3)), "shuffle": lambda b: F.pixel_shuffle(torch.cat([b, b], 1), 2),
    "unfold": lambda b: F.unfold(b, 2), "dropout": lambda b: F.dropout(b, 0.5), "kron": lambda b: torch.kron(b, b.new_ones(1, 1, 2, 2)),
}  # fmt: skip
CHANGES = {
    "itself": lambda b, v: v.mul_(0.9), "a part": lambda b, v: v[:1].mul_(0.9), "its first rows": lambda b, v: v[:, :1].mul_(0.9),
    "its last": lambda b, v: v[..., -1:].add_(1), "the base": lambda b, v: b.mul_(0.9), "set": lambda b, v: v.__setitem__(0, 0.5), "nothing": lambda b, v: None,
}  # fmt: skip


def hooked(make, change, use_before):
    def function(x):
        b = x * 1.5
        v = make(b)
        before = v.sin().sum() if use_before else 0
        v.register_hook(lambda gradient: gradient * 2)
        change(b, v)
        return v * v.detach() + b.detach().mean() + before

    return function


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("shape", "degrees"),
    [((2, 2, 5, 6), (2,)), ((1, 2, 3, 1), (2,)), ((2, 2, 4, 6), (3,)), ((2, 2, 5, 5), (2, 2))],
)
def test_the_gradient_of_one_worker_or_a_refusal(shape, degrees):
    cases = {
        f"{make}, {change}, {used}": hooked(MAKERS[make], CHANGES[change], used)
        for make, change, used in itertools.product(MAKERS, CHANGES, (False, True))
    }
    cases = {name: Case(function, shape) for name, function in cases.items() if is_fit(function, shape)}
    found = compare(cases, degrees)
    refused = {name for name, one in found.items() if isinstance(one, str) and "UnsupportedOperation" in one}
    for name in found.keys() - refused:
        assert_exact(found[name]), name
    changed = {name for name in found if ", nothing, " not in name}
    assert refused <= changed
    assert len(refused) < 0.4 * len(found)

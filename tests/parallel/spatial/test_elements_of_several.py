"""Memory of which several elements of a tensor lie in one place, changed in place: as on one worker, or refused by name.

What is expanded along rows has one row in memory, of which each worker has a copy: changed by way of one row, the others' stay.
"""

import itertools

import pytest
import torch

from support.conformance import is_fit
from support.whole_and_bands import Case, assert_exact, compare

WIDE = {
    "rows": lambda m: m.mean(2, keepdim=True).expand_as(m), "columns": lambda m: m.mean(3, keepdim=True).expand_as(m),
    "positions": lambda m: m.mean((2, 3), keepdim=True).expand(-1, -1, 8, 6), "channels": lambda m: m.mean(1, keepdim=True).expand_as(m),
    "images": lambda m: m.mean(0, keepdim=True).expand_as(m), "rows and channels": lambda m: m.mean((1, 2), keepdim=True).expand_as(m),
    "windows": lambda m: m.unfold(2, 4, 2)[..., 0], "all windows": lambda m: m.unfold(2, 4, 2).transpose(-2, -1).flatten(0, 1), "none": lambda m: m * 1,
}  # fmt: skip
PARTS = {
    "a row": lambda v: v[:, :, -1], "a row of a slice": lambda v: v[:, :, 1:][:, :, 0], "a column": lambda v: v[..., 2], "a channel": lambda v: v[:, 1],
    "an image": lambda v: v[0], "a value": lambda v: v[0, 0, -1, 2], "a narrow": lambda v: v.narrow(2, 1, 1), "turned": lambda v: v.transpose(2, 3)[..., 1],
}  # fmt: skip
CHANGES = {
    "filled": lambda part: part.fill_(0.5),
    "scaled": lambda part: part.mul_(0.5),
    "set": lambda part: part.__setitem__(..., 0.5),
}
LOCAL = {"channels", "images", "none"}  # what no worker has a copy of


def changed(wide, part, change):
    def function(x):
        m = x * 1.5
        v = wide(m)
        chosen = part(v)
        change(chosen)
        return torch.cat(
            [(v * v).sum((-2, -1)).flatten(), (m * 2).sum((2, 3)).flatten(), chosen.sin().sum().flatten()]
        )

    return function


@pytest.mark.sampled(1)
@pytest.mark.parametrize("degrees", [(2,), (2, 2)])
def test_changed_as_on_one_worker_or_refused(degrees):
    shape = (2, 3, 8, 6)
    cases = {
        f"{wide}: {part}, {change}": changed(WIDE[wide], PARTS[part], CHANGES[change])
        for wide, part, change in itertools.product(WIDE, PARTS, CHANGES)
    }
    cases = {name: Case(function, shape) for name, function in cases.items() if is_fit(function, shape)}
    found = compare(cases, degrees)
    refused = {name for name, one in found.items() if isinstance(one, str) and "UnsupportedOperation" in one}
    for name in found.keys() - refused:
        assert_exact(found[name]), name
    assert {name.partition(":")[0] for name in found} == WIDE.keys()
    shared = {name for name in refused if "rows of several workers share" in found[name]}
    assert shared
    assert not {name for name in shared if name.partition(":")[0] in LOCAL}

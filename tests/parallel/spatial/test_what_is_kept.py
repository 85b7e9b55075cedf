"""What operations keep for their gradients: whatever one worker lets a network change afterwards may be changed in bands too.

Each case is taken as often as there are tensors that go into its operations or come out of them; behind it one of these is
changed in place, before the gradients are computed. Where PyTorch says that it has kept that tensor, one worker has no result.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from support import index_cases, other_cases, product_cases, sampling_cases
from support.operation_cases import DIMS
from support.operation_cases import GROUPS as OPERATIONS
from support.whole_and_bands import BOUND, Case, compare

pytestmark = pytest.mark.filterwarnings("ignore")  # what the cases' own tests ignore

GATHERED = {**index_cases.GROUPS, **sampling_cases.GROUPS, **product_cases.GROUPS, **other_cases.GROUPS}
GROUPS = {**{f"in bands: {name}": cases for name, cases in {**OPERATIONS, "dims": DIMS}.items()}, **GATHERED}


class Seen(TorchFunctionMode):
    """What goes into the calls that a function makes, and comes out of them.

    Attributes:
        calls: Of each call the tensors and other values.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls.append(pytree.tree_leaves((args, kwargs, result)))
        return result


def in_rows(x):
    return x * 1.0


def in_columns(x):
    return (x * 1.0).transpose(-1, -2).contiguous().transpose(-1, -2)


class Changing(nn.Module):
    """A case behind which one of its tensors is changed.

    Args:
        function: Of the case.
        order: In memory, of the images that it gets.
        place: The number of a call, and that of a tensor in it; None to change nothing.
    """

    def __init__(self, function, order, place=None):
        super().__init__()
        self.inner = function() if isinstance(function, type) else function
        self.order, self.place = order, place
        self.calls = []

    def forward(self, x):
        with Seen() as seen:
            result = self.inner(self.order(x))
        if self.place is None:
            self.calls = seen.calls
        else:
            call, leaf = self.place
            seen.calls[call][leaf].mul_(0.5)
        return result


def changing(function, order, place):
    """Return the class of a case behind which a tensor is changed: each worker makes its own module."""

    class One(Changing):
        def __init__(self):
            super().__init__(function, order, place)

    return One


def places(case, order):
    """Yield the places at which one worker lets a case's tensors be changed, each tensor once."""
    images = torch.randn(case.shape, dtype=case.dtype, requires_grad=True)
    unchanged = Changing(case.function, order).to(case.dtype)
    try:
        unchanged(images)
    except RuntimeError:
        return  # a view that images in columns do not have
    first = {}
    for call, leaves in enumerate(unchanged.calls):
        for leaf, one in enumerate(leaves):
            if isinstance(one, Tensor) and one.requires_grad and not one.is_leaf:
                first.setdefault(id(one), (call, leaf))
    for place in first.values():
        try:
            Changing(case.function, order, place).to(case.dtype)(images).sum().backward()
        except RuntimeError:
            continue
        yield place


@pytest.mark.sampled(6)
@pytest.mark.parametrize("order", [in_rows, in_columns])
@pytest.mark.parametrize("degrees", [(2,), (2, 2)], ids=str)
@pytest.mark.parametrize("group", GROUPS)
def test_what_one_worker_lets_be_changed(group, degrees, order):
    cases = {
        (name, place): Case(changing(case.function, order, place), case.shape, case.dtype)
        for name, case in GROUPS[group].items()
        if not ("1d" in name and len(degrees) > 1)  # a signal has one dim to cut
        for place in places(case, order)
    }
    assert cases, "one worker lets no tensor be changed"
    results = compare(cases, degrees)
    refused = {
        key for key, found in results.items() if isinstance(found, str) and "UnsupportedOperation" in found
    }
    wrong = {
        key: found if isinstance(found, str) else max(found.values())
        for key, found in results.items()
        if key not in refused and not (isinstance(found, dict) and max(found.values()) <= BOUND)
    }
    assert not wrong, wrong
    assert len(refused) <= 0.1 * len(cases), refused

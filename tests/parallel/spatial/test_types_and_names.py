"""The same operations on numbers of other types, and with arguments that are given by their names: as on one worker, or refused by name."""

import inspect
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, get_testing_overrides

from support.conformance import CASES as ALL
from support.ranks import run_ranks
from support.whole_and_bands import Case
from ziggurat.parallel.spatial import SpatialTensor, UnsupportedOperation, cut, spatial_mesh, whole_tensor

CASES = {name: case for name, case in ALL.items() if len(case.shape) > 3}  # of maps
SIGNATURES = get_testing_overrides()
PRIVATE = (
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "lstm_cell",
    "gru_cell",
    "rnn_tanh_cell",
    "rnn_relu_cell",
)  # layers call them, by place


class ByName(TorchFunctionMode):
    """Gives functions all arguments by their names."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        signature = SIGNATURES.get(func)
        is_method = func in vars(Tensor).values() or func in vars(torch._C.TensorBase).values()
        if signature is None or is_method or getattr(func, "__name__", "") in PRIVATE:
            return func(*args, **(kwargs or {}))
        parameters = inspect.signature(signature).parameters.values()
        names = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        if len(names) < len(parameters) or len(args) > len(names):
            return func(*args, **(kwargs or {}))
        try:
            return func(**dict(zip(names, args, strict=False)), **(kwargs or {}))
        except TypeError:  # the names that PyTorch's own tests have are not always those of the function
            return func(*args, **(kwargs or {}))


def image_of(case: Case, dtype: torch.dtype) -> Tensor:
    image = torch.randn(case.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return image > 0 if dtype == torch.bool else (image * 3).to(dtype)


def called(case: Case, image: Tensor, way: AbstractContextManager[object]) -> Tensor:
    torch.manual_seed(1)
    function = case.function() if isinstance(case.function, type) else case.function
    if isinstance(function, nn.Module):
        function = function.to(image.dtype if image.dtype.is_floating_point else torch.float64)
    torch.manual_seed(2)
    with way:
        return function(image)


def found(workers, dtype, by_name, degrees):
    """Return by case what is wrong; empty where it is as on one worker, ``refused`` where it is that."""
    mesh, verdicts = spatial_mesh(workers, degrees, 1), {}
    for name, case in CASES.items():
        way = ByName if by_name else nullcontext
        try:
            expected = called(case, image_of(case, dtype), way())
        except Exception:  # noqa: BLE001 - PyTorch cannot compute it of this type, or by these names
            continue
        try:
            result = called(case, cut(image_of(case, dtype), mesh), way())
        except UnsupportedOperation:
            verdicts[name] = "refused"
            continue
        whole = whole_tensor(result) if isinstance(result, SpatialTensor) else result
        same = whole.dtype == expected.dtype and whole.shape == expected.shape
        bound = (
            1e-5 if expected.dtype == torch.float32 else 1e-10
        )  # real numbers that are computed of whole ones
        same = same and torch.allclose(whole, expected, bound, bound, equal_nan=True)
        verdicts[name] = "" if same else "wrong"
    return verdicts


@pytest.mark.sampled(1)
@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of what is computed of whole numbers
@pytest.mark.parametrize(
    ("dtype", "by_name"),
    [
        (torch.float64, True),
        (torch.int64, False),
        (torch.uint8, False),
        (torch.bool, False),
        (torch.complex128, False),
    ],
)
def test_as_on_one_worker_or_refused(dtype, by_name):
    verdicts = run_ranks(found, 2, (dtype, by_name, (2,)))
    assert verdicts[0] == verdicts[1]
    assert not [name for name, verdict in verdicts[0].items() if verdict == "wrong"]
    refused = [name for name, verdict in verdicts[0].items() if verdict == "refused"]
    assert len(verdicts[0]) > 80
    assert len(refused) < (0.35 if dtype.is_complex else 0.12) * len(verdicts[0]), refused

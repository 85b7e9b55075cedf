"""One harness for every operation: computed on the whole by one worker, and in bands by several.

All workers run the same list of cases in one process group, and return the relative errors of output, gradient of the
input and gradients of parameters, or the message of what was raised.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from support.ranks import run_ranks
from ziggurat.parallel.spatial import cut, spatial_mesh, whole_tensor
from ziggurat.parallel.spatial.sums import reduce_over
from ziggurat.parallel.spatial.tensor import cut_axes, slice_local

BOUND = 1e-10  # relative, in float64


@dataclass
class Case:
    """What is computed.

    Attributes:
        function: From images (and the module's parameters, if it is one) to a tensor.
        shape: Of the input.
        dtype: Of input and parameters.
    """

    function: Callable
    shape: tuple[int, ...] = (2, 4, 13, 11)
    dtype: torch.dtype = torch.float64


def relative(value: Tensor, reference: Tensor) -> float:
    """Return the largest difference over the largest value of the reference."""
    if value.shape != reference.shape:
        return float("inf")
    if not reference.numel():
        return 0.0
    scale = reference.detach().abs().max().clamp(min=1e-30).double()
    return float((value.detach().double() - reference.detach().double()).abs().max() / scale)


def errors(
    workers, cases: dict[str, Case], degrees: Sequence[int], min_rows: int, in_inference: bool
) -> dict[str, dict | str]:
    mesh = spatial_mesh(workers, tuple(degrees), min_rows)
    found: dict[str, dict | str] = {}
    for name, case in cases.items():
        try:
            found[name] = _errors_in_inference(case, mesh) if in_inference else _errors(case, mesh)
        except Exception:  # noqa: BLE001 - one case's failure is that case's result
            found[name] = traceback.format_exc(limit=-4)
    return found


def _errors(case: Case, mesh) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(case.shape, generator=generator, dtype=torch.float64).to(case.dtype)
    torch.manual_seed(1)
    alone = case.function() if isinstance(case.function, type) else case.function
    torch.manual_seed(1)
    together = case.function() if isinstance(case.function, type) else case.function
    modules = [m.to(case.dtype) for m in (alone, together) if isinstance(m, nn.Module)]
    whole.requires_grad_()
    torch.manual_seed(2)
    expected = alone(whole)
    weights = torch.randn(expected.shape, generator=generator, dtype=torch.float64).to(expected.dtype)
    (expected * weights).sum().backward()
    mesh.parameters = list(together.parameters()) if modules else []
    bands = cut(whole.detach(), mesh)
    bands.local = bands.local.detach().clone().requires_grad_()
    torch.manual_seed(2)
    result = together(bands)
    (result * weights).sum().backward()
    found = {"shape": 0.0 if tuple(result.shape) == tuple(expected.shape) else 1.0}
    found["output"] = relative(whole_tensor(result), expected)
    mine = slice_local(whole.grad, bands.dims, mesh)
    gradient = bands.local.grad
    for number, axis in enumerate(mesh.axes):
        if number not in cut_axes(bands):  # each worker has a part of the gradient of what all of them have
            gradient = reduce_over(gradient, axis)
    found["input"] = relative(gradient, mine)
    if modules:
        for name, parameter in alone.named_parameters():
            found[name] = relative(dict(together.named_parameters())[name].grad, parameter.grad)
        for name, buffer in alone.named_buffers():
            found[name] = relative(dict(together.named_buffers())[name], buffer)
    return found


def _errors_in_inference(case: Case, mesh) -> dict[str, float]:
    """Return the errors of the output alone, in inference mode: of what is changed there, PyTorch counts no versions."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(case.shape, generator=generator, dtype=torch.float64).to(case.dtype)
    results = []
    for give in (lambda: whole.clone(), lambda: cut(whole.clone(), mesh)):
        torch.manual_seed(1)
        function = case.function() if isinstance(case.function, type) else case.function
        function = function.to(case.dtype) if isinstance(function, nn.Module) else function
        torch.manual_seed(2)
        with torch.inference_mode():
            results.append(function(give()))
    expected, result = results
    return {"output": relative(whole_tensor(result), expected)}


def compare(
    cases: dict[str, Case], degrees: Sequence[int] = (2,), min_rows: int = 1, in_inference: bool = False
) -> dict[str, dict | str]:
    """Return for each case the largest errors over all workers, or what was raised."""
    world = 1
    for degree in degrees:
        world *= degree
    merged: dict[str, dict | str] = {}
    for of_rank in run_ranks(errors, world, (cases, tuple(degrees), min_rows, in_inference)):
        for name, found in of_rank.items():
            before = merged.setdefault(name, found)
            if isinstance(found, dict) and isinstance(before, dict):
                merged[name] = {key: max(value, before[key]) for key, value in found.items()}
    return merged


def assert_exact(found: dict | str, bound: float = BOUND) -> None:
    assert isinstance(found, dict), found
    wrong = {key: value for key, value in found.items() if not value <= bound}
    assert not wrong, wrong

"""All cases of the operations' tables by name, and which of them PyTorch computes on one worker."""

from collections.abc import Callable

import torch

from support import index_cases, operation_cases, other_cases, product_cases, sampling_cases
from support.whole_and_bands import Case

CASES = {
    f"{group}: {name}": case
    for module in (operation_cases, index_cases, sampling_cases, product_cases, other_cases)
    for group, cases in vars(module).items()
    if isinstance(cases, dict) and all(isinstance(case, Case) for case in cases.values())
    for name, case in cases.items()
}


def is_fit(function: Callable, shape: tuple[int, ...]) -> bool:
    """Whether PyTorch computes a function and its gradient: of what it has saved, and of several elements in one place, nothing may be changed."""
    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    try:
        function(x).sum().backward()
    except RuntimeError:
        return False
    return True

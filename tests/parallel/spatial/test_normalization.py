"""The pieces of norms that are computed apart; norms as a whole are among the operations of test_operations.py."""

import itertools

import pytest
import torch
from torch import Tensor

from ziggurat.parallel.spatial.operations.normalization import _direct_gradient

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "slice": lambda x: torch.cat([x, x], 3)[..., : x.shape[3]],
    "permuted": lambda x: x.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1),
}


@pytest.mark.parametrize(
    "shape", [(3, 8, 3, 6), (3, 8, 1, 6), (1, 8, 3, 1), (3, 1, 3, 6), (3, 8, 1, 1)], ids=str
)
def test_gradients_in_any_layout(shape: tuple[int, ...]) -> None:
    """PyTorch's kernel is wrong at 1x8x3x1 for a contiguous gradient and a permuted input (2.14.1)."""
    band, gradient = torch.randn(2, *shape, dtype=torch.float64)
    variance, mean = torch.var_mean(band, (0, 2, 3), correction=0)
    weight = torch.rand(shape[1], dtype=torch.float64)
    scale = (variance + 1e-5).rsqrt()
    normal = (band - _column(mean)) * _column(scale)
    expected = gradient * _column(scale * weight), (gradient * normal).sum((0, 2, 3)), gradient.sum((0, 2, 3))
    for one, other in itertools.product(LAYOUTS.values(), LAYOUTS.values()):
        found = _direct_gradient(one(gradient), other(band), weight, mean, variance, 1e-5)
        for value, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(value, reference)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]

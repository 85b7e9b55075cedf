"""The pieces of norms that are computed apart; norms as a whole are among the operations of test_operations.py."""

import itertools

import pytest
import torch
from torch import Tensor

from ziggurat.parallel.spatial import norm_gradients
from ziggurat.parallel.spatial.norm_gradients import DirectGradient, add_gradient_of_moments

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
        direct = DirectGradient(one(gradient), other(band), weight, mean, variance, 1e-5)
        found = direct.of_band(), *direct.of_parameters()
        for value, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(value, reference)


@pytest.mark.parametrize(
    "shape", [(2, 8, 5, 6), (1, 8, 5, 6), (3, 8, 1, 6), (2, 8, 4, 5, 6), (3, 8, 7)], ids=str
)
def test_pieces_give_the_bits_of_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    band, direct = torch.randn(2, *shape, dtype=torch.float64)
    mean, variance, weight, *sums = torch.rand(5, shape[1], dtype=torch.float64)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for format in (torch.contiguous_format, formats.get(len(shape), torch.contiguous_format)):
        totals = []
        for size in (1 << 20, 400, 1):
            monkeypatch.setattr(norm_gradients, "PIECE_BYTES", size)
            total = direct.contiguous(memory_format=format).clone()
            of_format = band.contiguous(memory_format=format)
            add_gradient_of_moments(total, of_format, torch.stack(sums), 99, mean, variance, 1e-5, weight)
            totals.append(total)
        assert not torch.equal(totals[0], direct)
        assert all(torch.equal(total, totals[0]) for total in totals)


def _column(values: Tensor) -> Tensor:
    return values[:, None, None]

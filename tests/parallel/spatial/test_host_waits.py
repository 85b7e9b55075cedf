"""What a step computes on bands is decided by the layout, which every worker knows: no number is read back from the device.

On a GPU each such number would make the worker wait for all that was begun before.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.ranks import run_ranks
from ziggurat.parallel.collectives.running_statistics import RunningStatistics
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.spatial import SpatialTensor, cut, spatial_mesh
from ziggurat.parallel.spatial.operations.normalization import combine_moments, counts_of
from ziggurat.torch_internals.functions import DispatchMode


class ReadsBack(DispatchMode):
    """Counts the numbers that the program reads out of tensors: ``item``, ``float``, ``bool``, ``tolist`` of one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_reading_back_is_seen() -> None:
    with ReadsBack() as reads:
        assert float(torch.ones(1) + 1) == 2
        assert torch.ones(1).sum() > 0
    assert reads.count == 2


def _step(workers: Workers, degrees: tuple[int, ...]) -> int:
    mesh = spatial_mesh(workers, degrees)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.ReLU(), nn.GroupNorm(2, 8),
        nn.Dropout2d(0.3), nn.InstanceNorm2d(8, affine=True), nn.BatchNorm2d(8, momentum=None),
    )  # fmt: skip
    statistics = RunningStatistics(model, Workers())
    statistics.start()
    with ReadsBack() as reads:
        for _ in range(2):
            with statistics.watching():
                outputs = model(cut(torch.randn(2, 3, 16, 16), mesh))
            outputs.local.square().sum().backward()
            statistics.take_leaf()
        statistics.finish(2)
    return reads.count


@pytest.mark.parametrize("degrees", [(2,), (2, 2)])
def test_a_step_reads_no_number_back(degrees: tuple[int, ...]) -> None:
    assert set(run_ranks(_step, world=2 if degrees == (2,) else 4, args=(degrees,))) == {0}


def _counts(workers: Workers, shape: tuple[int, ...], skipped: set[int]) -> tuple[Any, int, int]:
    mesh = spatial_mesh(workers, (2, 2))
    x = cut(torch.zeros(shape), mesh)
    assert isinstance(x, SpatialTensor)
    width = 1
    for d in skipped:
        width *= shape[d]
    workers.barrier()  # whoever leaves early closes what others are still connecting to
    return counts_of(x, skipped), x.local.numel() // width, torch.zeros(shape).numel() // width


@pytest.mark.sampled(4)
@pytest.mark.parametrize("skipped", [{1}, {0, 1}])
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 2, 13, 4), (2, 2, 4, 3), (2, 3, 3, 8)])
def test_counts_are_those_of_the_bands(shape: tuple[int, ...], skipped: set[int]) -> None:
    found = run_ranks(_counts, world=4, args=(shape, skipped))
    for rank, (counts, own, whole) in enumerate(found):
        assert counts, "at least one of the axes cuts it"
        assert sum(counts[-1]) == whole
        if len(counts) == 2:
            rows, columns = counts
            assert rows[rank // 2] == own
            assert sum(rows) == columns[rank % 2], "the second axis joins what the first has joined"


def _combined(
    workers: Workers, counts: tuple[int, ...], means: Tensor, variances: Tensor
) -> tuple[Tensor, Tensor]:
    (axis,) = spatial_mesh(workers, (workers.size,)).axes
    return combine_moments(counts, means[workers.rank], variances[workers.rank], axis)


@pytest.mark.parametrize("counts", [(5, 0, 2), ((1 << 24) + 1, 3, 1 << 25)])
def test_moments_of_any_number_of_values(counts: tuple[int, ...]) -> None:
    """Those of more values than float32 can count are those of float64, rounded once."""
    means, variances = torch.randn(3, 4) * 100, torch.rand(3, 4)
    weights = torch.tensor(counts, dtype=torch.float64).view(3, 1) / sum(counts)
    mean = (weights * means.double()).sum(0)
    variance = (weights * (variances.double() + (means.double() - mean).square())).sum(0)
    for found_mean, found_variance in run_ranks(_combined, world=3, args=(counts, means, variances)):
        assert found_mean.dtype == found_variance.dtype == torch.float32
        tolerance = 1e-5 if sum(counts) < 1 << 24 else 6e-8
        torch.testing.assert_close(found_mean.double(), mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found_variance.double(), variance, rtol=tolerance, atol=tolerance)

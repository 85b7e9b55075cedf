"""Devices that one does not have: what their makers say of them, and what a kernel takes by that.

A kernel takes the longer of two: its arithmetic at the device's peak, its bytes at the memory's bandwidth; of each only a share is
reached. These shares are assumptions of ours, and nothing here is measured:

    seconds = launch + max(flops / (peak * COMPUTING), bytes / (bandwidth * MOVING))

Peaks are of dense numbers; float32 is that of the ordinary units, as a run multiplies no float32 as TF32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ziggurat.errors import UserError, nearest
from ziggurat.planning.amounts import is_free, work_of
from ziggurat.planning.kernels import forms_in
from ziggurat.planning.program import Kernel

COMPUTING = 0.5  # assumed: convolutions of a detector at its sizes, of the peak
MOVING = 0.75  # assumed: elementwise kernels, of the bandwidth
LAUNCH = 5e-6  # assumed: seconds between kernels of a stream that eager PyTorch fills


@dataclass(frozen=True)
class Device:
    """A device as its maker describes it.

    Attributes:
        name: Of the device.
        flops: Operations a second at most, by type of numbers; of one that is left out, float32's.
        bandwidth: Bytes a second of its memory.
        memory: Bytes.
        source: Where this is said.
    """

    name: str
    flops: Mapping[str, float]
    bandwidth: float
    memory: int
    source: str

    def peak(self, dtype: str) -> float:
        """Return operations a second of a type of numbers."""
        return self.flops.get(dtype, self.flops["float32"])


def _device(
    name: str, source: str, gigabytes: int, bandwidth: float, float64: float, float32: float, half: float,
    bfloat16: float | None = None,
) -> Device:  # fmt: skip
    """Return a device from teraflops, and gigabytes a second."""
    flops = {"float64": float64, "float32": float32, "float16": half, "bfloat16": bfloat16 or half}
    return Device(
        name, {dtype: value * 1e12 for dtype, value in flops.items()}, bandwidth * 1e9, gigabytes * 10**9, source
    )  # fmt: skip


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _device("t4", "NVIDIA T4 data sheet; bfloat16 is emulated", 16, 320, 0.25, 8.1, 65, 8.1),
        _device("v100", "NVIDIA V100 data sheet, SXM2 32 GB; bfloat16 is emulated", 32, 900, 7.8, 15.7, 125, 15.7),
        _device("a100-40g", "NVIDIA A100 data sheet, 40 GB", 40, 1555, 9.7, 19.5, 312),
        _device("a100-80g", "NVIDIA A100 data sheet, 80 GB SXM", 80, 2039, 9.7, 19.5, 312),
        _device("h100", "NVIDIA H100 data sheet, SXM; halves of the figures with sparsity", 80, 3350, 34, 67, 989),
        _device("h200", "NVIDIA H200 data sheet, SXM; halves of the figures with sparsity", 141, 4800, 34, 67, 989),
        _device("l4", "NVIDIA L4 data sheet; halves of the figures with sparsity", 24, 300, 0.47, 30.3, 121),
        _device("rtx4090", "NVIDIA Ada architecture paper, float16 with float32 sums", 24, 1008, 1.29, 82.6, 165.2),
    )
}  # fmt: skip


def find_device(name: str) -> Device:
    """Return a device by its name.

    Raises:
        UserError: If there is none.
    """
    device = DEVICES.get(name.lower())
    if device is None:
        raise UserError(f"there is no entry for the device {name!r}: {nearest(name, list(DEVICES))}")
    return device


class DeviceCosts:
    """Seconds of kernels on a device, from what its maker says: stands in the place of a `CostTable`.

    Args:
        device: Which one.
        computing: Share of its peak that kernels reach.
        moving: Share of its bandwidth that kernels reach.
        launch: Seconds that a kernel takes at least.

    Example:
        >>> from ziggurat.planning.program import Form
        >>> costs = DeviceCosts(find_device("h100"))
        >>> x = Form((1 << 20,), (1,), "float32")
        >>> round(costs.seconds(Kernel("aten.relu.default", (x,))) * 1e6, 1)  # microseconds
        8.3
    """

    def __init__(
        self, device: Device, computing: float = COMPUTING, moving: float = MOVING, launch: float = LAUNCH
    ) -> None:
        self.device, self.computing, self.moving, self.launch = device, computing, moving, launch

    def known(self, kernel: Kernel) -> bool:
        """Return True: every kernel has a formula."""
        return True

    def measure(self, kernels: Iterable[Kernel]) -> None:
        """Measure nothing: the device is not there."""

    def seconds(self, kernel: Kernel) -> float:
        """Return what a kernel takes by the formula."""
        if is_free(kernel):
            return 0.0
        work, forms = work_of(kernel), forms_in(kernel.arguments)
        peak = self.device.peak(forms[0].dtype if forms else "float32")
        return self.launch + max(
            work.flops / (peak * self.computing), work.num_bytes / (self.device.bandwidth * self.moving)
        )

"""Does an operation give the same on sharded rows or columns as on the whole? Ziggurat and DTensor, side by side.

Each row is one operation, computed in float64 on 2 and on 4 workers, rows and then columns sharded, forward and
backward. Both run in the same process group, against the same single-worker result.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.nn import functional

from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import WorkerFailed, WorkerSettings, launch
from ziggurat.parallel.spatial import SpatialTensor, cut, spatial_mesh, whole_tensor

BOUND = 1e-10
EVEN, ODD = (2, 4, 32, 32), (2, 4, 26, 26)  # 26 rows on 2 workers are 13 each, and on 4 they are uneven


def interpolate(**named: Any) -> Callable[[], nn.Module]:
    return lambda: Function(lambda x: functional.interpolate(x, **named))


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


ROWS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv1x1": (lambda: nn.Conv2d(4, 6, 1), EVEN),
    "conv2x2 s2 p0": (lambda: nn.Conv2d(4, 6, 2, 2), EVEN),
    "conv3x3 s1 p1": (lambda: nn.Conv2d(4, 6, 3, 1, 1), EVEN),
    "conv3x3 s2 p1": (lambda: nn.Conv2d(4, 6, 3, 2, 1), EVEN),
    "conv7x7 s2 p3": (lambda: nn.Conv2d(4, 6, 7, 2, 3), EVEN),
    "conv3x3 s2 p1, odd local size": (lambda: nn.Conv2d(4, 6, 3, 2, 1), ODD),
    "conv3x3 dilated 2": (lambda: nn.Conv2d(4, 6, 3, 1, 2, dilation=2), EVEN),
    "depthwise conv3x3": (lambda: nn.Conv2d(4, 4, 3, 1, 1, groups=4), EVEN),
    "transposed 2x2 s2": (lambda: nn.ConvTranspose2d(4, 6, 2, 2), EVEN),
    "transposed 4x4 s2 p1": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), EVEN),
    "maxpool 2/2": (lambda: nn.MaxPool2d(2), EVEN),
    "maxpool 3/2/1 (ResNet's stem)": (lambda: nn.MaxPool2d(3, 2, 1), EVEN),
    "avgpool 2": (lambda: nn.AvgPool2d(2), EVEN),
    "adaptive avg pool 1": (lambda: nn.AdaptiveAvgPool2d(1), EVEN),
    "adaptive avg pool 6 (PSP)": (lambda: nn.AdaptiveAvgPool2d(6), EVEN),
    "interpolate nearest x2": (interpolate(scale_factor=2), EVEN),
    "interpolate bilinear x2": (interpolate(scale_factor=2, mode="bilinear", align_corners=False), EVEN),
    "interpolate bilinear, align_corners": (
        interpolate(scale_factor=2, mode="bilinear", align_corners=True),
        EVEN,
    ),
    "interpolate bicubic x2": (interpolate(scale_factor=2, mode="bicubic"), EVEN),
    "interpolate(size=...) (FPN)": (interpolate(size=(63, 61)), EVEN),
    "batch norm in training": (lambda: nn.BatchNorm2d(4), EVEN),
    "group norm": (lambda: nn.GroupNorm(2, 4), EVEN),
}

QUICK = ["conv3x3 s2 p1, odd local size"]


def single(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return output, gradients and buffers of one worker."""
    torch.manual_seed(1)
    module = make().double()
    images = torch.randn(
        shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    output = module(images)
    (output * weights_of(output)).sum().backward()
    return facts(module, output, images.grad)


def facts(module: nn.Module, output: Tensor, gradient: Tensor | None) -> dict[str, Tensor]:
    found = {f"gradient of {name}": parameter.grad for name, parameter in module.named_parameters()}
    found |= dict(module.named_buffers())
    return {"output": output, "gradient of the input": gradient, **found}


def weights_of(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(tuple(output.shape), dtype=torch.float64, generator=generator)


def ours(
    workers: Workers, make: Callable[[], nn.Module], shape: tuple[int, ...], dim: int
) -> dict[str, Tensor]:
    """Return the same of Ziggurat's bands."""
    torch.manual_seed(1)
    module = make().double()
    mesh = spatial_mesh(workers, (workers.size,) if dim == 2 else (1, workers.size), min_rows=1)
    mesh.parameters = list(module.parameters())
    whole = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bands = cut(whole, mesh)
    bands.local.requires_grad_()
    output = module(bands)
    (output * weights_of(output)).sum().backward()
    gradient = whole_tensor(SpatialTensor(bands.local.grad, bands.dims, mesh))
    return facts(module, whole_tensor(output), gradient)


def dtensor(
    workers: Workers, make: Callable[[], nn.Module], shape: tuple[int, ...], dim: int
) -> dict[str, Tensor]:
    """Return the same of DTensor, with weights replicated."""
    torch.manual_seed(1)
    mesh = init_device_mesh("cpu", (workers.size,))
    module = distribute_module(make().double(), mesh)
    whole = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    images = distribute_tensor(whole, mesh, [Shard(dim)]).requires_grad_()
    output = module(images)
    weights = distribute_tensor(weights_of(output), mesh, [Replicate()])
    (output * weights).sum().backward()
    found = facts(module, output, images.grad)
    return {
        name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in found.items()
    }


def judge(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Return ``exact``, or what is wrong, and by how much."""
    for name, reference in expected.items():
        value = found.get(name)
        if value is None or value.shape != reference.shape:
            return f"wrong: {name} has shape {None if value is None else tuple(value.shape)}"
        scale = reference.detach().abs().max().double().clamp(min=1e-30)
        error = float((value.detach().double() - reference.detach().double()).abs().max() / scale)
        if error > BOUND:
            return f"wrong: {name} by {error:.1e}"
    return "exact"


def compare(workers: Workers, name: str, dim: int, which: str) -> str:
    """Return the verdict on one row, agreed by all workers."""
    warnings.simplefilter("ignore")
    make, shape = ROWS[name]
    expected = single(make, shape)
    compute = ours if which == "ziggurat" else dtensor
    try:
        verdict = judge(compute(workers, make, shape, dim), expected)
    except Exception as error:  # noqa: BLE001 - that it raises, and what, is the result
        verdict = f"raises: {type(error).__name__}: {(str(error) or '?').splitlines()[0][:70]}"
    verdicts = sorted(set(workers.gather(verdict)), key=lambda text: (text == "exact", text))
    return verdicts[0]


def measure(name: str, dim: int, which: str, world: int) -> str:
    try:
        verdict = launch(compare, (name, dim, which), world, WorkerSettings(1, "cpu"))
    except WorkerFailed as error:
        return f"fails: {str(error).splitlines()[-1][:70]}"
    return str(verdict)


def main(words: Sequence[str] | None = None) -> None:
    """Print the table and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    rows, worlds = (QUICK, [2]) if options.quick else (list(ROWS), options.workers)
    table: dict[str, dict[str, str]] = {}
    for name in rows:
        table[name] = {}
        for world in worlds:
            for dim, label in ((2, "rows"), (3, "columns")):
                for which in ("ziggurat", "dtensor"):
                    table[name][f"{which}, {label}, {world} workers"] = measure(name, dim, which, world)
        print(name, json.dumps(table[name], indent=1), flush=True)
    ok = sum(v == "exact" for row in table.values() for k, v in row.items() if k.startswith("ziggurat"))
    count = sum(k.startswith("ziggurat") for row in table.values() for k in row)
    peer = sum(v == "exact" for row in table.values() for k, v in row.items() if k.startswith("dtensor"))
    print(f"exact: ziggurat {ok} of {count}, DTensor {peer} of {count}")
    if options.quick:
        assert ok == count, "ours are exact"
        return
    result = {
        "torch": torch.__version__,
        "bound": BOUND,
        "exact": {"ziggurat": ok, "dtensor": peer, "of": count},
        "table": table,
    }
    Path(__file__).with_name("results.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

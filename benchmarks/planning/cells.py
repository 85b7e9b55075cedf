"""Which steps are forecast and taken, in an order in which a run that is cut off has a spread of all; and their table."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

# Those of the second half were not looked at while the costs were modelled.
NETWORKS = (
    "fcos-resnet18-fpn", "timm:resnet18", "smp:unet/resnet18", "fcos-resnet50-fpn", "retinanet-resnet18-fpn",
    "timm:hrnet_w18_small", "atss-mobilenetv3_large_100-pafpn", "timm:efficientnet_b0", "smp:deeplabv3plus/resnet34",
    "smp:pspnet/mobilenet_v2", "timm:convnext_atto", "torchvision:fcn_resnet50",
)  # fmt: skip
UNSEEN = NETWORKS[6:]
SIDES = (128, 192, 256)
AGAIN = " pipeline.checkpoint=stage"
TRAINING = (
    "dp=2", "sp=2", "pp=2 pipeline.schedule=1f1b", "fsdp=2", "tp=2", "sp=1x2", "lp=2", "pp=2 pipeline.schedule=gpipe",
    "sp=2x2", "dp=2,pp=2 pipeline.schedule=1f1b", f"pp=2 pipeline.schedule=1f1b{AGAIN}",
    "pp=2 pipeline.schedule=interleaved", "dp=2,sp=2", f"pp=2 pipeline.schedule=gpipe{AGAIN}",
    f"pp=2 pipeline.schedule=interleaved{AGAIN}", "sp=2,pp=2 pipeline.schedule=1f1b",
)  # fmt: skip
PREDICTION = ("dp=2", "sp=2", "sp=1x2", "pp=2")
# The rows of benchmarks/levels: a step in two microbatches.
LEVELS = (
    ("pnn", 16, 256), ("fcos-pnn", 4, 320), ("fcos-hrnet_w18-fpn", 2, 320), ("fcos-resnet18-fpn", 4, 320),
)  # fmt: skip
QUIET = 0.05  # of the machine's processors: where others took more, a step was not taken in peace


class Place(NamedTuple):
    """What a cell is of.

    Attributes:
        network: As ``ziggurat plan`` takes it.
        shape: Of the images.
        purpose: ``train`` or ``predict``.
        plan: With its settings.
    """

    network: str
    shape: str
    purpose: str
    plan: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """A step, forecast and taken. Seconds are of a step, or of all of a prediction; bytes the most of tensors of a worker.

    Attributes:
        network: As `Place` has it, as have the three others.
        shape: Likewise.
        purpose: Likewise.
        plan: Likewise.
        forecast: Seconds.
        taken: Seconds: the median of some steps, of the slowest worker.
        processor: Seconds of the processor that all workers took for it.
        others: Share of the machine's processors that others took meanwhile.
        forecast_processor: Seconds of the processor that all workers compute, as forecast.
        guessed: Share of the forecast's kernel seconds that was not measured.
        linear: Seconds: of one worker as forecast, divided by the workers that have a core.
        paradl: Seconds by ParaDL's formulas; 0 where they have none for the plan.
        forecast_bytes: Bytes.
        counted_bytes: Bytes, counted in a step that computes; 0 if not counted yet.
        paradl_bytes: Bytes by ParaDL's formulas; 0 where they have none.
        torch_bytes: Bytes by ``torch.distributed._tools.MemTracker``, of one worker's part under dp; 0 of other plans.
    """

    network: str
    shape: str
    purpose: str
    plan: str
    forecast: float
    taken: float
    processor: float
    others: float
    forecast_processor: float
    guessed: float
    linear: float
    paradl: float
    forecast_bytes: int
    counted_bytes: int
    paradl_bytes: int
    torch_bytes: int

    @property
    def place(self) -> Place:
        """What it is of."""
        return Place(self.network, self.shape, self.purpose, self.plan)

    @property
    def is_quiet(self) -> bool:
        """Whether the machine did nothing else."""
        return self.others <= QUIET


def num_workers(plan: str) -> int:
    """Return the workers of a plan.

    Example:
        >>> num_workers("dp=2,sp=2x2 pipeline.schedule=1f1b")
        8
    """
    count = 1
    for axis in plan.split()[0].split(","):
        for degree in axis.partition("=")[2].split("x"):
            count *= int(degree)
    return count


def places() -> Iterator[Place]:
    """Yield all cells: first the rows of benchmarks/levels, then each network once, under another plan each, and so on."""
    for network, images, side in LEVELS:
        for plan in ("lp=2", "sp=2"):
            yield Place(network, f"{images}x3x{side}x{side}", "train", plan)
    for number in range(len(TRAINING)):
        for place, network in enumerate(NETWORKS):
            plan = TRAINING[(number + place) % len(TRAINING)]
            side = SIDES[(place + number // 6) % len(SIDES)]  # some plans of a network and size are compared
            yield Place(network, f"4x3x{side}x{side}", "train", plan)
            if number < len(PREDICTION):
                plan = PREDICTION[(number + place) % len(PREDICTION)]
                side = SIDES[(place + 1) % len(SIDES)]
                yield Place(network, f"2x3x{side}x{side}", "predict", plan)


def read_cells(file: Path) -> list[Cell]:
    """Return the cells of a table; none where there is no file."""
    if not file.exists():
        return []
    kinds = {
        one.name: {"float": float, "int": int}.get(str(one.type), str) for one in dataclasses.fields(Cell)
    }
    with file.open(newline="", encoding="utf-8") as text:
        return [
            Cell(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(text)
        ]


def write_cells(file: Path, cells: Iterable[Cell]) -> None:
    """Write a table as a whole."""
    new = file.with_suffix(".new")
    with new.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(one.name for one in dataclasses.fields(Cell))
        writer.writerows(dataclasses.astuple(cell) for cell in cells)
    new.replace(file)

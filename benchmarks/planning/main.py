"""How far is a forecast of `ziggurat plan` from the step that is taken? A row for each network, size and plan, kept in cells.csv.

Each step is forecast, then taken by real workers on this machine; the bytes of tensors are counted in a step that computes. Beside it
stands what is said without a model: the step of one worker, divided by the workers ("linear"). Rows that are in the table already are not
taken again, so a run that is stopped goes on.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ziggurat.errors import UserError
from ziggurat.planning.judging import Judge
from ziggurat.planning.place import config_under, tools_of
from ziggurat.planning.record import record_step
from ziggurat.planning.request import PlanRequest, read_plan_request
from ziggurat.planning.search import Candidate, Refused, candidates_of
from ziggurat.planning.stepping import measure_steps
from ziggurat.strategies.plan import Plan

CELLS = Path(__file__).with_name("cells.csv")
STEPS = 7  # that count, of each plan
# The second half were not looked at while the costs were modelled.
NETWORKS = (
    "fcos-resnet18-fpn", "fcos-resnet50-fpn", "retinanet-resnet18-fpn", "timm:resnet18", "smp:unet/resnet18",
    "timm:hrnet_w18_small", "atss-mobilenetv3_large_100-pafpn", "timm:efficientnet_b0", "smp:deeplabv3plus/resnet34",
    "smp:pspnet/mobilenet_v2", "timm:convnext_atto", "torchvision:fcn_resnet50",
)  # fmt: skip
SIDES = (128, 256, 384)
WORKERS = (2, 4)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A step, forecast and taken.

    Attributes:
        network: As ``ziggurat plan`` takes it.
        shape: Of the images.
        purpose: ``train`` or ``predict``.
        plan: With its settings.
        forecast: Seconds.
        taken: Seconds: the median of `STEPS`, of the slowest worker.
        linear: Seconds: of one worker as forecast, divided by the workers, or by the cores where these are fewer.
        forecast_bytes: Most bytes of tensors of a worker.
        counted_bytes: The same, counted in a step that computes.
    """

    network: str
    shape: str
    purpose: str
    plan: str
    forecast: float
    taken: float
    linear: float
    forecast_bytes: int
    counted_bytes: int


def cells_of(
    network: str, shape: str, purpose: str, workers: int, steps: int, done: set[tuple[str, ...]]
) -> Iterator[Cell]:
    """Yield the cells of one network and size that are not done."""
    request = read_plan_request(
        network, {"threads": "1"}, workers=str(workers), shape=shape, purpose=purpose, memory="1T"
    )
    open_ones = [one for one in _candidates(request) if (network, shape, purpose, str(one)) not in done]
    if not open_ones:
        return
    tools = tools_of(request, lambda what: None)
    alone = tools.judge.alone(Candidate(Plan()))
    if isinstance(alone, str):
        raise UserError(f"{network} does not take a step: {alone}")
    for candidate in open_ones:
        tools.judge.fastest = math.inf  # kernels of slow plans are measured, too
        judged = tools.judge(candidate)
        if isinstance(judged, Refused):
            print(f"{network} {candidate}: {judged.reason.splitlines()[0][:120]}", file=sys.stderr)
            continue
        taken, counted = _take(request, tools.judge, candidate, steps)
        at_once = min(workers, os.cpu_count() or 1)
        yield Cell(
            network, shape, purpose, str(candidate), round(judged.seconds, 6), round(taken, 6),
            round(alone.seconds / at_once, 6), max(judged.peak_bytes), counted,
        )  # fmt: skip
        tools.keep()


def _candidates(request: PlanRequest) -> list[Candidate]:
    taken, _ = candidates_of(request.num_workers, len(request.shape) - 2, {}, request.check)
    if request.purpose == "predict":
        return list(dict.fromkeys(Candidate(one.plan) for one in taken))
    again = [
        Candidate(one.plan, (*one.settings, ("pipeline.checkpoint", "stage")))
        for one in taken
        if one.plan.size("pp") > 1
    ]
    return [*taken, *again]


def _take(request: PlanRequest, judge: Judge, candidate: Candidate, steps: int) -> tuple[float, int]:
    """Return the seconds and bytes of a step that is taken; bytes with the cut and branches of the forecast."""
    config, amount = config_under(candidate, request.config), request.amount(candidate.plan)
    shape = request.recorded_shape
    seconds = measure_steps(request.build, config, shape, amount.pieces, request.purpose, steps)
    recorded = record_step(
        request.build(config), config, candidate.plan, shape, amount.pieces, request.purpose,
        judge.record(candidate).decisions, hollow=False,
    )  # fmt: skip
    return seconds * amount.times, max((one.peak_bytes for one in recorded.programs), default=0)


def summary(cells: Sequence[Cell]) -> str:
    """Return the errors of all cells in some lines."""
    lines = [f"{len(cells)} cells of {len({one.network for one in cells})} networks"]
    figures = {
        "seconds": [one.forecast / one.taken - 1 for one in cells],
        "seconds, linear": [one.linear / one.taken - 1 for one in cells],
        "bytes": [one.forecast_bytes / one.counted_bytes - 1 for one in cells if one.counted_bytes],
    }
    for name, errors in figures.items():
        sizes = sorted(map(abs, errors))
        if sizes:
            high = sizes[math.ceil(0.95 * len(sizes)) - 1]
            lines.append(
                f"{name:16} mean {statistics.mean(sizes):6.1%}   95 of 100 within {high:6.1%}   worst {sizes[-1]:6.1%}   "
                f"lowest {min(errors):+.1%}"
            )
    return "\n".join(lines)


def read_cells(file: Path) -> list[Cell]:
    """Return the cells of a table; none where there is no file."""
    if not file.exists():
        return []
    kinds = {
        field.name: {"float": float, "int": int}.get(str(field.type), str)
        for field in dataclasses.fields(Cell)
    }
    with file.open(newline="", encoding="utf-8") as text:
        return [
            Cell(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(text)
        ]


def main(words: Sequence[str] | None = None) -> None:
    """Fill the table, and print what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one cell of a small network, written nowhere")
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--sides", nargs="*", type=int, default=SIDES)
    parser.add_argument("--workers", nargs="*", type=int, default=WORKERS)
    parser.add_argument("--purposes", nargs="*", default=("train", "predict"))
    parser.add_argument("--out", type=Path, default=CELLS)
    asked = parser.parse_args(words)
    if asked.quick:
        with tempfile.TemporaryDirectory() as folder:
            before = os.environ.get("XDG_CACHE_HOME")
            os.environ["XDG_CACHE_HOME"] = folder
            try:
                cells = cells_of("timm:test_resnet", "2x3x32x32", "predict", 2, 1, {
                    ("timm:test_resnet", "2x3x32x32", "predict", plan)
                    for plan in ("sp=2", "sp=1x2", "fsdp=2", "pp=2", "tp=2", "lp=2")
                })  # fmt: skip
                print(summary(list(cells)))
            finally:
                os.environ.pop("XDG_CACHE_HOME")
                if before is not None:
                    os.environ["XDG_CACHE_HOME"] = before
        return
    cells = read_cells(asked.out)
    done = {(one.network, one.shape, one.purpose, one.plan) for one in cells}
    names = [field.name for field in dataclasses.fields(Cell)]
    if not asked.out.exists():
        asked.out.write_text(",".join(names) + "\n", encoding="utf-8")
    for network in asked.networks:
        for side in asked.sides:
            for purpose in asked.purposes:
                for workers in asked.workers:
                    shape = f"{2 * workers if purpose == 'train' else workers}x3x{side}x{side}"
                    for one in cells_of(network, shape, purpose, workers, STEPS, done):
                        cells.append(one)
                        with asked.out.open("a", newline="", encoding="utf-8") as text:
                            csv.writer(text).writerow(dataclasses.astuple(one))
                        print(
                            f"{network} {shape} {purpose} {one.plan}: {one.forecast:.3f} s, taken {one.taken:.3f} s "
                            f"({one.forecast / one.taken - 1:+.1%})",
                            file=sys.stderr,
                        )
    print(summary(cells))


if __name__ == "__main__":
    main()

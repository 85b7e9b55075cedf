"""How far dp carries a detector and a 3-d U-Net, from one worker to 16,384, and what comes after: simulated on described machines.

Nothing here is measured but the planner's own seconds: each row is a step of the plan's own code, recorded without computing, on devices that
cost what their maker's figures say, and links likewise.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ziggurat.planning.clusters import CABLES, Cluster
from ziggurat.planning.devices import DeviceCosts, find_device
from ziggurat.planning.large import LargeJudge, with_tiers
from ziggurat.planning.network import Links
from ziggurat.planning.overheads import Overheads, WithOverheads
from ziggurat.planning.place import Recorder
from ziggurat.planning.record import hollow_model
from ziggurat.planning.request import PlanRequest, read_plan_request
from ziggurat.planning.search import Candidate, Refused
from ziggurat.planning.segments import Jitter
from ziggurat.strategies.plan import parse_plan

HERE = Path(__file__).parent
DEVICE, PER_MACHINE = "h100", 8
LINKS = Links(
    {"machine": CABLES["nvlink4"].link(), "network": CABLES["infiniband-ndr"].link(8)}, carrier="nccl"
)
JITTER = Jitter(0.05)  # of a segment between two messages: assumed


@dataclass(frozen=True)
class Case:
    """A network whose step is spread over more and more workers.

    Attributes:
        model: Its name.
        shape: Of an image.
        images: Of a step, over all workers; each is a microbatch.
        plans: For each number of workers, in addition to dp alone where there are images for all.
    """

    model: str
    shape: tuple[int, ...]
    images: int
    plans: dict[int, tuple[str, ...]]


CASES = {
    "detector": Case(
        "fcos-resnet50-fpn",
        (3, 800, 800),
        4096,
        {
            1: (), 8: (), 64: (), 512: (),
            4096: ("dp=2048,sp=2", "dp=2048,pp=2"),
            8192: ("dp=4096,sp=2",),
            16384: ("dp=4096,sp=4", "dp=4096,sp=2x2", "dp=4096,sp=2,pp=2"),
        },
    ),
    "3-d U-Net": Case(
        "volumes:unet",
        (1, 256, 256, 256),
        1024,
        {
            1: (), 8: (), 64: (), 512: (),
            1024: ("dp=512,sp=2",),
            4096: ("dp=1024,sp=4", "dp=1024,sp=2,pp=2"),
            16384: ("dp=1024,sp=16",),
        },
    ),
}  # fmt: skip
QUICK = {
    "3-d U-Net": Case("volumes:small_unet", (1, 16, 16, 16), 512, {1: (), 512: (), 1024: ("dp=512,sp=2",)})
}


def request_of(case: Case, workers: int) -> PlanRequest:
    """Return the request that `ziggurat plan` would have of so many workers."""
    machines = max(1, workers // PER_MACHINE)
    shape = "x".join(map(str, (case.images, *case.shape)))
    asked = read_plan_request(case.model, {"dtype": "bf16"}, workers="1", shape=shape)
    train = replace(asked.config.train, microbatches=case.images)
    cluster = Cluster(LINKS, find_device(DEVICE), (machines, min(workers, PER_MACHINE)))
    return replace(
        asked,
        config=replace(asked.config, train=train),
        machines=(machines, min(workers, PER_MACHINE)),
        cluster=cluster,
    )


def plans_of(case: Case, workers: int) -> Iterator[Candidate]:
    """Yield the plans of so many workers, with tiers among their machines."""
    alone = (f"dp={workers}",) if workers <= case.images else ()
    for plan in (*alone, *case.plans[workers]):
        candidate = Candidate(parse_plan(plan))
        yield next(with_tiers(candidate, PER_MACHINE, False)) if workers > PER_MACHINE else candidate


def row_of(case: Case, judge: LargeJudge, candidate: Candidate, workers: int) -> dict[str, Any]:
    """Return what a step under a plan comes to, without jitter and with it."""
    begin = time.process_time() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    found = {}
    for name, jitter in (("even", Jitter()), ("jitter", JITTER)):
        judge.jitter = jitter
        found[name] = judge(candidate)
    took = time.process_time() + resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - begin
    row: dict[str, Any] = {"workers": workers, "plan": str(candidate.plan), **dict(candidate.settings)}
    even, drawn = found["even"], found["jitter"]
    if isinstance(even, Refused) or isinstance(drawn, Refused):
        return row | {"refused": even.reason if isinstance(even, Refused) else str(drawn)}
    return row | {
        "seconds": even.seconds,
        "seconds_with_jitter": drawn.seconds,
        "images_per_second": case.images / drawn.seconds,
        "idle": drawn.idle,
        "bytes_sent_by_a_worker": max(even.bytes_sent) // max(1, candidate.plan.num_data),
        "planning_processor_seconds": took,
    }


def measure(name: str, case: Case) -> Iterator[dict[str, Any]]:
    """Yield the rows of a case, with how much of one worker's speed each worker keeps."""
    first = 0.0
    costs = WithOverheads(DeviceCosts(find_device(DEVICE)), Overheads())
    model = None
    for workers in case.plans:
        request = request_of(case, workers)
        if model is None:
            config = request.config
            model = hollow_model(lambda: request.build(config), config)  # noqa: B023 - called at once
        record = functools.cache(Recorder(request, model, costs).of_first)  # for both kinds of jitter
        judge = LargeJudge(record, costs, LINKS, case.images, request.places)
        for candidate in plans_of(case, workers):
            row = row_of(case, judge, candidate, workers)
            if "seconds" in row:
                first = first or row["images_per_second"]
                row["efficiency"] = row["images_per_second"] / workers / first
            shown = {key: f"{v:.4g}" if isinstance(v, float) else v for key, v in row.items()}
            print(name, shown, flush=True)
            yield row


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw images a second over workers, of the best plan of each kind, beside a straight line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    styles = {
        "dp": ("o", "#1f5f8b"),
        "dp and sp": ("s", "#d1702a"),
        "dp and pp": ("^", "#3d8b4f"),
        "dp, sp and pp": ("D", "#7d4a9c"),
    }
    for panel, (name, rows) in zip(panels, results.items(), strict=True):
        known = [row for row in rows if "seconds" in row]
        one = known[0]["images_per_second"]
        most = max(row["workers"] for row in known)
        panel.plot(
            [1, most],
            [one, one * most],
            color="#999999",
            linewidth=1,
            linestyle="--",
            label="as many times one worker",
        )
        best = [
            max((r for r in known if r["workers"] == w), key=lambda r: r["images_per_second"])
            for w in sorted({r["workers"] for r in known})
        ]
        panel.plot(
            [r["workers"] for r in best], [r["images_per_second"] for r in best], color="#444444", linewidth=1
        )
        for kind, (marker, color) in styles.items():
            points = [row for row in known if kind_of(row["plan"]) == kind]
            if points:
                panel.plot(
                    [r["workers"] for r in points], [r["images_per_second"] for r in points], marker=marker, color=color,
                    linestyle="none", markersize=6, label=kind,
                )  # fmt: skip
        for row in best:
            panel.annotate(
                f"{row['efficiency']:.0%}",
                (row["workers"], row["images_per_second"]),
                textcoords="offset points",
                xytext=(6, -11),
                fontsize=7,
            )
        panel.set(
            xscale="log",
            yscale="log",
            xlabel=f"workers ({DEVICE}, {PER_MACHINE} on a machine)",
            ylabel="images a second",
            title=name,
        )
        panel.legend(fontsize=8, frameon=False)
        panel.grid(alpha=0.3)
    figure.savefig(path)


def kind_of(plan: str) -> str:
    """Return the axes of a plan, as the picture names them.

    Example:
        >>> kind_of("dp=4,sp=2x2,pp=2")
        'dp, sp and pp'
    """
    axes = [axis for axis in ("dp", "sp", "pp") if f"{axis}=" in plan]
    return " and ".join([", ".join(axes[:-1]), axes[-1]] if len(axes) > 1 else axes)


def main(words: Sequence[str] | None = None) -> None:
    """Simulate all rows, print them and write results.json and curve.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--picture", type=Path, default=HERE / "curve.png")
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        for name, case in QUICK.items():
            list(measure(name, case))
        return
    written = json.loads(options.out.read_text())["results"] if options.out.is_file() else {}
    for name in options.cases:
        written[name] = []
        for row in measure(name, CASES[name]):
            written[name].append(row)
            of_all = {one: written[one] for one in CASES if one in written}
            result = {
                "torch": torch.__version__,
                "device": DEVICE,
                "jitter": JITTER.deviation,
                "results": of_all,
            }
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    draw({one: written[one] for one in CASES if one in written}, options.picture)


if __name__ == "__main__":
    main()

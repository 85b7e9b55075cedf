"""When each worker of a pipeline computes, sends, receives and waits: as a trace, as a picture, and as one number.

The bubble is the share of all workers' time, from the first forward to the last backward, in which they do not compute.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziggurat.errors import UserError
from ziggurat.parallel.pipeline.schedules import CHUNKS, Action, make_schedule, num_stages
from ziggurat.parallel.pipeline.simulation import run_order
from ziggurat.parallel.pipeline.timing import Span
from ziggurat.system.writing import files_of, write_text

COMPUTING = ("forward", "backward")
COLOURS = {
    "forward": "#4878cf",
    "backward": "#d1793c",
    "send": "#6acc65",
    "receive": "#956cb4",
    "wait": "#dddddd",
    "sum": "#8c613c",
}


@dataclass(frozen=True)
class Bubble:
    """Share of time without computing.

    Attributes:
        measured: Of the step that was traced.
        simulated: Of the schedule, if each action took as long as it did and messages took no time: what is due to
            the schedule and to unequal stages.
        balanced: Of the schedule with equal stages: ``(P - 1) / (V * M + P - 1)``.
    """

    measured: float
    simulated: float
    balanced: float


def measure_bubble(
    spans: Sequence[Sequence[Span]], schedule: str, num_workers: int, of_pipelines: Sequence[range]
) -> Bubble:
    """Return the bubble of a step.

    Args:
        spans: Of each worker, in order of rank.
        schedule: ``gpipe``, ``1f1b`` or ``interleaved``.
        num_workers: Of one pipeline.
        of_pipelines: The microbatches of each.

    Example:
        >>> first = [Span("forward", "F0@0", 0, 1), Span("backward", "B0@0", 3, 4)]
        >>> last = [Span("forward", "F0@1", 1, 2), Span("backward", "B0@1", 2, 3)]
        >>> measure_bubble([first, last], "1f1b", 2, [range(1)])
        Bubble(measured=0.5, simulated=0.5, balanced=0.5)
    """
    computing = [[span for span in one if span.doing in COMPUTING] for one in spans]
    begin = min(span.begin for one in computing for span in one)
    end = max(span.end for one in computing for span in one)
    busy = sum(span.end - span.begin for one in computing for span in one)
    count = max(map(len, of_pipelines))
    longest = next(place for place, mine in enumerate(of_pipelines) if len(mine) == count)
    each = len(spans) // (len(of_pipelines) * num_workers)
    first = longest * num_workers * each
    pipeline = computing[first : first + num_workers * each : each]
    seconds: dict[str, float] = {}
    for one in pipeline:
        for span in one:
            name = span.name if "@" in span.name else _of_loss(span.name, schedule, num_workers)
            seconds[name] = seconds.get(name, 0.0) + span.end - span.begin
    orders = make_schedule(schedule, num_workers, count)

    def seconds_of(action: Action) -> float:
        return seconds[str(action)]

    chunks = CHUNKS if schedule == "interleaved" else 1
    return Bubble(
        measured=1 - busy / (len(spans) * (end - begin)),
        simulated=run_order(orders, num_stages(schedule, num_workers), seconds_of).idle,
        balanced=(num_workers - 1) / (chunks * count + num_workers - 1),
    )


def _of_loss(name: str, schedule: str, num_workers: int) -> str:
    """Return the action that computes a loss: the last stage's forward."""
    return f"F{name.rpartition(' ')[2]}@{num_stages(schedule, num_workers) - 1}"


def timeline_path(text: str) -> Path:
    """Return the file of a trace.

    Raises:
        UserError: If it cannot be one.
    """
    path = Path(text)
    if path.suffix == ".png" or not path.parent.is_dir():
        raise UserError(
            f"--timeline must name a file such as step.json in a folder that exists (the picture becomes step.png): "
            f"got '{text}'"
        )
    return path


def write_timeline(path: Path, spans: Sequence[Sequence[Span]], labels: Sequence[str], title: str) -> Path:
    """Write a trace for Perfetto or ``chrome://tracing``, and beside it a picture; return the picture's file.

    Args:
        path: Of the trace.
        spans: Of each worker.
        labels: Of each worker.
        title: Of the picture.

    Raises:
        CannotWrite: If one of them cannot be written.
    """
    write_text(path, json.dumps(_chrome(spans, labels)) + "\n")
    picture = path.with_suffix(".png")
    with files_of(path.parent):
        _draw(picture, spans, labels, title)
    return picture


def _chrome(spans: Sequence[Sequence[Span]], labels: Sequence[str]) -> dict[str, Any]:
    """Return the trace in the form of the Trace Event Format: complete events in microseconds, a row a worker."""
    events: list[dict[str, Any]] = []
    for rank, (one, label) in enumerate(zip(spans, labels, strict=True)):
        row = {"pid": 0, "tid": rank}
        events.append(row | {"ph": "M", "name": "thread_name", "args": {"name": label}})
        events.append(row | {"ph": "M", "name": "thread_sort_index", "args": {"sort_index": rank}})
        events += [
            row
            | {
                "ph": "X",
                "name": f"{span.doing} {span.name}",
                "cat": span.doing,
                "ts": span.begin * 1e6,
                "dur": (span.end - span.begin) * 1e6,
            }
            for span in one
        ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _draw(path: Path, spans: Sequence[Sequence[Span]], labels: Sequence[str], title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here, as matplotlib is slow to import
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(14, 1.6 + 0.6 * len(spans)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    end = max(span.end for one in spans for span in one)
    for row, one in enumerate(spans):
        for span in one:
            length = span.end - span.begin
            axes.broken_barh(
                [(span.begin * 1e3, length * 1e3)],
                (row - 0.4, 0.8),
                facecolors=COLOURS[span.doing],
                edgecolors="white" if span.doing in COMPUTING else "none",
                linewidth=0.5,
            )
            if span.doing in COMPUTING and length > 0.018 * end and "@" in span.name:
                middle = (span.begin + span.end) / 2 * 1e3
                axes.text(middle, row, span.name, ha="center", va="center", fontsize=7, color="white")
    axes.set_yticks(range(len(spans)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, end * 1e3)
    axes.set_xlabel("milliseconds")
    axes.set_title(title, fontsize=10, loc="left")
    handles = [Patch(color=colour, label=doing) for doing, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)

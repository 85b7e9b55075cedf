"""`ziggurat verify --timeline`: the trace, the picture, and the bubble."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ziggurat.cli.main import main
from ziggurat.parallel.pipeline.schedules import make_schedule
from ziggurat.parallel.pipeline.timing import Span
from ziggurat.verification.timeline import measure_bubble


@pytest.mark.parametrize(("plan", "schedule"), [("pp=2", "interleaved"), ("dp=2,pp=2", "gpipe")])
def test_every_action_is_in_the_trace(tmp_path: Path, capfd: Any, plan: str, schedule: str) -> None:
    file = tmp_path / "step.json"
    arguments = ["--input", "8x3x32x32", "--plan", plan, "--microbatches", "4", "--timeline", str(file)]
    arguments += ["--set", f"plan.schedule={schedule}", "--json"]
    assert main(["verify", "support.verify_networks:noisy", *arguments]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["timeline"] == [str(file), str(tmp_path / "step.png")]
    events = json.loads(file.read_text())["traceEvents"]
    rows = [
        [e for e in events if e["ph"] == "X" and e["tid"] == rank] for rank in range(result["world_size"])
    ]
    labels = [e["args"]["name"] for e in events if e["name"] == "thread_name"]
    assert labels[0] == ("worker 0: pp 0" if plan == "pp=2" else "worker 0: dp 0, pp 0")
    orders = make_schedule(schedule, 2, 4 if plan == "pp=2" else 2)
    for rank, row in enumerate(rows):
        computed = [e["name"].split()[1] for e in row if "@" in e["name"]]
        assert computed == [str(action) for action in orders[rank % 2]]
        for one, other in itertools.pairwise(row):
            assert one["ts"] + one["dur"] <= other["ts"] + 1e-3, "what a worker does does not overlap"
        assert {"send", "receive", "wait"} <= {e["cat"] for e in row}
    bubble = result["bubble"]
    assert bubble["balanced"] == pytest.approx(1 / 9 if schedule == "interleaved" else 1 / 3)
    assert 0 < bubble["simulated"] < 1
    assert 0 < bubble["measured"] < 1
    if plan == "pp=2":  # the simulation is of the first pipeline alone
        assert bubble["simulated"] <= bubble["measured"] + 1e-6
    with Image.open(tmp_path / "step.png") as picture:
        assert picture.width > 1000
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
        assert {(0x48, 0x78, 0xCF), (0xD1, 0x79, 0x3C)} <= set(map(tuple, colours.tolist()))


def test_a_bubble_worked_by_hand() -> None:
    """Two stages of 1 and 2 seconds, one microbatch twice: worker 1 waits 1 s, then for worker 0."""
    first = [Span("forward", "F0@0", 0, 1), Span("forward", "F1@0", 1, 2), Span("wait", "for 1", 2, 5),
             Span("backward", "B0@0", 5, 6), Span("backward", "B1@0", 9, 10)]  # fmt: skip
    last = [Span("forward", "F0@1", 1, 2.5), Span("forward", "loss of 0", 2.5, 3), Span("backward", "B0@1", 3, 5),
            Span("forward", "F1@1", 5, 7), Span("backward", "B1@1", 7, 9)]  # fmt: skip
    bubble = measure_bubble([first, last], "1f1b", 2, [range(2)])
    assert bubble.measured == pytest.approx(1 - 12 / 20)
    assert bubble.simulated == pytest.approx(1 - 12 / 20)
    assert bubble.balanced == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("plan", "file", "message"),
    [
        ("sp=2", "step.json", "--timeline shows the stages of a plan with pp: got the plan sp=2"),
        ("pp=2", "step.png", "--timeline must name a file such as step.json"),
        ("pp=2", "nowhere/step.json", "in a folder that exists"),
    ],
)
def test_wrong_timelines(tmp_path: Path, capfd: Any, plan: str, file: str, message: str) -> None:
    arguments = ["--input", "4x3x8x8", "--plan", plan, "--timeline", str(tmp_path / file)]
    assert main(["verify", "support.verify_networks:noisy", *arguments]) == 2
    assert message in capfd.readouterr().err

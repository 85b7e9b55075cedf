"""The parts of `make plan-errors`: which cells there are and in which order, what others say of them, errors and regret."""

import dataclasses
import importlib
import math
import sys
from pathlib import Path

import pytest

from ziggurat.planning.network import Link
from ziggurat.planning.program import Form, Kernel, Mark, Program
from ziggurat.strategies.plan import parse_plan

FOLDER = Path(__file__).parents[2] / "benchmarks" / "planning"
NAMES = ("cells", "peers", "summary")


@pytest.fixture(scope="module")
def modules():
    """Import the parts as the benchmark does, and leave no module of such a name behind."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture
def cells(modules):
    return modules["cells"]


def cell_of(cells, plan, forecast, taken, num_bytes=100, counted=100, **more):
    whole = {one.name: 0 for one in dataclasses.fields(cells.Cell)}
    whole |= {
        "network": "n",
        "shape": "4x3x8x8",
        "purpose": "train",
        "plan": plan,
        "forecast": forecast,
        "taken": taken,
    }
    return cells.Cell(**{**whole, "forecast_bytes": num_bytes, "counted_bytes": counted, **more})


def test_cells_are_enough_of_all_kinds_and_each_comes_once(cells):
    several = list(cells.places())
    assert len(several) == len(set(several)) >= 120
    networks = {one.network for one in several}
    assert len(networks) >= 10
    assert len(cells.UNSEEN) * 3 >= len(networks)
    for plan in (*cells.TRAINING, *cells.PREDICTION):
        assert any(one.plan == plan for one in several)
        assert cells.num_workers(plan) == parse_plan(plan.split()[0]).num_workers
    assert [one.network for one in several[:8:2]] == [
        "pnn",
        "fcos-pnn",
        "fcos-hrnet_w18-fpn",
        "fcos-resnet18-fpn",
    ]


def test_a_run_that_is_cut_off_has_a_spread(cells):
    first = list(cells.places())[:32]
    assert {one.network for one in first} >= set(cells.NETWORKS)
    assert len({one.plan.split()[0] for one in first if one.purpose == "train"}) >= 8
    assert len({one.shape for one in first}) >= 5
    assert {one.purpose for one in first} == {"train", "predict"}


def test_plans_of_one_network_and_size_are_compared(cells):
    groups = {}
    for one in cells.places():
        groups.setdefault((one.network, one.shape, one.purpose, cells.num_workers(one.plan)), []).append(one)
    assert sum(len(several) > 1 for several in groups.values()) >= 20  # two limits of memory each


def test_a_table_is_read_as_it_was_written(cells, tmp_path):
    some = [cell_of(cells, "dp=2", 1.5, 1.25, others=0.5), cell_of(cells, "sp=2 x=y", 0.5, 1.0)]
    cells.write_cells(tmp_path / "cells.csv", some)
    assert cells.read_cells(tmp_path / "cells.csv") == some
    assert cells.read_cells(tmp_path / "none.csv") == []


def convolution(rows, channels, filters):
    """A kernel of 3 x 3 on images of `rows` squared."""
    given = Form((2, channels, rows, rows), (channels * rows * rows, rows * rows, rows, 1), "float32")
    weight = Form((filters, channels, 3, 3), (channels * 9, 9, 3, 1), "float32")
    return Kernel("aten.convolution.default", (given, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1))


@pytest.fixture
def paradl(modules):
    """Two layers of the same work and 4 + 4 s, forward and backward, and 1 s of the optimizer, in two microbatches of two images."""
    layer, again = convolution(8, 4, 4), Kernel("aten.convolution_backward.default", ())
    other = convolution(8, 4, 4)._replace(
        arguments=(*layer.arguments[:2], layer.arguments[1], *layer.arguments[3:])
    )
    update = Kernel("aten._fused_adamw_.default", ())
    seconds = {layer: 1.0, other: 1.0, again: 1.0, update: 1.0}
    events = (Mark("forward 0"), layer, other, Mark("backward 0"), again, again)
    program = Program(0, (*events, *events, update))
    return modules["peers"].ParaDL.of(program, seconds.__getitem__, pieces=2)


LINK = Link(0.01, 1e-5)
MAP, WEIGHTS, ROW = (
    2 * 4 * 64 * 4,
    4 * 4 * 9 * 4,
    2 * 4 * 8 * 4,
)  # bytes: of a microbatch's map, of a layer's weights, of a row


def test_paradl_has_layers_of_the_recorded_step(paradl):
    assert paradl.update == 1.0
    assert paradl.training
    for layer in paradl.layers:
        assert (layer.seconds, layer.calls) == (4.0, 2)
        assert (layer.read, layer.written, layer.weights) == (2 * MAP, 2 * MAP, WEIGHTS)
        assert layer.halo == 2 * (ROW + ROW)


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ("dp=2", 8 / 2 + 1 + 2 * (0.01 + 2 * WEIGHTS / 2 * 1e-5)),
        ("sp=2", 8 / 2 + 1 + 2 * (0.01 + 2 * WEIGHTS / 2 * 1e-5) + 2 * 2 * (2 * 2 * 0.01 + 4 * ROW * 1e-5)),
        ("pp=2", 3 / 2 * 4 + 0.5 + 2 * 2 * (0.01 + MAP * 1e-5)),
        ("tp=2", 8 / 2 + 0.5 + 3 * 2 * (2 * 0.01 + MAP * 1e-5)),
        ("fsdp=2", None),
        ("lp=2", None),
        ("dp=2,pp=2", None),
    ],
)
def test_paradl_says_what_its_table_has(paradl, plan, expected):
    found = paradl.seconds(parse_plan(plan), LINK, cores=4)
    assert found is None if expected is None else found == pytest.approx(expected)
    assert (paradl.num_bytes(parse_plan(plan)) is None) == (expected is None)


def test_paradl_s_workers_that_share_a_core_take_longer(paradl):
    alone, shared = (paradl.seconds(parse_plan("dp=4"), LINK, cores) for cores in (4, 2))
    assert shared - alone == pytest.approx(8 / 4 + 1)


def test_errors_are_of_quiet_cells_alone(modules, cells):
    some = [
        cell_of(cells, "dp=2", 1.1, 1.0, linear=1.5),
        cell_of(cells, "sp=2", 0.8, 1.0, linear=0.5, counted=80),
        cell_of(cells, "pp=2", 0.1, 1.0, others=0.5),
    ]
    text = modules["summary"].errors_of(some)
    seconds = next(line for line in text.splitlines() if line.startswith("seconds "))
    assert "2 cells   mean  15.0%   95 of 100 within  20.0%   worst  20.0%   from -20.0% to +10.0%" in seconds
    assert "3 cells of 1 networks; 2 were taken while" in text
    assert "worst  25.0%" in next(line for line in text.splitlines() if line.startswith("bytes "))
    assert "no cell" in modules["summary"].errors_of([])


def test_regret_is_what_the_chosen_plan_takes_longer(modules, cells):
    some = [
        cell_of(cells, "dp=2", 1.0, 1.2, 300, 300),  # chosen
        cell_of(cells, "sp=2", 1.1, 1.0, 200, 200),  # best
        cell_of(cells, "pp=2", 1.2, 2.0, 100, 220),  # of what is left without dp, sp is chosen, and best
        cell_of(cells, "dp=4", 0.1, 9.0),  # other workers: alone
        cell_of(cells, "tp=2", 0.1, 0.1, others=0.5),  # not in peace
    ]
    assert modules["summary"].regret_of(some) == pytest.approx([0.2, 0.0])
    some[0] = dataclasses.replace(some[0], forecast_bytes=200)  # it has room by forecast alone
    assert modules["summary"].regret_of(some) == [pytest.approx(0.2), math.inf]
    assert "2 cases   within 3 % of the best: 0%   worst inf%   without room: 1" in modules[
        "summary"
    ].format_regret(some)
    assert "no case" in modules["summary"].format_regret([])

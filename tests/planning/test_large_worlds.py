"""Plans of more workers than can be recorded: what the command says of them, and how the step of many microbatches follows from few."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from support.simulated import Steady
from ziggurat.cli.main import main
from ziggurat.errors import UserError
from ziggurat.planning.devices import DeviceCosts, find_device
from ziggurat.planning.large import LargeJudge, sharded_fault, split, with_tiers
from ziggurat.planning.overheads import Overheads, WithOverheads
from ziggurat.planning.place import Recorder
from ziggurat.planning.program import Kernel, Mark, Program, Start, Wait
from ziggurat.planning.record import Recorded, hollow_model
from ziggurat.planning.request import read_plan_request
from ziggurat.planning.search import Candidate, Refused
from ziggurat.planning.segments import Jitter
from ziggurat.planning.simulate import Simulated
from ziggurat.planning.table import format_plans
from ziggurat.strategies.plan import Plan, parse_plan

MODEL = "timm:test_resnet"
MACHINES = "{device: h100, machine: nvlink4, network: {cable: infiniband-ndr, cables: 8}, carrier: nccl}"


@pytest.fixture
def network(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(MACHINES)
    return str(file)


def test_a_thousand_workers_are_planned(network, capfd):
    words = [
        "--machines",
        "128x8",
        "--network",
        network,
        "--input",
        "2x3x32x32",
        "--per-worker",
        "--seconds",
        "1",
    ]
    assert main(["plan", MODEL, *words, "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    first = next(row for row in result["plans"] if row["plan"] == "dp=1024" and row["settings"])
    assert first["settings"] == {"launch.hierarchy": "8x8x16"}
    assert result["input"] == "2048x3x32x32"
    assert result["images_per_worker"] == 2
    assert result["microbatches"] == 1024
    assert 0 < first["idle"] < 1
    assert first["images_per_second"] == pytest.approx(2048 / first["step_seconds"])
    assert first["communication_bytes"] > 1024 * 1e6
    assert sum(row["plans"] for row in result["not_planned"]) > 1000
    assert any("fully_shard" in row["reason"] for row in result["not_planned"])
    text = format_plans(result)
    assert "2048x3x32x32 (2 of each worker), 1024 microbatches, 1024 workers on 128 machines" in text
    assert "not looked at in so large a world:" in text
    assert "more than 64 workers compute a microbatch together" in text


def test_what_is_said_of_images_is_of_all_or_of_each_worker(network):
    asked = {"machines": "512x8", "network": network}
    said = read_plan_request(MODEL, {}, shape="8192x3x32x32", **asked)
    assert (said.shape[0], said.images_per_worker, said.config.train.microbatches) == (8192, 0, 4096)
    each = read_plan_request(MODEL, {}, shape="3x3x32x32", per_worker=True, **asked)
    assert (each.shape[0], each.images_per_worker, each.config.train.microbatches) == (3 * 4096, 3, 4096)
    assert read_plan_request(MODEL, {"train.batch_size": "4096"}, **asked).shape[0] == 4096
    nothing = read_plan_request(MODEL, {}, **asked)
    assert (nothing.shape[0], nothing.images_per_worker) == (4096, 1)
    assert read_plan_request(MODEL, {}, machines="8x8", network=network).images_per_worker == 0
    few = read_plan_request(MODEL, {}, shape="64x3x32x32", **asked)
    with pytest.raises(UserError, match="each worker of the dp axis needs a microbatch"):
        few.check(Plan(dp=4096))
    few.check(parse_plan("dp=64,sp=64"))


def test_numbers_are_those_that_the_described_device_has_units_for(network, tmp_path):
    assert read_plan_request(MODEL, {}, machines="512x8", network=network).config.dtype == "bf16"
    assert (
        read_plan_request(MODEL, {"dtype": "fp32"}, machines="512x8", network=network).config.dtype == "fp32"
    )
    old = tmp_path / "old.yaml"
    old.write_text(MACHINES.replace("h100", "v100"))
    assert read_plan_request(MODEL, {}, machines="512x8", network=str(old)).config.dtype == "fp32"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"purpose": "predict"}, "a prediction is planned for fewer"),
        ({"timeline": "step.json"}, "--timeline draws each worker of fewer"),
        ({"network": None}, "each needs a device or a core of its own"),
        ({"purpose": "predict", "per_worker": True, "machines": "2x2"}, "--per-worker is about the images of a training step"),
    ],
)  # fmt: skip
def test_what_a_large_world_has_not_is_refused(asked, words, network):
    with pytest.raises(UserError) as error:
        read_plan_request(MODEL, {}, **({"machines": "512x8", "network": network} | asked))
    assert words in " ".join(error.value.faults)


def test_a_description_without_a_device_needs_cores_for_its_workers(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("{machine: pcie4, network: ethernet-10g}")
    with pytest.raises(UserError, match="a device or a core of its own"):
        read_plan_request(MODEL, {}, machines="9x512", network=str(file))
    assert read_plan_request(MODEL, {}, machines="512x1", network=str(file)).is_large


def test_tiers_are_tried_where_many_machines_meet():
    assert split(64) == [64]
    assert split(96) == [8, 12]
    candidate = Candidate(Plan(dp=4096, sp=2))
    assert [str(one) for one in with_tiers(candidate, 8, False)] == [
        "dp=4096,sp=2 launch.hierarchy=4x32x32",
        "dp=4096,sp=2",
    ]
    assert list(with_tiers(candidate, 8, True)) == [candidate]
    assert list(with_tiers(Candidate(Plan(dp=512)), 8, False)) == [Candidate(Plan(dp=512))]


def test_a_sharded_optimizer_of_many_is_not_looked_at():
    settings = (("pipeline.shard_optimizer", True),)
    assert sharded_fault(Candidate(Plan(dp=64), settings)) is None
    assert "cuts every weight into 512 pieces" in str(sharded_fault(Candidate(Plan(dp=512), settings)))
    assert sharded_fault(Candidate(Plan(dp=512))) is None


class PerKernel:
    """Costs of whom every kernel takes a second."""

    def known(self, one):
        return True

    def seconds(self, one):
        return 1.0

    def begin(self, start):
        return 0.0


def straight(candidate, count):
    """A replica of one worker: each microbatch has three kernels and memory of ten, each doubling a gradient of 40; then all exchange."""
    num_data = candidate.plan.num_data
    each = count // num_data
    kernels = [
        event
        for n in range(each)
        for event in (Mark(f"forward {n}"), *(Kernel(f"{n} {i}", ()) for i in range(3)))
    ]
    exchange = (Start("all-reduce", tuple(range(num_data)), num_bytes=8), Wait(0)) if num_data > 1 else ()
    return Recorded(
        (
            Program(
                0,
                (*kernels, *exchange),
                100 + 10 * each + 40 * (each.bit_length() - 1),
                {"weights": 40, "moments": 50},
            ),
        )
    )


def test_many_microbatches_follow_from_few():
    judge = LargeJudge(straight, PerKernel(), Steady(0.5), pieces=2048, places=[0] * 128)
    assert judge.amounts(Plan(dp=128)) == [2, 4]
    assert judge.amounts(Plan(dp=512)) == [4]
    assert judge.amounts(Plan(dp=32, pp=4)) == [4, 8]
    step = judge(Candidate(Plan(dp=128)))
    assert isinstance(step, Simulated)
    assert step.seconds == pytest.approx(16 * 3 + 0.5)
    assert step.peak_bytes == (100 + 10 * 16 + 40 * 4,)
    assert step.busy == (48.0,)
    alone = judge.alone(Candidate(Plan()))
    assert not isinstance(alone, str)
    assert alone.seconds == pytest.approx(3 * 2048)
    assert (alone.weight_bytes, alone.kept_bytes, alone.activation_bytes) == (40, 50, 20)
    assert judge.bound(Candidate(Plan(dp=128)), alone) == pytest.approx(48.0)


def test_replicas_that_are_not_alike_and_networks_that_do_not_go_are_refused():
    judge = LargeJudge(straight, PerKernel(), Steady(), pieces=384, places=[0] * 128)
    refused = judge(Candidate(Plan(dp=128)))
    assert isinstance(refused, Refused)
    assert "have other parts of the tree over 384 microbatches" in refused.reason
    judge.record = lambda candidate, count: Recorded(refused="it has no levels")
    assert judge(Candidate(Plan(dp=96))) == Refused(Candidate(Plan(dp=96)), "it has no levels")
    assert judge.alone(Candidate(Plan())) == "it has no levels"

    def fails(candidate, count):
        raise RuntimeError("worker 0 failed:\nno memory")

    judge.record = fails
    told = judge(Candidate(Plan(dp=96)))
    assert isinstance(told, Refused)
    assert told.reason.endswith("no memory")


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["dp=64,pp=2", "dp=128", "dp=64,sp=2"])
def test_the_forecast_from_few_is_that_of_a_recording_of_all(plan, network):
    request = read_plan_request(MODEL, {}, machines="16x8", network=network, shape="2048x3x64x64")
    config = replace(request.config, train=replace(request.config.train, microbatches=2048))
    request = replace(request, config=config)
    costs = WithOverheads(DeviceCosts(find_device("h100")), Overheads())
    recorder = Recorder(request, hollow_model(lambda: request.build(config), config), costs)
    judge = LargeJudge(recorder.of_first, costs, request.cluster.links, request.pieces, request.places)
    candidate = Candidate(parse_plan(plan))
    forecast = judge(candidate)
    judge.amounts = lambda plan: [request.pieces // plan.num_data]
    real = judge(candidate)
    assert isinstance(forecast, Simulated)
    assert isinstance(real, Simulated)
    assert forecast.seconds == pytest.approx(real.seconds, rel=0.02)
    assert forecast.bytes_sent == pytest.approx(real.bytes_sent, rel=0.02)


def test_jitter_slows_a_large_world():
    judge = LargeJudge(straight, PerKernel(), Steady(0.5), pieces=128, places=[0] * 128)
    even = judge(Candidate(Plan(dp=128)))
    judge.jitter = Jitter(0.2)
    drawn = judge(Candidate(Plan(dp=128)))
    assert isinstance(even, Simulated)
    assert isinstance(drawn, Simulated)
    assert drawn.seconds > 1.2 * even.seconds
    assert drawn.idle > even.idle

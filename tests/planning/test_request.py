"""What the user asks a planner for: every fault at once, before anything is recorded."""

import json

import pytest

from ziggurat.config import RunConfig, override, save_config
from ziggurat.errors import UserError
from ziggurat.planning.clusters import read_network
from ziggurat.planning.request import check_priced, read_bytes, read_plan_request
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.resolve import available_cores

MODEL = "fcos-resnet18-fpn"


def faults_of(*args, **named):
    with pytest.raises(UserError) as error:
        read_plan_request(*args, **named)
    return error.value.faults


def test_what_is_not_said_is_this_machine_and_the_config():
    request = read_plan_request(MODEL, {"data.crop": "96", "train.batch_size": "4"})
    assert request.shape == (4, 3, 96, 96)
    assert request.machines == (1, available_cores())
    assert request.config.task == "detect"
    assert request.config.threads == 1
    assert request.purpose == "train"
    assert 0 < request.memory < float("inf")


@pytest.mark.parametrize(
    ("batch", "workers", "wanted", "microbatches"),
    [(8, 2, 0, 2), (8, 3, 0, 2), (6, 4, 0, 3), (2, 8, 0, 2), (8, 2, 4, 4)],
)
def test_microbatches_are_those_of_a_run_that_is_started_with_so_many_workers(
    batch, workers, wanted, microbatches
):
    settings = {"train.microbatches": wanted} if wanted else {}
    request = read_plan_request(MODEL, settings, workers=str(workers), shape=f"{batch}x3x64x64")
    assert request.config.train.microbatches == microbatches
    assert request.config.train.batch_size == batch


def test_workers_of_a_machine_are_neighbours(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("{machine: pcie4, network: ethernet-10g}")
    request = read_plan_request(MODEL, {}, machines="2x3", network=str(file))
    assert request.num_workers == 6
    assert request.places == [0, 0, 0, 1, 1, 1]


def test_a_run_is_planned_with_its_own_config_and_classes(tmp_path):
    config = override(
        RunConfig(), {"model.name": MODEL, "task": "detect", "train.batch_size": 6, "data.crop": 64}
    )
    save_config(config, tmp_path / "config.yaml")
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": ["a", "b"], "category_ids": [1, 2], "images": 3})
    )
    request = read_plan_request(str(tmp_path), {})
    assert request.shape == (6, 3, 64, 64)
    assert request.build(request.config).num_classes == 2


def test_a_described_machine_has_its_own_size_memory_and_devices(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("{device: h100, machines: 2x8, machine: nvlink4, network: infiniband-ndr}")
    request = read_plan_request(MODEL, {}, network=str(file))
    assert request.machines == (2, 8)
    assert request.memory == 80e9
    assert read_plan_request(MODEL, {}, network=str(file), machines="4x4", memory="16G").memory == 16e9


def test_a_plan_that_leaves_workers_without_microbatches_is_refused():
    request = read_plan_request(MODEL, {}, workers="4", shape="2x3x64x64")
    with pytest.raises(UserError, match="each worker of the dp axis needs a microbatch"):
        request.check(Plan(dp=4))
    request.check(Plan(dp=2, sp=2))
    read_plan_request(MODEL, {}, workers="4", shape="2x3x64x64", purpose="predict").check(Plan(dp=4))


def test_every_fault_is_told_at_once():
    faults = faults_of(
        "fcoss-resnet18-fpn", {"data.path": "x"}, workers="none", memory="much", shape="3x64", purpose="fun", seconds="-1",
        measure="x",
    )  # fmt: skip
    told = " | ".join(faults)
    for words in (
        "fcoss-resnet18-fpn",
        "data.path has no effect",
        "--workers must",
        "--memory must",
        "--input must",
    ):
        assert words in told
    for words in ("--for must", "--seconds must", "--measure must"):
        assert words in told


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"machines": "2x4", "workers": "3"}, "--machines 2x4 are 8 workers"),
        ({"machines": "9x8"}, "72 workers are more than 64"),
        ({"machines": "x"}, "such as 4x8"),
        ({"machines": "2x2", "measure": "2"}, "--measure takes steps on this machine"),
        ({"network": "nothing.yaml"}, "nothing.yaml"),
        ({"shape": "6x3x64x64", "settings": {"train.microbatches": 4}}, "microbatches must divide the batch"),
    ],
)
def test_faults_of_one_flag(asked, words):
    settings = asked.pop("settings", {})
    assert words in " ".join(faults_of(MODEL, settings, **asked))


def test_what_is_between_workers_must_be_known(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("{machine: pcie4}")
    assert faults_of(MODEL, {}, machines="2x2") == [
        "what is between 2 machines cannot be measured on this one: describe it in a file, and give --network (docs/planning.md)"
    ]
    (fault,) = faults_of(MODEL, {}, machines="2x2", network=str(file))
    assert "between workers of several machines" in fault
    assert read_plan_request(MODEL, {}, machines="1x2", network=str(file)).places == [0, 0]


@pytest.mark.parametrize(
    ("plan", "images", "pieces", "times"),
    [
        ("dp=2", 8, 2, 2.0),
        ("dp=2", 1, 1, 1.0),
        ("sp=2", 8, 2, 4.0),
        ("pp=2", 40, 8, 5.0),
        ("pp=2", 3, 3, 1.0),
    ],
)
def test_some_batches_of_a_prediction_tell_what_all_take(plan, images, pieces, times):
    request = read_plan_request(MODEL, {}, workers="2", shape=f"{images}x3x64x64", purpose="predict")
    assert request.recorded_shape == (1, 3, 64, 64)
    assert request.amount(parse_plan(plan)) == (pieces, times)


def test_kernels_of_this_machines_gpus_have_no_price(tmp_path):
    with pytest.raises(UserError, match="not on this machine's GPUs"):
        check_priced("cuda")
    file = tmp_path / "cluster.yaml"
    file.write_text("{device: h100}")
    check_priced("cuda", read_network(file))
    check_priced("cpu")


def test_a_file_of_weights_tells_no_plan(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    assert "name its model" in faults_of(str(tmp_path / "weights.pth"), {})[0]


@pytest.mark.parametrize("text", ["", "0G", "-1G", "16X", "G", "1e3G", "nan"])
def test_bytes_that_are_none(text):
    with pytest.raises(UserError, match="--memory must be"):
        read_bytes(text)


def test_torchrun_does_not_plan(monkeypatch):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    assert "without torchrun" in faults_of(MODEL, {})[0]

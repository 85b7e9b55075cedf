"""Machines from a file: names, figures, and every fault in one message."""

import pytest

from ziggurat.errors import UserError
from ziggurat.planning.clusters import CABLES, REACHED, parse_machines, read_network
from ziggurat.planning.devices import COMPUTING, DEVICES, LAUNCH, MOVING, DeviceCosts, find_device
from ziggurat.planning.network import Link
from ziggurat.planning.program import Form, Kernel


def described(folder, text):
    path = folder / "net.yaml"
    path.write_text(text)
    return read_network(path)


def test_names_stand_for_what_their_makers_say(tmp_path):
    cluster = described(tmp_path, "device: H100\nmachines: 4x8\nmachine: nvlink4\nnetwork: infiniband-ndr\n")
    assert cluster.device is DEVICES["h100"]
    assert cluster.machines == (4, 8)
    assert cluster.links.carrier == "nccl"
    assert cluster.links.links["machine"] == Link(3.4e-6, 1 / (450e9 * REACHED))
    assert cluster.places(10) == [0] * 8 + [1] * 2


def test_json_and_figures_of_ones_own(tmp_path):
    cluster = described(
        tmp_path,
        '{"machine": {"latency": 5e-6, "bandwidth": 1e9}, "network": {"cable": "ethernet-100g", "cables": 4, "latency": 1e-5}}',
    )
    assert cluster.device is None
    assert cluster.links.carrier == "gloo"
    assert cluster.links.links["machine"] == Link(5e-6, 1e-9)
    assert cluster.links.links["network"] == Link(1e-5, pytest.approx(1 / (12.5e9 * REACHED * 4)))


def test_numbers_that_yaml_takes_for_text_are_numbers(tmp_path):
    assert described(tmp_path, "machine: {latency: 5e-6, bandwidth: 1e9}").links.alpha("machine") == 5e-6


def test_every_fault_is_told_at_once(tmp_path):
    with pytest.raises(UserError) as caught:
        described(
            tmp_path,
            "device: h10\nmachines: 4\nmachine: nvlik4\nnetwork: {latency: -1, bandwith: 5}\ncarrier: mpi\nfoo: 1\n",
        )
    faults = " ".join(caught.value.faults)
    for word in ("'h100'", "4x8", "'nvlink4'", "latency", "'bandwidth'", "gloo or nccl", "'foo'"):
        assert word in faults
    assert len(caught.value.faults) == 8


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("machines: 2x4\nmachine: nvlink4\n", "network"),
        ("machines: 2x4\nnetwork: infiniband-ndr\n", "machine"),
        ("{}", "nothing"),
        ("network: 5\n", "name of a cable"),
        ("network: {cable: nvlink9}\n", "nvlink"),
        ("machine: {latency: true, bandwidth: 1}\n", "above 0"),
    ],
)
def test_what_is_missing_or_wrong_is_said(tmp_path, text, word):
    with pytest.raises(UserError, match=word):
        described(tmp_path, text)


def test_more_workers_than_there_are_is_a_fault(tmp_path):
    with pytest.raises(UserError, match="32"):
        described(tmp_path, "machines: 4x8\nmachine: nvlink4\nnetwork: infiniband-ndr\n").places(33)
    assert described(tmp_path, "machine: nvlink4").places(3) == [0, 0, 0]


@pytest.mark.parametrize("text", ["0x8", "4", "4x", "axb", "-1x2", "4x8x2"])
def test_machines_that_are_none(text):
    with pytest.raises(UserError, match="MxW"):
        parse_machines(text)


def test_every_entry_names_its_source():
    for entry in (*DEVICES.values(), *CABLES.values()):
        assert len(entry.source) > 10
    for device in DEVICES.values():
        assert device.peak("float64") < device.peak("float32") <= device.peak("float16")
        assert device.peak("int64") == device.peak("float32")


def test_a_kernel_takes_the_longer_of_arithmetic_and_memory():
    device = find_device("a100-40g")
    costs = DeviceCosts(device)
    square = Form((4096, 4096), (4096, 1), "bfloat16")
    product = costs.seconds(Kernel("aten.mm.default", (square, square)))
    assert product == pytest.approx(LAUNCH + 2 * 4096**3 / (312e12 * COMPUTING))
    added = costs.seconds(Kernel("aten.add.Tensor", (square, square)))
    assert added == pytest.approx(LAUNCH + 3 * 2 * 4096**2 / (1555e9 * MOVING))
    assert costs.seconds(Kernel("aten.view.default", (square, (16, 1 << 20)))) == 0.0
    assert costs.known(Kernel("no.such.one", ()))


def test_a_device_that_is_not_known_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="rtx4090"):
        find_device("rtx-4090")


def test_a_file_that_is_no_description_is_called_one(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the description of machines .*none\.yaml"):
        read_network(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="must hold names and values, such as 'machines: 4x8': got a list"):
        read_network(tmp_path / "list.yaml")

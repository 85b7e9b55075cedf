"""The table of bits in its short form (all of it: ``python tests/sweep/bits.py``), and that it sees what it is made for."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from support.commands import run_here
from sweep import bits
from sweep.settings import SETTINGS, SHORT


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The table of the short form."""
    out = tmp_path_factory.mktemp("bits") / "table.json"
    bits.run_all(SHORT, out, run_here)
    return out


def test_the_settings_are_told_apart():
    assert len({bits.title(setting) for setting in SETTINGS}) == len(SETTINGS) >= 40


def test_one_and_two_workers_have_the_same_bits(table):
    one, two, bands = json.loads(table.read_text()).values()
    assert not any("error" in found for found in (one, two, bands)), (one, two, bands)
    assert one["weights_sha256"] == two["weights_sha256"] != bands["weights_sha256"]
    assert bits.largest_difference(one["steps"], two["steps"]) == (0.0, "")
    value, _ = bits.largest_difference(bands["steps"], one["steps"])
    assert 0 < value < 1e-3
    assert one["predictions"]


def changed(table, folder, change):
    """Copy a table with its weights, and change the copy."""
    found = json.loads(table.read_text())
    other = folder / "other.json"
    for one in found.values():
        name = one["weights"].replace(table.stem, other.stem)
        (folder / name).parent.mkdir(exist_ok=True)
        tensors = load_file(table.parent / one["weights"])
        change(one, tensors)
        save_file(tensors, folder / name)
        one["weights"] = name
    other.write_text(json.dumps(found))
    return other


def last_bit(found, tensors):
    name = sorted(name for name, tensor in tensors.items() if tensor.dtype == np.float32 and tensor.size > 9)[
        0
    ]
    largest = np.abs(tensors[name]).argmax()
    tensors[name].flat[largest] = np.nextafter(tensors[name].flat[largest], np.float32(9))
    found["weights_sha256"] = "another"


def test_a_table_is_equal_to_itself(table, tmp_path):
    lines, broken = bits.compare(table, changed(table, tmp_path, lambda found, tensors: None))
    assert (len(lines), broken) == (3, [])
    assert all("same bits" in line for line in lines)


def test_a_last_bit_breaks_the_promise_of_bits_alone(table, tmp_path):
    lines, broken = bits.compare(table, changed(table, tmp_path, last_bit))
    assert [line.startswith("WRONG bits") for line in lines] == [True, True, False]
    assert broken == lines[:2]


@pytest.mark.parametrize("part", ["steps", "metrics", "predictions", "evaluation"])
def test_any_other_number_breaks_it(table, tmp_path, part):
    def change(found, tensors):
        if part not in found:
            return
        leaves = dict(bits.numbers(found[part]))
        path = [key for key, leaf in leaves.items() if isinstance(leaf, float)][-1].split("/")[1:]
        inner = found[part]
        for key in path[:-1]:
            inner = inner[int(key) if isinstance(inner, list) else key]
        last = int(path[-1]) if isinstance(inner, list) else path[-1]
        inner[last] += 1e-3

    _, broken = bits.compare(table, changed(table, tmp_path, change))
    assert len(broken) == (3 if part in ("steps", "metrics") else 1)


def test_a_setting_that_fails_is_said(table, tmp_path):
    _, broken = bits.compare(
        table, changed(table, tmp_path, lambda found, tensors: found.update(error="it fails"))
    )
    assert len(broken) == 3


@pytest.mark.sampled(0)
def test_a_command_that_does_not_end_well_says_why():
    with pytest.raises(RuntimeError, match="ended with 2:\nziggurat: there is no data set nowhere"):
        bits.command("train", "nowhere")

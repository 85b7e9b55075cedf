"""Links of this machine: measured by real workers, kept, and found again. How long messages take here is no matter of these tests."""

import pytest

from support.ranks import run_ranks
from ziggurat.planning import calibration
from ziggurat.planning.calibration import (
    KINDS,
    calibrate,
    links_from_json,
    links_of_this_machine,
    links_to_json,
)
from ziggurat.planning.network import Link, Links
from ziggurat.planning.program import Start
from ziggurat.strategies.costs.cache import MeasurementCache


def _calibrated(workers):
    return links_to_json(calibrate(workers, repeats=2))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("world", [2, 3])
def test_workers_measure_every_kind_of_message_and_agree(world):
    first, *others = run_ranks(_calibrated, world)
    assert all(other == first for other in others)
    links = links_from_json(first)
    group, places = tuple(range(world)), [0] * world
    assert {kind for _, kind in links.kinds} == set(KINDS)
    assert set(links.processor) == set(links.begins) == {"swap", *KINDS}
    swap = Start("swap", (0, 1), sends=((1, 64),), receives=((1, 64),))
    assert links.begin_seconds(swap) == pytest.approx(
        2 * links.begin_seconds(swap._replace(receives=()))
    )  # each way
    assert links.begin_seconds(swap) > 1e-6
    gathered = Start("all-gather", group, num_bytes=1 << 23)
    assert links.begin_seconds(gathered) + links.processor_seconds(gathered) > 1e-4  # the worker copies them
    assert links.processor_seconds(Start("barrier", (0,))) == 0
    for kind in KINDS:
        assert links.seconds(Start(kind, group, num_bytes=1 << 20), places) > 0
    assert links.seconds(Start("swap", (0, 1), sends=((1, 1 << 20),)), places) > 0


def test_links_are_measured_once_and_kept(tmp_path, monkeypatch):
    asked = []

    def launched(function, args, num_workers, settings):
        asked.append((function, num_workers))
        return Links({"machine": Link(1e-5, 1e-9)}, {("machine", "all-reduce"): Link(1e-6, 1e-9)})

    monkeypatch.setattr(calibration, "launch", launched)
    cache = MeasurementCache(tmp_path / "kernels.json")
    found = links_of_this_machine(2, "a processor", cache)
    assert links_of_this_machine(2, "a processor", cache) == found
    assert asked == [(calibrate, 2)]
    links_of_this_machine(4, "a processor", cache)
    assert len(asked) == 2


def test_a_file_that_holds_nonsense_is_measured_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "launch", lambda *args: Links({"machine": Link(1.0, 1.0)}))
    cache = MeasurementCache(tmp_path / "kernels.json")
    cache.write(calibration.key_of(2, "x"), {"links": [], "kinds": {}})
    assert links_of_this_machine(2, "x", cache).alpha("machine") == 1.0
    assert "no usable value" in capsys.readouterr().err

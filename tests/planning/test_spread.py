"""What operations on spread tensors take around their kernels: measured by real workers, told apart, kept, and found again.

How long they take here is no matter of these tests.
"""

import pytest
import torch

from support.ranks import run_ranks
from ziggurat.parallel.spatial import cut, spatial_mesh
from ziggurat.planning import spread
from ziggurat.planning.events import Events
from ziggurat.planning.hollow import Noting
from ziggurat.planning.program import Kernel, Start, is_spread_operation, spread_operation
from ziggurat.planning.spread import (
    Seen,
    costs_of,
    known_spread_costs,
    see_operations,
    spread_costs_of_this_machine,
)
from ziggurat.strategies.costs.cache import MeasurementCache
from ziggurat.verification.memory import Ledger

KINDS = {"question", "pointwise", "layout", "moments", "gather", "window", "resample"}
SWAP = Start("swap", (0, 1), sends=((1, 64),), receives=((1, 64),))


def test_an_operation_takes_what_is_left_when_all_that_it_is_made_of_is_known():
    small = Seen("a", 2.0, 0, (), {})
    other = Seen("a", 4.0, 0, (), {})
    twice = Seen("b", 20.0, 3, (SWAP,), {"a": 2}, own=2)
    hidden = Seen("c", 1.0, 50, (), {})
    found = costs_of([small, other, twice, hidden], 1.0, lambda start: 5.0)
    assert found == {"a": 3.0, "b": 3.0, "c": 0.0}  # b: (20 - 3 calls - 5 of the message - 2 of 3) / 2


def _seen(workers):
    return see_operations(workers)


def test_every_kind_is_seen_with_and_without_gradient_and_what_talks_is_told_apart(monkeypatch):
    monkeypatch.setattr(spread, "REPEATS", 1)
    monkeypatch.setattr(spread, "BEFORE", 0)
    seen, others = run_ranks(_seen, 2)
    assert [one.name for one in seen] == [one.name for one in others]
    assert [one.seconds for one in seen] == [one.seconds for one in others]  # the mean of both
    names = {one.name for one in seen}
    for gradient in (False, True):
        assert {
            kind
            for kind in KINDS
            for talks in (False, True)
            if spread_operation(kind, talks, gradient).name in names
        } == KINDS
    for one in seen:
        assert bool(one.starts) == ("talks" in one.name)
    of_windows = [one for one in seen if one.name == "spread.window, talks, with gradient"]
    assert all(len(one.starts) == 2 for one in of_windows)  # forward and backward


def _noted(workers):
    mesh = spatial_mesh(workers, (2,))
    maps = cut(torch.rand(1, 4, 8, 8), mesh)
    line = torch.nn.Conv1d(4, 4, 3, padding=1)
    events = Events()
    workers.observe(events)
    with Noting(events, Ledger()), events.noting(), torch.no_grad():
        maps.relu()
        line(maps[:, :, :, 0])
    workers.observe(None)
    names = [e.name for e in events.noted if isinstance(e, Kernel) and is_spread_operation(e)]
    return names, sum(isinstance(e, Start) for e in events.noted)


def test_a_message_belongs_to_the_innermost_operation():
    for names, starts in run_ranks(_noted, 2):
        assert names.count("spread.pointwise") == 1
        assert starts == 1
        assert sum("talks" in name for name in names) == 1


def test_costs_are_measured_once_and_kept(tmp_path, monkeypatch, capsys):
    asked = []

    def on_workers(function, num_workers, args):
        asked.append((function, num_workers))
        return [[Seen("spread.question", 3e-6, 0, (), {})]]

    monkeypatch.setattr(spread, "on_workers", on_workers)
    cache = MeasurementCache(tmp_path / "kernels.json")
    assert known_spread_costs("a processor", cache) is None
    found = spread_costs_of_this_machine(0.0, lambda start: 0.0, "a processor", cache)
    assert found == {"spread.question": pytest.approx(3e-6)}
    assert spread_costs_of_this_machine(0.0, lambda start: 0.0, "a processor", cache) == found
    assert asked == [(see_operations, 2)]
    cache.write(
        f"operations on spread tensors, by local sockets, of another, torch {torch.__version__}", ["x"]
    )
    assert known_spread_costs("another", cache) is None
    assert "no usable value" in capsys.readouterr().err

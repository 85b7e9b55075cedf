"""Overheads are found from real steps. How long these take here is no matter of these tests."""

import pytest

from ziggurat.planning import small_steps
from ziggurat.planning.overheads import Overheads, Sample
from ziggurat.planning.record import Recorded
from ziggurat.planning.small_steps import (
    SmallStep,
    known_overheads,
    overheads_of_this_machine,
    seconds_of_a_call,
    take_small_step,
)
from ziggurat.strategies.costs.cache import MeasurementCache


class Instant:
    """Kernels that take nothing: all of a step is beside them."""

    def __init__(self):
        self.asked = []

    def known(self, kernel):
        return True

    def measure(self, kernels):
        self.asked += kernels

    def seconds(self, kernel):
        return 0.0


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", ["dp=1", "sp=2"])
def test_a_small_step_is_taken_and_its_kernels_are_measured_in_their_order(plan):
    costs = Instant()
    sample = take_small_step(SmallStep("timm:test_resnet", (1, 3, 64, 64), plan), costs, repeats=1)
    assert sample.seconds > 0
    assert sample.calls == len(costs.asked) > 100
    assert (sample.starts > 0) == (plan == "sp=2")


def test_a_network_that_cannot_be_spread_teaches_nothing(monkeypatch):
    monkeypatch.setattr(small_steps, "record_step", lambda *args: Recorded(refused="it is too small"))
    with pytest.raises(ValueError, match="no step to learn from: it is too small"):
        take_small_step(SmallStep("timm:test_resnet", (1, 3, 64, 64), "sp=2"), Instant())


def test_overheads_are_found_once_and_kept(tmp_path, monkeypatch, capsys):
    taken = []

    def take(step, costs):
        taken.append(step)
        return Sample(100 * len(taken), 0, 1.0, 1.0 + 0.5 * len(taken))

    monkeypatch.setattr(small_steps, "take_small_step", take)
    monkeypatch.setattr(small_steps, "seconds_of_a_call", lambda: 0.0)
    cache = MeasurementCache(tmp_path / "kernels.json")
    step = SmallStep("timm:resnet18", (1, 3, 64, 64), "dp=1")
    assert known_overheads("a processor", cache) is None
    found = overheads_of_this_machine(Instant(), "a processor", cache, [step, step])
    assert known_overheads("a processor", cache) == found
    assert found == pytest.approx(Overheads(call=0.005), abs=1e-9)
    assert overheads_of_this_machine(Instant(), "a processor", cache, [step]) == found
    assert taken == [step, step]
    cache.write("overheads of calls on one worker of another, torch " + small_steps.torch.__version__, ["x"])
    assert overheads_of_this_machine(Instant(), "another", cache, [step, step]).call > 0
    assert "no usable value" in capsys.readouterr().err


def test_a_call_takes_some_microseconds():
    assert 1e-7 < seconds_of_a_call() < 1e-3

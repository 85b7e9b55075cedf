"""What fixes a run's bits is looked up in its state, then in the file beside its config, and measured last."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import nn

from support.local_stages import Skips
from support.ranks import run_ranks
from ziggurat.config import PipelineConfig
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph import costs as table
from ziggurat.parallel.graph.costs import CallCost, Operation
from ziggurat.parallel.graph.graph import Graph
from ziggurat.parallel.graph.trace import ImageSpec, Tracer, spec_of
from ziggurat.parallel.pipeline.balance import StageCost
from ziggurat.strategies.costs.branch_costs import agree_on_costs
from ziggurat.strategies.costs.cache import AGAIN, MeasurementCache
from ziggurat.strategies.costs.cuts import Cut, choose_cut, from_json, key_of
from ziggurat.strategies.costs.decisions import Decisions, decide
from ziggurat.strategies.costs.team import Team

CUT = Cut(("down",), (StageCost("", 1 / 3, 1, 2, 3, 0.1), StageCost("down", 2.0, 4, 5, 6, 0.7)))
COSTS = {
    "stem": CallCost(1 / 3),
    "head.dropout:2": CallCost(2e-7, True, 3e-7, 4, 5, 6, Operation("Dropout(p=0.5)", ((2, 3), ()), "float32", "cpu", 2)),
}  # fmt: skip


def test_costs_and_cuts_come_back_through_json() -> None:
    assert table.from_json(json.loads(json.dumps(table.to_json(COSTS)))) == COSTS
    assert from_json(json.loads(json.dumps(asdict(CUT)))) == CUT


def test_costs_of_an_earlier_version_are_read() -> None:
    assert table.from_json({"stem": {"seconds": 0.5, "draws": True}}) == {"stem": CallCost(0.5, True)}


@pytest.mark.parametrize(
    "value", [[1], {"stem": 3}, {"stem": {"seconds": "a", "draws": False}}, {"stem": {"draws": True}}]
)
def test_what_is_no_costs_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="no costs of calls"):
        table.from_json(value)


@pytest.mark.parametrize("value", [[1], {"layers": ["stem"]}, {"layers": ["stem"], "costs": [{"hours": 1}]}])
def test_what_is_no_cut_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="no cut"):
        from_json(value)


def read(found: Any) -> int:
    if not isinstance(found, int):
        raise ValueError(f"{found} is no number")
    return found


def test_the_state_comes_before_the_file_and_the_file_before_measuring(tmp_path, capsys) -> None:
    cache, measured = MeasurementCache(tmp_path / "file.json"), []

    def measure() -> int:
        measured.append(3)
        return 3

    def asked(decisions: Decisions) -> int:
        return decide(decisions, "key", cache, "cached", read, int, measure)

    assert asked(Decisions()) == 3
    assert measured == [3]
    assert asked(Decisions()) == 3
    assert measured == [3], "it was in the file"
    cache.write("cached", 4)
    assert asked(Decisions()) == 4
    assert asked(Decisions({"key": 5})) == 5
    assert capsys.readouterr().err == ""
    cache.write("cached", "x")
    assert asked(Decisions()) == 3
    assert capsys.readouterr().err == f"ziggurat: {cache.path} holds no usable value for 'cached': {AGAIN}\n"
    with pytest.raises(UserError, match="under 'key' that cannot be used"):
        asked(Decisions({"key": "x"}))


def test_decisions_are_what_a_checkpoint_gives_back() -> None:
    decisions, given = Decisions(), {"layers": ("a", "b")}
    decisions.record("pp", given)
    assert decisions.made == {"pp": {"layers": ["a", "b"]}}
    stored = decisions.to_json()
    stored["pp"]["layers"].append("c")
    assert decisions.made == {"pp": {"layers": ["a", "b"]}}, "a copy"
    with pytest.raises(TypeError):
        decisions.record("pp", torch.zeros(1))


class Counts:
    """Measures in a way that is known beforehand, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self, model: nn.Module, graph: Graph, spec: ImageSpec, device: torch.device, *, backward: bool = True
    ) -> dict[str, CallCost]:
        self.count += 1
        return {name: CallCost(1.0, False, 1.0 if backward else None) for name in table.call_names(graph)}


def _cuts(workers: Workers, folder) -> list[Any]:
    team, model = Team(workers, workers, Workers()), Skips().double()
    tracer, spec, file, measure = (
        Tracer(model),
        spec_of(torch.zeros(2, 3, 16, 16, dtype=torch.float64)),
        folder / "cuts.json",
        Counts(),
    )

    def chosen(config: PipelineConfig, decisions: Decisions) -> Cut:
        return choose_cut(
            model, tracer, spec, team, config, 2, file=file, decisions=decisions, measure=measure
        )

    new = Decisions()
    first = chosen(PipelineConfig(), new)
    cached = chosen(PipelineConfig(), Decisions())
    other = asdict(first) | {"layers": ["down"]}
    given = chosen(PipelineConfig(), Decisions({key_of(2, PipelineConfig()): other}))
    by_hand = Decisions()
    own = chosen(PipelineConfig(cut="drop"), by_hand)
    return [new.made, asdict(first), asdict(cached), given.layers, own.layers, by_hand.made, measure.count]


def test_every_worker_has_the_cut_among_its_decisions(tmp_path) -> None:
    first, second = run_ranks(_cuts, 2, (tmp_path,))
    assert first[:-1] == second[:-1]
    made, chosen, cached, given, own, by_hand, count = first
    assert made == {key_of(2, PipelineConfig()): json.loads(json.dumps(chosen))}
    assert chosen == cached
    assert (given, own, by_hand) == (("down",), ("drop",), {})
    assert (count, second[-1]) == (2, 0), (
        "once for the run's own cut, once for the user's; on the first worker"
    )


class Forks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.one(x) + self.two(x)


def _costs(workers: Workers, folder) -> list[Any]:
    team, model = Team(workers, workers, Workers()), Forks()
    tracer, spec, measure = Tracer(model), spec_of(torch.zeros(2, 3, 16, 16)), Counts()
    new = Decisions()
    for decisions in (new, Decisions()):
        agree_on_costs(
            model, tracer, spec, team, file=folder / "costs.json", decisions=decisions, measure=measure
        )
    other = {name: cost | {"seconds": 7.0} for name, cost in new.made["lp"].items()}
    given = agree_on_costs(
        model,
        tracer,
        spec,
        team,
        file=folder / "costs.json",
        decisions=Decisions({"lp": other}),
        measure=measure,
    )
    return [new.made, {cost.seconds for cost in given.values()}, measure.count]


def test_every_worker_has_the_costs_among_its_decisions(tmp_path) -> None:
    first, second = run_ranks(_costs, 2, (tmp_path,))
    assert first[:-1] == second[:-1]
    assert first[0] == {"lp": {n: {"seconds": 1.0, "draws": False} for n in ("one", "two", " add")}}
    assert first[1] == {7.0}, "those of the state count"
    assert (first[2], second[2]) == (1, 0)

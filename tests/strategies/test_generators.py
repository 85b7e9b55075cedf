"""Networks that draw from PyTorch, NumPy and Python: the same numbers under every plan, or a refusal by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as it is called everywhere

from support.verdicts import make_trial, reference_of, verdict_of
from ziggurat.config import override
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.cannot_cut import DrawsNumbers
from ziggurat.parallel.graph.generators import Generators, generators_as_before, key_others, others_as_before
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.step import run_step


class Scaled(nn.Module):
    """Multiplies by what is drawn, in its own forward."""

    def __init__(self, draw: Callable[[], float | Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.draw = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), draw

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.draw())


class DropPath(nn.Module):
    """A layer without layers in it, which draws and chooses."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        drawn = self.draw()
        return x * 0 if drawn < 0.3 else x * (0.5 + drawn)


class Paths(nn.Module):
    """Branches, each with its own draws, and draws after they have met."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 5, padding=2) for _ in range(3))
        self.drops = nn.ModuleList(DropPath(draw) for _ in range(4))
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        parts = [drop(branch(x)) for branch, drop in zip(self.branches, self.drops, strict=False)]
        return self.last(self.drops[-1](torch.stack(parts).sum(0)))


class Skips(nn.Module):
    """Skips blocks of equal size, each by a number: fsdp would gather one worker's block with another's."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.stem, self.draw = nn.Conv2d(3, 8, 3, padding=1), draw
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            if self.draw() < 0.5:
                x = x + block(x)
        return x


def from_numpy() -> float:
    return float(np.random.rand())


def from_python() -> float:
    return random.random()


def from_torch() -> float:
    return float(torch.rand(()))


def as_tensor() -> Tensor:
    return torch.rand((), dtype=torch.float64)


def with_a_key() -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torch.rand((), dtype=torch.float64)


def from_its_own() -> Tensor:
    return torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def built(kind: type[nn.Module], draw: Callable[[], float | Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return kind(draw).double()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("draw", [from_numpy, from_python, from_torch, as_tensor, with_a_key, from_its_own])
def test_whoever_runs_the_network_itself_draws_the_same(draw: Callable[[], float | Tensor]) -> None:
    model, trial = built(Scaled, draw), make_trial()
    reference = reference_of(model, trial)
    for plan in ("dp=2", "sp=2", "fsdp=2"):
        assert verdict_of(model, plan, trial, reference).is_exact, plan


@pytest.mark.parametrize(
    ("draw", "rule"),
    [
        (from_torch, "makes a number of a tensor that it draws"),
        (with_a_key, "keys PyTorch's generator"),
        (from_its_own, "draws from a generator of its own"),
    ],
)
@pytest.mark.parametrize("plan", ["pp=2", "tp=2", "lp=2"])
def test_a_trace_does_not_keep_what_was_drawn(
    draw: Callable[[], float | Tensor], rule: str, plan: str
) -> None:
    verdict = verdict_of(built(Scaled, draw), plan, make_trial())
    assert verdict.word == "refused"
    assert rule in verdict.why
    assert "torch.rand" in verdict.why


@pytest.mark.parametrize("draw", [from_numpy, from_python])
def test_numbers_between_layers_are_those_of_one_worker(draw: Callable[[], float]) -> None:
    verdict = verdict_of(built(Scaled, draw), "pp=2", make_trial(cut="last"))
    assert verdict.is_exact, verdict


class Numbers(nn.Module):
    """Draws between layers in every way: numbers, arrays and choices, before, between and after layers that draw, and after the last call."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw
        self.stem, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 5, padding=2) for _ in range(3))
        self.drops = nn.ModuleList(DropPath(draw) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(self.stem(x * self.draw()), int(4 * self.draw()), 2)
        self.draw()
        parts = [
            drop(branch(x) * self.draw()) for branch, drop in zip(self.branches, self.drops, strict=True)
        ]
        array = torch.as_tensor(np.array([self.draw() for _ in range(8)]), device=x.device)
        self.draw()
        x = F.dropout(torch.stack(parts).sum(0), 0.3) * array.view(1, -1, 1, 1)
        x = self.last(self.drops[0](x)) * (2.0 if self.draw() < 0.5 else 0.5)
        self.draw()
        return x


@pytest.mark.sampled(3)
@pytest.mark.parametrize("draw", [from_numpy, from_python])
@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "recomputed"])
@pytest.mark.parametrize("cut", ["branches.0", "branches.1", "drops.2", "last"])
def test_numbers_in_every_place_are_those_of_one_worker(
    draw: Callable[[], float], schedule: str, cut: str
) -> None:
    trial = make_trial((4, 3, 24, 20), 4, cut=f"{cut},drops.0:2" if schedule == "interleaved" else cut)
    settings = {"pipeline.schedule": "interleaved", "pipeline.cut": f"branches.0,{cut},drops.0:2"}
    if schedule == "recomputed":
        settings = {"pipeline.checkpoint": "stage"}
    if schedule == "interleaved" and cut in ("branches.0", "last"):
        settings["pipeline.cut"] = "branches.1,branches.2,last"
    if schedule != "1f1b":
        trial = replace(trial, config=override(trial.config, settings))
    verdict = verdict_of(built(Numbers, draw), "pp=2", trial)
    assert verdict.is_exact, verdict


@pytest.mark.sampled(2)
@pytest.mark.parametrize("draw", [from_numpy, from_python])
@pytest.mark.parametrize("plan", ["lp=2", "tp=2", "dp=2,pp=2"])
def test_numbers_in_every_place_under_other_plans(draw: Callable[[], float], plan: str) -> None:
    shape = (4, 3, 64, 48) if plan == "lp=2" else (4, 3, 24, 20)
    trial = make_trial(shape, 4, cut="branches.1" if "pp" in plan else "")
    model = built(Numbers, draw)
    if plan == "tp=2":
        model = nn.ModuleDict({"x": Beside(model)})["x"]
    verdict = verdict_of(model, plan, trial)
    assert verdict.is_exact, verdict


class Beside(nn.Module):
    """A network beside a pair of layers that can be split."""

    def __init__(self, other: nn.Module) -> None:
        super().__init__()
        self.other = other
        self.pair = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.other(x) + self.pair(x)


class ChoosesByNumber(nn.Module):
    """Chooses a block by a number that it draws."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw, self.stem = draw, nn.Conv2d(3, 8, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[int(self.draw() < 0.5)](self.stem(x))


class Sees(nn.Module):
    """One call, which multiplies by what lies in its attribute."""

    factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class TellsByAttribute(nn.Module):
    """Writes what it draws into an attribute of a layer."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw, self.stem, self.sees, self.last = draw, nn.Conv2d(3, 8, 1), Sees(), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.sees.factor = self.draw()
        return self.last(self.sees(self.stem(x)))


HIDDEN: dict[str, float] = {}


class TellsByTheWay(nn.Module):
    """Writes what it draws where a layer finds it that nobody has told of it."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw, self.stem, self.last = draw, nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.finds = Finds()

    def forward(self, x: Tensor) -> Tensor:
        HIDDEN["factor"] = self.draw()
        return self.last(self.finds(self.stem(x)))


class Finds(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * HIDDEN["factor"]


@pytest.mark.sampled(11)
@pytest.mark.parametrize("draw", [from_numpy, from_python])
@pytest.mark.parametrize("kind", [ChoosesByNumber, TellsByAttribute, TellsByTheWay])
@pytest.mark.parametrize("plan", ["pp=2", "lp=2", "tp=2"])
def test_numbers_that_are_not_in_calls_are_refused(
    draw: Callable[[], float], kind: type[nn.Module], plan: str
) -> None:
    verdict = verdict_of(built(kind, draw), plan, make_trial())
    assert verdict.word == "refused"
    assert "draws from" in verdict.why
    assert "what it computes depends on it otherwise than by a number in a call" in verdict.why


def test_a_choice_that_was_not_seen_before_is_refused_when_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ziggurat.parallel.graph.trace.OTHER_KEYS", ())
    model = built(ChoosesByNumber, from_numpy)
    spec = spec_of(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    tracer = Tracer(model)
    graph = tracer.trace(spec, allow=("numbers",))
    chosen = {call.layer for call in graph.calls}
    found = []
    for key in range(8):
        try:
            one = tracer.trace_microbatch(
                spec, graph, lambda key=key: np.random.seed(key) or random.seed(key)
            )
        except DrawsNumbers:
            found.append("refused")
        else:
            assert {call.layer for call in one.calls} == chosen
            found.append("the same")
    assert set(found) == {"refused", "the same"}


def test_a_microbatch_that_nobody_keys_has_no_numbers_of_its_own() -> None:
    model = built(Scaled, from_numpy)
    spec = spec_of(torch.zeros(1, 3, 4, 4, dtype=torch.float64))
    graph = Tracer(model).trace(spec, allow=("numbers",))
    before = Generators.now()
    with pytest.raises(DrawsNumbers, match="not keyed"):
        Tracer(model).trace_microbatch(spec, graph, lambda: None)
    assert not Generators.now().changed_since(before).names


def test_a_tensor_that_is_drawn_is_drawn_anew() -> None:
    assert verdict_of(built(Scaled, as_tensor), "pp=2", make_trial(cut="last")).is_exact


@pytest.mark.sampled(6)
@pytest.mark.parametrize("draw", [from_numpy, from_python])
@pytest.mark.parametrize("plan", ["pp=2", "lp=2", "sp=2", "dp=2"])
def test_layers_that_are_called_as_they_are_may_draw_numbers(draw: Callable[[], float], plan: str) -> None:
    shape = (4, 3, 64, 48) if plan == "lp=2" else (4, 3, 24, 20)  # enough work to be placed on two workers
    trial = make_trial(shape, 4, cut="branches.2" if plan == "pp=2" else "")
    verdict = verdict_of(built(Paths, draw), plan, trial)
    assert verdict.is_exact, verdict


def test_there_is_no_number_of_a_tensor_in_a_trace() -> None:
    verdict = verdict_of(built(Paths, from_torch), "pp=2", make_trial(cut="branches.2"))
    assert "the layer 'drops.0' makes a number of a tensor that it draws" in verdict.why


@pytest.mark.parametrize("draw", [from_numpy, from_torch])
@pytest.mark.parametrize("plan", ["dp=2", "sp=2", "fsdp=2"])
def test_layers_may_be_skipped(draw: Callable[[], float], plan: str) -> None:
    assert verdict_of(built(Skips, draw), plan, make_trial((4, 3, 24, 20), 4)).is_exact


class Chooses(nn.Module):
    """Chooses one of two blocks by the values of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Tanh()) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[int(x.mean() > 0)](self.stem(x))


def test_units_that_run_by_values_are_refused_where_workers_differ() -> None:
    """Both blocks have as many weights: without a look, each worker would compute with halves of both."""
    torch.manual_seed(0)
    model, trial = Chooses().double(), make_trial()
    apart = trial.images.abs() * torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None, None, None]
    alike = replace(trial, images=trial.images.abs())
    verdict = verdict_of(model, "fsdp=2", replace(trial, images=apart))
    assert "one ends where another runs 'blocks.0.0'" in verdict.why
    assert "pipeline.unit_bytes" in verdict.why
    assert verdict_of(model, "fsdp=2", alike).is_exact
    one_unit = override(trial.config, {"pipeline.unit_bytes": 1 << 20})
    assert verdict_of(model, "fsdp=2", replace(trial, images=apart, config=one_unit)).is_exact


def test_layers_of_a_sequence_that_skip_are_exact_in_stages_and_shards() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Skips(from_python), nn.Conv2d(8, 4, 1), Skips2()).double()
    trial = make_trial((4, 3, 24, 20), 4, cut="2")
    reference = reference_of(model, trial)
    for plan in ("pp=2", "fsdp=2"):
        assert verdict_of(model, plan, trial, reference).is_exact, plan


class Skips2(nn.Module):
    """Draws after the first of its kind, on a later stage."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + from_python())


def test_a_step_leaves_the_generators_of_others_alone() -> None:
    model, trial = built(Scaled, from_numpy), make_trial()
    before = Generators.now()
    run_step(model, trial, make_mesh(Workers()))
    assert Generators.now().changed_since(before).names == ["PyTorch's generator"]


def test_activations_that_are_computed_again_see_the_same_numbers() -> None:
    trial = make_trial((4, 3, 24, 20), 4, cut="branches.1")
    gpipe = {"pipeline.schedule": "gpipe", "pipeline.checkpoint": "stage"}
    trial = replace(trial, config=override(trial.config, gpipe))
    assert verdict_of(built(Paths, from_numpy), "pp=2", trial).is_exact


def test_generators_are_told_apart_and_come_back() -> None:
    before = Generators.now()
    assert not Generators.now().changed_since(before).names
    with generators_as_before():
        torch.rand(1)
        assert Generators.now().changed_since(before).names == ["PyTorch's generator"]
        np.random.randn()
        random.gauss(0, 1)
        changed = Generators.now().changed_since(before)
        assert changed.names == ["PyTorch's generator", "NumPy's generator", "Python's generator"]
    assert not Generators.now().changed_since(before).names
    changed.set()
    assert not Generators.now().changed_since(changed).names
    before.set()
    with pytest.raises(KeyError), others_as_before():
        raise KeyError(random.random())
    assert not Generators.now().changed_since(before).names


def test_the_keys_of_others_follow_from_pytorchs() -> None:
    def drawn(seed: int) -> tuple[float, float]:
        torch.manual_seed(seed)
        key_others()
        return random.random(), float(np.random.rand())

    with generators_as_before():
        assert drawn(1) == drawn(1) != drawn(2)

"""`ziggurat verify --plan tp=2`: what is split, that it is exact, and that nothing to split is said."""

from __future__ import annotations

import copy
import json
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import FrozenBatchNorm2d

from support.ranks import run_ranks
from ziggurat.cli.main import main
from ziggurat.config import override
from ziggurat.config.records import RunConfig
from ziggurat.models.depthwise import speed_up_depthwise
from ziggurat.models.norm import FrozenBatchNorm
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.tensor import split
from ziggurat.parallel.tensor.operators import TensorAxis
from ziggurat.parallel.tensor.pairs import find_pairs
from ziggurat.strategies.base import Setting
from ziggurat.strategies.mesh import make_mesh
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.placing import Placed, join
from ziggurat.strategies.state import TrainState
from ziggurat.strategies.tensor import Splits
from ziggurat.training.step import Step
from ziggurat.verification.check import check_step
from ziggurat.verification.compare import BOUNDS
from ziggurat.verification.losses import make_objective
from ziggurat.verification.networks import build_network
from ziggurat.verification.step import Trial, Watch, run_step


class Branches(nn.Module):
    """Pairs that may be split, and some that may not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)  # seen by `tower` and by the sum
        self.tower = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.out = nn.Conv2d(12, 8, 1)
        self.tied = nn.Conv2d(8, 8, 1)
        self.also = nn.Conv2d(8, 8, 1)
        self.also.weight = self.tied.weight
        self.grouped = nn.Conv2d(8, 9, 1)  # three groups of norm: two workers do not divide them
        self.norm = nn.GroupNorm(3, 9)
        self.last = nn.Conv2d(9, 4, 1)
        self.hidden = nn.Linear(4, 10)
        self.drop = nn.Dropout(0.5)
        self.odd = nn.Linear(10, 7)
        self.classes = nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):  # called twice
            x = x + self.out(self.tower(x))
        x = self.also(self.tied(x))
        x = self.last(self.norm(self.grouped(x))).mean((2, 3))
        return self.classes(functional.softmax(self.odd(self.drop(functional.gelu(self.hidden(x)))), 1))


def branches() -> nn.Module:
    return Branches()


class Between(nn.Module):
    """Pairs with all kinds of layers and functions between that compute each channel by itself; one is not like that."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.frozen = FrozenBatchNorm(nn.BatchNorm2d(8))
        self.prelu = nn.PReLU(8)
        self.drop = nn.Dropout(0.5)
        self.wide = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        speed_up_depthwise(self)
        self.out = nn.Conv2d(8, 4, 1)
        self.other = nn.Conv2d(4, 8, 1)
        self.norm = FrozenBatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        self.indices = nn.Conv2d(4, 8, 1)
        self.classes = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.prelu(self.frozen(self.stem(x))))
        x = self.out(functional.max_pool2d(self.wide(x), 2, 1))
        x = self.last(functional.interpolate(self.norm(self.other(x)), scale_factor=2))
        x, places = functional.max_pool2d(self.indices(x), 2, return_indices=True)
        return self.classes((x + places * 0).mean((2, 3)))


def between() -> nn.Module:
    return Between()


def pairs_of(model: nn.Module, size: int = 2, min_width: int = 1) -> list[tuple[str, str]]:
    graph = Tracer(model).trace(spec_of(torch.zeros(2, 3, 9, 8)))
    return [(pair.first, pair.second) for pair in find_pairs(graph, model, size, min_width)]


def test_pairs_are_found() -> None:
    model = Branches()
    assert pairs_of(model) == [("tower.0", "out"), ("hidden", "odd"), ("classes", "")]
    assert pairs_of(model, min_width=11) == [("tower.0", "out")]
    assert pairs_of(model, size=5) == [("hidden", "odd")]
    model.out.register_forward_hook(lambda *_: None)  # its owner would see a part
    assert pairs_of(model) == [("hidden", "odd"), ("classes", "")]


@pytest.mark.parametrize(("after", "is_split"), [(nn.Identity, True), (nn.ReLU, False)])
def test_classes_may_pass_through_identities(after: type[nn.Module], is_split: bool) -> None:
    pooling = [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
    model = nn.Sequential(
        *pooling, nn.Linear(4, 6), nn.Sequential(after(), nn.Identity())
    )  # as timm's heads are
    assert (("3", "") in pairs_of(model)) == is_split


def test_pairs_with_much_between_are_found() -> None:
    model = Between()
    assert pairs_of(model) == [("stem", "out"), ("other", "last"), ("classes", "")]
    model.frozen.weight = model.norm.weight  # the second reads what the first has
    assert pairs_of(model) == [("out", "other"), ("last", "indices"), ("classes", "")]


def check_plan(name: str, plan: str, world: int, count: int, **settings: Any) -> Any:
    config = override(RunConfig(), {"model.name": name, **settings})
    torch.manual_seed(0)
    model = build_network(name, config.model).double()
    trial = Trial(torch.randn(5, 3, 61, 64, dtype=torch.float64), num_microbatches=count, config=config)
    reference = run_step(copy.deepcopy(model), trial, make_mesh(Workers()))
    checks = run_ranks(check_step, world, (plan, model, trial, reference))
    assert len({repr(check.errors) for check in checks}) == 1, "all workers have the same verdict"
    errors = checks[0].errors
    assert errors.largest <= BOUNDS[torch.float64], errors
    return checks[0]


SMALL = {"model.channels": 32, "model.head_depth": 2, "model.levels": "p3-p5", "tensor.min_width": 32}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "settings", "split"),
    [
        ("test_verify_tensor:branches", {"tensor.min_width": 6}, "tower.0"),
        ("test_verify_tensor:between", {"tensor.min_width": 6}, "stem"),
        ("timm:resnet10t", {"tensor.min_width": 64, "model.norm": "frozen"}, "body.layer1.0.conv1"),
        ("fcos-resnet10t-fpn", SMALL, "head"),
        ("retinanet-resnet10t-fpn", SMALL, "head"),
        ("pnn", {"tensor.min_width": 4}, ""),
        ("timm:mobilenetv2_050", {"tensor.min_width": 48}, "conv_pw"),
    ],
)
def test_exact(name: str, settings: dict[str, Any], split: str) -> None:
    for plan, world, count in (("tp=2", 2, 1), ("dp=2,tp=2", 4, 2)):
        check = check_plan(name, plan, world, count, **settings)
        splits = check.facts["splits"]
        assert any(split in one["first"] for one in splits), splits
        assert all(one["worker_bytes"] < one["whole_bytes"] for one in splits)


def _wrong_without_sum(workers: Workers, model: nn.Module, x: Tensor) -> float:
    whole = model(x)
    mesh = make_mesh(workers, "tp=2")
    config = override(RunConfig(), {"tensor.min_width": 4})
    (splits,) = join(model, mesh, Setting(spec_of(x), config, 1, nullcontext))
    assert isinstance(splits, Splits)
    Placed([model], mesh, [splits])
    splits.tensor_axis.sum = lambda part, *_: part  # type: ignore[method-assign]
    return float((model(x) - whole).detach().abs().max())


def test_without_the_sum_it_is_wrong() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).double()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    assert min(run_ranks(_wrong_without_sum, 2, (model, x))) > 1e-3


def test_command(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", "test_verify_tensor:branches", "--input", "2x3x9x8", "--plan", "tp=2"]
    assert main([*arguments, "--set", "tensor.min_width=10", "--json"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert [(split["first"], split["second"]) for split in result["splits"]] == [
        ("tower.0", "out"),
        ("hidden", "odd"),
    ]
    assert result["communication_bytes"] > 0
    assert main(arguments) == 2
    assert "would leave every worker the whole of test_verify_tensor:branches" in capfd.readouterr().err


def _no_join(tensor: Tensor, axis: TensorAxis, dim: int) -> Tensor:
    raise AssertionError("the loss gathers the logits")


def _loss_of_classes(workers: Workers, model: nn.Module, trial: Trial) -> dict[str, Any]:
    """Take a step whose outputs are not looked at: only the loss is."""
    if workers.size > 1:
        split.join = _no_join  # in this process alone
    mesh = make_mesh(workers, f"tp={workers.size}")
    pieces = trial.pieces()
    state = TrainState.start(model, torch.optim.SGD(model.parameters(), lr=0.0))
    objective = make_objective(model, trial.images.shape, pieces, trial.config, 0, mesh)
    setting = Setting(spec_of(trial.images), trial.config, 1, nullcontext)
    parallel = Parallel(state, mesh, setting)
    result = Step(parallel, objective, Watch(trial, objective, mesh))(pieces, 1)
    gradients = dict(parallel.layout.gather(parallel.gradients()))
    return {"loss": result.terms, **gradients}


def test_the_loss_of_a_classifier_gathers_no_logits() -> None:
    config = override(RunConfig(), {"model.name": "pnn", "tensor.min_width": 4, "loss.smoothing": 0.1})
    torch.manual_seed(0)
    model = build_network("pnn", config.model).double().train()
    trial = Trial(torch.randn(5, 3, 61, 64, dtype=torch.float64), config=config)
    (whole,) = run_ranks(_loss_of_classes, 1, (copy.deepcopy(model), trial))
    found, _ = run_ranks(_loss_of_classes, 2, (model, trial))
    assert found.keys() == whole.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-11, msg=name)

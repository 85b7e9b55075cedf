"""`ziggurat verify`: what it proves, what it refuses, and what it says."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from ziggurat.cli.main import main
from ziggurat.errors import UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.progress import Stages
from ziggurat.strategies.mesh import make_mesh
from ziggurat.verification.compare import compare_steps, relative_error
from ziggurat.verification.handing import hand_out
from ziggurat.verification.losses import RandomWeighting, tensors_of
from ziggurat.verification.memory import PeakBytes
from ziggurat.verification.networks import build_network, check_name, torchvision_names
from ziggurat.verification.request import read_request
from ziggurat.verification.step import Outcome, Seen, Trial, run_step
from ziggurat.verification.verify import verify_on_worker

FIELDS = {
    "ok", "plan", "loss_error", "output_error", "gradient_error", "worst_parameter", "input_error", "buffer_error",
    "norm_error", "state_error", "worst_state", "single", "workers", "communication_bytes", "exchange", "gathers", "unsupported",
}  # fmt: skip


def run_verify(capfd: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["verify", *arguments, "--json"])
    return status, json.loads(capfd.readouterr().out.splitlines()[-1])


class Noted(Stages):
    """Keeps the stages."""

    def __init__(self, what: str, active: bool) -> None:
        super().__init__(what, active)
        self.begun: list[str] = []

    def __call__(self, stage: str) -> None:
        self.begun.append(stage)


def stages_of(workers: Workers, name: str) -> tuple[bool, list[tuple[str, bool, list[str]]]]:
    made: list[Noted] = []

    def progress(what: str, active: bool) -> Stages:
        made.append(Noted(what, active))
        return made[-1]

    request = read_request(f"support.verify_networks:{name}", "1x3x8x8", "sp=2", "fp64", {}, None)
    result = verify_on_worker(workers, request, progress)
    return result["ok"], [(one.what, one.active, one.begun) for one in made]


@pytest.mark.parametrize(
    ("name", "more"),
    [("noisy", []), ("cheat", ["the step on one worker, rounded otherwise"])],
)
def test_every_stage_is_said(name: str, more: list[str]) -> None:
    """A stage is one call that may take minutes; `tests/runs/test_progress.py` says how it is said."""
    first, second = run_ranks(stages_of, 2, (name,))
    begun = ["the step on one worker", "the same step again", "the step under sp=2", *more]
    what = f"verify support.verify_networks:{name}"
    assert first == (not more, [(what, True, begun)])
    assert second[1][0][1] is False


def test_quiet_says_the_result_alone(capfd: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "support.verify_networks:noisy", "--input", "1x3x8x8", "--quiet"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "ok: all errors are within" in out
    assert err == ""


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("name", "shape", "plan"),
    [
        ("timm:mobilenetv3_small_050", "2x3x67x96", "sp=2"),
        ("torchvision:squeezenet1_1", "1x3x64x67", "sp=2x2"),
        ("pnn", "2x3x61x40", "sp=3"),
        ("support.verify_networks:noisy", "2x3x21x16", "sp=1x2"),
        ("support.verify_networks:volumes", "1x2x9x10x8", "sp=2x2"),
        ("support.verify_networks:volumes", "1x2x3x10x8", "sp=2x2"),
        ("support.verify_networks:noisy", "4x3x21x16", "dp=2"),
        ("support.verify_networks:noisy", "4x3x21x16", "dp=2,sp=2"),
        ("support.verify_networks:noisy", "5x3x21x16", "pp=3"),
        ("support.verify_networks:noisy", "4x3x21x16", "dp=2,pp=2"),
        ("support.verify_networks:noisy", "4x3x21x16", "sp=2,pp=2"),
    ],
)
def test_ok(capfd: pytest.CaptureFixture[str], name: str, shape: str, plan: str) -> None:
    status, result = run_verify(capfd, name, "--input", shape, "--plan", plan)
    assert status == 0
    assert result["ok"]
    assert set(result) >= FIELDS
    assert result["unsupported"] == []
    errors = [
        result[f"{of}_error"] for of in ("loss", "output", "gradient", "input", "buffer", "norm", "state")
    ]
    assert max(errors) <= 1e-10
    assert result["world_size"] == math.prod(int(n) for n in re.findall("[0-9]+", plan))
    for cost in (result["single"], result["workers"]):
        assert cost["step_seconds"] > 0
        assert cost["peak_bytes"] > 0
    assert (
        (result["communication_bytes"] is None) == plan.startswith("dp") == (result["exchange"] is not None)
    )


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("fcos-test_resnet-fpn", "sp=2"),
        ("atss-test_resnet-bifpn", "dp=2,sp=2"),
        ("spp-test_resnet", "sp=3"),
    ],
)
def test_a_task_of_ours_has_its_own_loss(capfd: pytest.CaptureFixture[str], name: str, plan: str) -> None:
    small = ["--set", "model.channels=32", "--set", "model.head_depth=1", "--set", "model.levels=p3-p5"]
    small = [] if name.startswith("spp") else small  # a classifier has no levels
    status, result = run_verify(capfd, name, "--input", "2x3x67x64", "--plan", plan, *small)
    assert (status, result["ok"]) == (0, True), result


def test_fp32(capfd: pytest.CaptureFixture[str]) -> None:
    status, result = run_verify(
        capfd, "support.verify_networks:noisy", "--input", "2x3x24x24", "--dtype", "fp32"
    )
    assert status == 0
    assert 1e-10 < result["gradient_error"] <= result["bound"] == 1e-4


def test_what_cannot_run_on_bands_is_listed(capfd: pytest.CaptureFixture[str]) -> None:
    status, result = run_verify(capfd, "support.verify_networks:custom", "--input", "1x3x16x16")
    assert status == 1
    assert not result["ok"]
    assert result["gradient_error"] is None
    (one,) = result["unsupported"]
    assert "Doubled" in one["operation"]
    assert "declare" in one["remedy"]


def test_a_broken_bound_names_the_worst_parameter(capfd: pytest.CaptureFixture[str]) -> None:
    status, result = run_verify(capfd, "support.verify_networks:cheat", "--input", "1x3x16x16")
    assert status == 1
    assert not result["ok"]
    assert result["worst_parameter"] in ("first.weight", "first.bias", "last.weight", "last.bias")
    assert 1e-4 < result["gradient_error"] < 1e-2
    assert 0 < result["rounding_error"] < 1e-14  # it is the plan's error
    assert result["verdict"] == "wrong"
    assert main(["verify", "support.verify_networks:cheat", "--input", "1x3x16x16"]) == 1
    text = capfd.readouterr().out
    assert "BROKEN" in text
    assert f"the worst parameter is {result['worst_parameter']}" in text


def test_an_error_of_rounding_is_told_from_one_of_the_plan(capfd: pytest.CaptureFixture[str]) -> None:
    """A batch norm over nearly equal values divides by what is left of them: no plan is to blame."""
    status, result = run_verify(capfd, "support.verify_networks:amplifier", "--input", "2x3x16x16")
    assert (status, result["ok"]) == (1, False)
    assert result["gradient_error"] < 10 * result["rounding_error"]
    assert result["verdict"] in ("rounding", "unclear"), result["why"]
    assert main(["verify", "support.verify_networks:amplifier", "--input", "2x3x16x16"]) == 1
    assert "give more images or larger ones" in capfd.readouterr().out


def test_what_is_not_the_same_twice_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    status, result = run_verify(capfd, "support.verify_networks:forgetful", "--input", "1x3x16x16")
    assert (status, result["ok"], result["verdict"]) == (1, False, "nondeterministic")
    assert "output 0 of microbatch 0" in [one["tensor"] for one in result["nondeterministic"]]
    assert max(one["error"] for one in result["nondeterministic"]) > 0.5
    assert "one worker repeats the step" in result["why"]
    status, result = run_verify(capfd, "support.verify_networks:noisy", "--input", "1x3x16x16")
    assert (status, result["verdict"], result["why"], result["nondeterministic"]) == (0, "exact", "", [])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("stuck_alone", r"worker 0 .* in reference"),
        ("stuck_when_cut", r"worker [01] .* in step under the plan"),
    ],
)
def test_a_step_has_a_time_limit(capfd: pytest.CaptureFixture[str], name: str, what: str) -> None:
    arguments = ["--input", "1x3x16x16", "--limit", "2"]
    assert main(["verify", f"support.verify_networks:{name}", *arguments]) == 1
    told = capfd.readouterr().err
    assert re.search(rf"{what}, layer .*; its stack:", told), told
    assert "more than the 2 s" in told


def test_the_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "support.verify_networks:noisy", "--input", "2x3x21x16"]) == 0
    text = capfd.readouterr().out
    for word in (
        "loss",
        "outputs",
        "gradients",
        "input's gradient",
        "buffers",
        "gradient's norm",
        "state after",
        "1 worker",
        "2 workers",
        "ok",
    ):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["timm:resnt18"], "did you mean 'resnet18'?"),
        (["resnet18"], "did you mean 'timm:resnet18'?"),
        (["fcn_resnet50"], "did you mean 'torchvision:fcn_resnet50'?"),
        (["fcos-resnet50-fpm"], "did you mean 'fpn'?"),
        (["fkos-resnet50-fpn"], "did you mean 'fcos-resnet50-fpn'?"),
        (["smp:unett/resnet18"], "did you mean 'unet'?"),
        (["torchvision:resnet19"], "did you mean 'resnet1"),
        (["no_such_module:function"], "cannot import 'no_such_module'"),
        (["support.verify_networks:costum"], "did you mean 'custom'?"),
        (["support.verify_networks:no_network"], "must return an nn.Module: got int"),
        (["support.verify_networks:broken"], "raised KeyError"),
        (["timm:resnet18", "--input", "nonsense"], "--input must be BxCxHxW"),
        (["timm:resnet18", "--input", "2x3x0x8"], "--input must be BxCxHxW"),
        (["timm:resnet18", "--plan", "sp=1"], "a plan of two workers at least"),
        (["timm:resnet18", "--plan", "sp=2x2x2"], "the degree of sp must be"),
        (["timm:resnet18", "--plan", "xp=2"], "unknown axis 'xp'"),
        (["timm:resnet18", "--plan", "sp=2x2", "--input", "2x3x64"], "cuts 2 spatial dims"),
        (["timm:resnet18", "--plan", "dp=2", "--input", "3x3x64x64"], "the batch must be a multiple of dp"),
        (["timm:resnet18", "--dtype", "fp8"], "--dtype must be one of fp64, fp32"),
        (["timm:resnet18", "--set", "model.nrom=group"], "did you mean 'model.norm'?"),
        (["timm:resnet18", "--input", "1x3x8x8"], "a batch norm in training needs more than one value"),
        (["support.verify_networks:noisy", "--input", "1x4x8x8"], "on one worker either"),
    ],
)  # fmt: skip
def test_wrong_input(capfd: pytest.CaptureFixture[str], arguments: list[str], remedy: str) -> None:
    assert main(["verify", *arguments]) == 2
    captured = capfd.readouterr()
    assert remedy in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_all_faults_at_once() -> None:
    with pytest.raises(UserError, match="4 faults"):
        read_request("timm:resnt18", "3", "tq=2", "fp8", {})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pnn", {"checkpoint.keep": 3}, r"checkpoint\.keep has no effect in `ziggurat verify`"),
        ("pnn", {"train.epochs": 3}, r"it is a setting of train and demo"),
        (
            "pnn",
            {"plan.cut": "trunk"},
            r"plan\.cut has no effect under the plan sp=2: it is for plans with pp",
        ),
        (
            "pnn",
            {"loss.box_weight": 2},
            r"loss\.box_weight has no effect on a run to classify: it is for detect",
        ),
        ("pnn", {"model.levels": "p3-p4"}, r"model\.levels has no effect on pnn"),
        ("timm:resnet18", {"loss.smoothing": 0.1}, r"loss\.smoothing has no effect on timm:resnet18"),
        (
            "torchvision:resnet18",
            {"model.norm": "group"},
            r"model\.norm has no effect on torchvision:resnet18",
        ),
        ("pnn", {"train.lr": 1e9}, r"train\.lr must be from 1e-12 to 1000: got 1000000000\.0"),
    ],
)
def test_settings_without_effect_and_out_of_range_are_refused(
    name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_request(name, "2x3x8x8", "sp=2", "fp64", settings)


def test_the_current_directory_is_importable(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "my_networks.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Conv2d(3, 4, 3)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    status, result = run_verify(capfd, "my_networks:make", "--input", "1x3x12x12")
    assert (status, result["ok"]) == (0, True)


def test_detectors_of_torchvision_are_dense() -> None:
    names = torchvision_names()
    assert {"resnet50_fpn", "fcos_resnet50_fpn", "maskrcnn_resnet50_fpn", "lraspp_mobilenet_v3_large"} <= set(
        names
    )
    check_name("torchvision:ssdlite320_mobilenet_v3_large")
    model = build_network(
        "torchvision:fasterrcnn_mobilenet_v3_large_fpn",
        read_request("pnn", "1x3x8x8", "sp=2", "fp64", {}).config,
    )
    outputs = list(tensors_of(model.eval()(torch.zeros(1, 3, 64, 64))))
    assert outputs[0].shape == (1, 15, 2, 2)


SMALL = ["--set", "model.channels=8", "--set", "model.head_depth=1"]


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
def test_stages(capfd: pytest.CaptureFixture[str], schedule: str) -> None:
    arguments = ["--input", "7x3x64x64", "--plan", "pp=2", "--microbatches", "4", *SMALL]
    status, result = run_verify(
        capfd, "fcos-test_resnet-fpn", *arguments, "--set", f"plan.schedule={schedule}"
    )
    assert status == 0
    assert (result["microbatches"], result["schedule"]) == (4, schedule)
    assert [stage["worker"] for stage in result["stages"]] == [0, 1, 0, 1][
        : 4 if schedule == "interleaved" else 2
    ]
    assert all(stage["seconds"] > 0 and stage["kept_bytes"] > 0 for stage in result["stages"])
    assert all(stage["crossing_bytes"] > 0 for stage in result["stages"][1:])
    assert result["communication_bytes"] > 0


def test_a_cut_by_hand_through_a_head_that_all_levels_share(capfd: pytest.CaptureFixture[str]) -> None:
    model = build_network(
        "fcos-test_resnet-fpn",
        read_request("fcos-test_resnet-fpn", "1x3x8x8", "pp=3", "fp64", {}).config.model,
    )
    layer = next(name for name, _ in model.named_modules() if name.startswith("head.") and "classes" in name)
    arguments = ["--input", "4x3x64x64", *SMALL, "--set", f"plan.cut=neck,{layer}:3"]
    status, result = run_verify(capfd, "fcos-test_resnet-fpn", "--plan", "pp=3", *arguments)
    assert status == 0
    assert [stage["name"] for stage in result["stages"]] == ["", "neck", f"{layer}:3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "plan.cut=1,2"], "have 2 stages: got 2 (1,2); name 1, or leave plan.cut out"),
        (["--set", "plan.cut=7"], "plan.cut names '7', which is not called"),
        (["--microbatches", "9"], "as the images at most: got 9 for pp=2 and 4 images"),
    ],
)
def test_wrong_stages(capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert (
        main(["verify", "support.verify_networks:noisy", "--input", "4x3x8x8", "--plan", "pp=2", *arguments])
        == 2
    )
    assert message in capfd.readouterr().err


def test_errors_are_relative() -> None:
    reference = torch.tensor([0.0, -2.0], dtype=torch.float64)
    assert relative_error(torch.tensor([0.5, -2.0]), reference) == 0.25
    assert relative_error(torch.tensor([0.0, math.nan]), reference) > 1e300
    assert relative_error(torch.zeros(3), reference) > 1e300
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.ones(2), torch.zeros(2)) > 1e300


def test_a_loss_that_cancels_has_the_scale_of_its_terms() -> None:
    outputs = [torch.tensor([3.0, -3.0]), torch.tensor([4.0])]
    assert RandomWeighting(0).typical_size(outputs) == 5
    gradient = torch.ones(1)
    step, alone = (
        Outcome({0: Seen(outputs, gradient, typical)}, torch.tensor([loss]), torch.ones(()), {}, {}, {})
        for typical, loss in ((0.0, 5e-6), (5.0, 1e-8))
    )
    assert 0.5e-6 < compare_steps(step, alone).loss < 2e-6


def test_a_missing_gradient_is_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).double()
    images = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    mesh = make_mesh(Workers())
    step = run_step(model, Trial(images), mesh)
    assert compare_steps(step, step).largest == 0
    model[0].requires_grad_(False)
    errors = compare_steps(run_step(model, Trial(images), mesh), step)
    assert errors.gradient == 1
    assert errors.worst_parameter.startswith("0.")


def hand_out_views(workers: Workers) -> tuple[bool, int]:
    bucket = torch.arange(1000, dtype=torch.float64)
    given = (
        {"columns": (bucket.view(10, 100).t(),), "one": bucket[7:8], "word": "state"}
        if workers.is_first
        else None
    )
    before = workers.sent.bytes
    got = hand_out(workers, given)
    (columns,) = got["columns"]
    equal = (
        torch.equal(columns, bucket.view(10, 100).t())
        and got["one"].tolist() == [7]
        and got["word"] == "state"
    )
    return equal, workers.sent.bytes - before


def test_what_is_handed_out_is_each_tensor_once() -> None:
    """Gradients are views of large buckets; pickled one by one, each would take its whole bucket along."""
    assert run_ranks(hand_out_views, 3) == [
        (True, pytest.approx(2 * 1001 * 8, rel=0.1)),
        (True, 0),
        (True, 0),
    ]


def test_float64_stays() -> None:
    class Safe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.float() * 3).softmax(1, dtype=torch.float32).to(torch.float32)

    step = run_step(Safe(), Trial(torch.rand(1, 3, 4, 4, dtype=torch.float64)), make_mesh(Workers()))
    assert step.seen[0].outputs[0].dtype == torch.float64


def test_tensors_of_records() -> None:
    one, two = torch.zeros(1), torch.ones(2)
    assert [len(t) for t in tensors_of({"a": (one, [two]), "b": None, "c": 3})] == [1, 2]


def test_peak_counts_storages_once() -> None:
    start = torch.zeros(100, dtype=torch.float64)
    with PeakBytes([start]) as memory:
        view = start[:50]
        assert memory.now == 800
        other = view + 1
        assert memory.now == 1200
        del other
        assert (memory.now, memory.peak) == (800, 1200)


def test_peak_sees_what_autograd_keeps() -> None:
    weight = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    with PeakBytes([weight]) as memory:
        result = weight.exp().exp().sum()
        assert memory.now == 3 * 8000 + 8  # the weight, and the two results that backward needs
        result.backward()
        del result
    assert memory.now == 2 * 8000  # the weight and its gradient

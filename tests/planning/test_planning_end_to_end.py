"""`ziggurat plan` and ``--plan auto`` as a user types them: a small network, recorded, priced and simulated on this machine."""

import json
import os

import pytest
import torch

from support.commands import TINY
from ziggurat.cli.main import main
from ziggurat.config import load_config
from ziggurat.planning.calibration import key_of, links_to_json
from ziggurat.planning.network import Link, Links
from ziggurat.strategies.plan import parse_plan
from ziggurat.system.platform import processor_name

MODEL = "timm:test_resnet"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep what is measured out of the user's own folder; messages cost what they cost here already."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "cache" / "ziggurat" / "kernels.json"
    file.parent.mkdir(parents=True)
    links = Links({"machine": Link(1e-4, 1e-9)})
    overheads = f"overheads of calls on one worker of {processor_name()}, torch {torch.__version__}"
    file.write_text(
        json.dumps({key_of(2, processor_name()): links_to_json(links), overheads: [5e-6, 1e-4, 0]})
    )
    return file


@pytest.fixture(autouse=True)
def two_cores():
    """Let a machine of many cores be one of two."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:2])
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.sampled(0)
def test_plan_tells_costs_and_why_not(capfd, cache, tmp_path):
    timeline = tmp_path / "step.json"
    words = [
        "plan",
        MODEL,
        "--workers",
        "2",
        "--input",
        "4x3x32x32",
        "--threads",
        "1",
        "--seconds",
        "1",
        "--json",
    ]
    assert main([*words, "--timeline", str(timeline), "--set", "device=cpu", "dtype=fp32"]) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    (best, *_) = result["plans"]
    assert best["plan"] == "dp=2"  # of equal bounds the first
    assert 0 < best["step_seconds"] < 60
    assert best["images_per_second"] == pytest.approx(4 / best["step_seconds"])
    assert 1e5 < best["peak_bytes"] < 1e9
    assert best["communication_bytes"] > 0
    assert 0 <= best["idle"] < 1
    assert 0 <= best["guessed"] < 1
    assert result["beside_kernels"] == {
        "call_seconds": 5e-6, "message_seconds": 1e-4, "step_seconds": 0.0, "measured": True
    }  # fmt: skip
    looked_at = len(result["plans"]) + len(
        [row for row in result["refused"] if row["plan"] in ("tp=2", "lp=2")]
    )
    assert looked_at + len(result["left"]) == 9  # pp in three schedules
    assert json.loads(timeline.read_text())["traceEvents"]
    assert "kernels of" in cache.read_text()


def test_a_run_takes_the_plan_that_is_found(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("ziggurat.commands.auto.SECONDS", 1.0)
    out = tmp_path / "run"
    words = [word for word in TINY if word != "--json"]
    assert main(["train", "digits", "--plan", "auto", "--out", str(out), "--steps", "1", *words]) == 0
    config = load_config(out / "config.yaml")
    assert parse_plan(config.plan).num_workers >= 1
    assert "--plan auto: " in capfd.readouterr().err


def test_wrong_input_is_one_message(capfd):
    assert main(["plan", "fcos-resnet18-fpnn", "--workers", "0", "--memory", "x"]) == 2
    said = capfd.readouterr().err
    assert said.startswith("ziggurat: ")
    assert "--workers must be" in said
    assert "--memory must be" in said
    assert main(["verify", MODEL, "--plan", "auto:quick"]) == 2
    assert "auto or auto:measured" in capfd.readouterr().err


def test_torchrun_is_told_to_plan_before(monkeypatch, capfd, tmp_path):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(key, value)
    assert main(["train", "digits", "--plan", "auto", "--out", str(tmp_path / "x")]) == 2
    assert "under torchrun run `ziggurat plan` first" in capfd.readouterr().err

"""``make gpu`` in a form of seconds on the CPU: it must be whole when a GPU is at hand."""

import contextlib
import io
import json

import pytest
from safetensors.numpy import save_file

from gpu.main import PARTS, QUICK_TASKS, VERIFIED, Walk, main, make_report, speed
from support.commands import run_here


def test_the_walk_is_well_on_the_cpu(tmp_path):
    said = []
    walk = Walk("cpu", True, tmp_path, run_here)
    report = make_report(walk, lambda seconds: speed("cpu", True), limit=3600, say=said.append)
    assert report["ok"], said
    kinds = {name.split(":")[0] for name in report["checks"]}
    assert kinds == {"numbers", "repeat", "two", "parts", "verify", "resume", "bf16"}
    assert len(said) == len(report["checks"]) == 4 * len(QUICK_TASKS) + len(PARTS) + len(VERIFIED) + 1
    assert report["checks"]["parts: detect under sp=2"]["loss"] > 0, "bands round in a way of their own"
    assert report["speed"]["fcos"]["images_per_second"].keys() == {
        "torchvision fp32", "torchvision bf16", "ziggurat fp32", "ziggurat bf16",
    }  # fmt: skip


def fake_command(*words, faults=""):
    """Answer as `verify` does; or leave what a run leaves, of which the second run on the device ends in other bits."""
    if words[0] == "verify":
        return {"ok": True, "device": "cuda", "loss_error": 0.0}
    out = words[words.index("--out") + 1]
    out.mkdir()
    drift = 1e-2 if out.name.endswith("again") else 0.0
    lines = [{"kind": "train", "loss": 2.0 + drift, "gradient_norm": 1.0} for _ in range(4)]
    (out / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    save_file({}, out / "weights.safetensors")
    if out.name.endswith("sp=2"):
        raise RuntimeError("it crashes")
    return {"weights_sha256": str(drift), "metrics": {}}


def test_what_is_wrong_is_said_and_the_walk_goes_on(tmp_path):
    def measure(seconds):
        raise RuntimeError("no memory is left")

    report = make_report(
        Walk("cpu", False, tmp_path, fake_command), measure, limit=3600, say=lambda line: None
    )
    assert not report["ok"]
    wrong = {name: found for name, found in report["checks"].items() if not found["ok"]}
    assert wrong.keys() >= {"repeat: detect", "parts: detect under sp=2"}
    assert wrong["repeat: detect"]["loss"] == pytest.approx(5e-3)
    assert wrong["parts: detect under sp=2"]["why"] == "it crashes"
    assert report["checks"]["bf16: segment"]["ok"]
    assert report["speed"] == {"why": "no memory is left"}


def test_what_no_time_is_left_for_is_said(tmp_path):
    report = make_report(
        Walk("cpu", True, tmp_path, fake_command), lambda s: {}, limit=0, say=lambda line: None
    )
    assert {found["why"] for found in report["checks"].values()} == {"no time was left"}
    assert not report["ok"]


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main([]) == 2
    assert "needs a GPU" in text.getvalue()

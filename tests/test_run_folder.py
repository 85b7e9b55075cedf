"""docs/run-folder.md names every file of a run's folder and every field of its results, and nothing that is not there."""

import fnmatch
import json
import re
from pathlib import Path

import pytest

from support.commands import TINY, noise_images, run_here, sets
from support.pages import ROOT

PAGE = ROOT / "docs" / "run-folder.md"
SHORT = [
    "--threads", "1", "--batch-size", "4", "--steps", "2", "--set", "train.warmup=0", "--set", "train.report=numbers",
    *sets({"data.crop": 64, "data.workers": 0, "device": "cpu", "digits.size": 64, "digits.height_max": 40}),
    *sets({"digits.train_scenes": 8, "digits.val_scenes": 3}),
]  # fmt: skip
TASKS = {
    "detect": [*TINY, "--set", "train.evaluate_every=1", "--set", "train.checkpoint_every=1"],
    "classify": [*SHORT, "--task", "classify", "--model", "pnn", *sets({"model.pnn.channels": 4, "data.resize": 64, "data.count_classes": "always"})],
    "segment": [
        *SHORT, "--task", "segment", "--model", "smp:unet/tu-test_resnet", "--set", "loss.segmentation=focal+dice", "--set", "data.count_classes=always",
    ],
}  # fmt: skip
ONLY_SOMETIMES = {
    "skipped.jsonl",
    "torchrun-id",
    "loss_ce",
    "report/blocks.png",
    "report/regions.csv",
    "report/workers.md",
    *(f"{name}_{group}" for name in ("map", "map50") for group in ("rare", "common", "frequent")),
    "plan",
}  # said on the page: when


def tables():
    """Return for each heading of the page what stands in code marks in the first column of its tables, and in all of it."""
    found, words, heading = {}, {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:].replace("`", "")
        elif line.startswith("| `"):
            found.setdefault(heading, []).extend(re.findall(r"`([^`]+)`", line.split(" | ")[0]))
            words.setdefault(heading, set()).update(re.findall(r"`([^`]+)`", line))
    return found, words


NAMED, WORDS = tables()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return of a run of each task its folder, what training says, and what an evaluation says."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    (image,) = noise_images(folder, count=1)
    for task, words in TASKS.items():
        out = folder / task
        trained = run_here("train", "digits", *words, "--out", out)
        found[task] = (out, trained, run_here("evaluate", out, "digits", "--threads", 1))
        run_here("predict", out, image, "--threads", 1)
    return found


def read_lines(out):
    return (out / "metrics.jsonl").read_text().splitlines()


def same(named, real):
    """All that is real is named, and all that is named is real."""
    assert set(real) - set(named) == set(), "not on the page"
    assert set(named) - set(real) <= ONLY_SOMETIMES, "on the page, and nowhere else"


def test_every_file(runs):
    files = {
        str(file.relative_to(out)) for out, _, _ in runs.values() for file in out.rglob("*") if file.is_file()
    }
    patterns = NAMED["Files"]
    unnamed = [file for file in files if not any(fnmatch.fnmatch(file, pattern) for pattern in patterns)]
    assert unnamed == []
    unused = {pattern for pattern in patterns if not fnmatch.filter(files, pattern)}
    assert unused <= ONLY_SOMETIMES


@pytest.mark.parametrize(
    "name", ["classes.json", "class_counts.json", "environment.json", "report/metrics.json"]
)
def test_every_field_of_a_json_file(runs, name):
    files = [out / name for out, _, _ in runs.values() if (out / name).is_file()]
    real = {key for file in files for key in json.loads(file.read_text())}
    same(NAMED[name], real)


def test_every_field_of_a_manifest(runs):
    contents = [
        json.loads(file.read_text()) for out, _, _ in runs.values() for file in out.rglob("manifest.json")
    ]
    assert contents
    same(NAMED["manifest.json"], {key for content in contents for key in content})
    inner = {key for content in contents for key in content["manifest"]}
    inner |= {key for content in contents for file in content["manifest"]["files"].values() for key in file}
    assert inner <= WORDS["manifest.json"]


def test_every_field_of_the_report(runs):
    for out, _, _ in runs.values():
        content = json.loads((out / "report" / "metrics.json").read_text())
        nested = [*content["classes"].values(), *content["confused"], *content["best"], *content["worst"]]
        nested += [content.get(key) or {} for key in ("best_score", "counts")]
        nested += [one.get("best_score") or {} for one in content["classes"].values()]
        assert {key for part in nested for key in part} <= WORDS["report/metrics.json"]


def test_every_number_of_a_step(runs):
    rows = [json.loads(line) for out, _, _ in runs.values() for line in read_lines(out)]
    same(NAMED["metrics.jsonl"], {key for row in rows if row["kind"] == "train" for key in row})
    metrics = {key for row in rows if row["kind"] == "val" for key in row} - {"kind", "step"}
    same(set(NAMED["Metrics"]) - {"top5"}, metrics - {"top5"})


def test_every_field_of_a_command(runs):
    same(NAMED["What train --json says"], {key for _, trained, _ in runs.values() for key in trained})
    same(NAMED["What evaluate --json says"], {key for _, _, evaluated in runs.values() for key in evaluated})


def test_three_files_are_a_run(runs, tmp_path):
    out, _, evaluated = runs["detect"]
    for name in ("weights.safetensors", "config.yaml", "classes.json"):
        (tmp_path / name).write_bytes((Path(out) / name).read_bytes())
    assert run_here("evaluate", tmp_path, "digits", "--threads", 1)["metrics"] == evaluated["metrics"]

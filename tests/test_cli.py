"""The commands as a user types them: good runs, and bad input answered with exit status 2 and one message."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from support.commands import TINY
from ziggurat.cli.main import main
from ziggurat.strategies.parallel import Parallel


def run(capfd, *arguments):
    """Return exit status, the JSON object of the last line of standard output, and standard error."""
    status = main([str(argument) for argument in arguments])
    output = capfd.readouterr()
    lines = output.out.strip().splitlines()
    print(output.err, file=sys.stderr)
    return status, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None, output.err


def write_coco(folder, split, files, size=(64, 64)):
    """Write images and a COCO file with one box each."""
    images, annotations = [], []
    (folder / split).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(files, start=1):
        pixels = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / split / name)
        images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
        box = {
            "id": number,
            "image_id": number,
            "category_id": 1,
            "bbox": [8, 8, 30, 30],
            "area": 900,
            "iscrowd": 0,
        }
        annotations.append(box)
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (folder / f"{split}.json").write_text(json.dumps(tree))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on two workers."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert main(["train", "digits", "--plan", "dp=2", "--out", str(folder), "--json", *TINY]) == 0
    return folder


def test_train_leaves_a_whole_folder(trained):
    names = {path.name for path in trained.iterdir()}
    expected = {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "weights.safetensors",
        "log.txt",
    }
    assert expected | {"classes.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("train", 1), ("train", 2), ("val", 2)]
    assert lines[0]["loss"] == pytest.approx(sum(v for k, v in lines[0].items() if k.startswith("loss_")))


def test_the_json_of_train_has_its_fields_and_config_runs_it_again(trained, tmp_path, capfd):
    arguments = [
        "train",
        "--config",
        trained / "config.yaml",
        "--plan",
        "dp=1",
        "--out",
        tmp_path / "again",
        "--json",
    ]
    status, result, _ = run(capfd, *arguments)
    assert status == 0
    assert {
        "run", "task", "model", "plan", "world_size", "microbatches", "steps", "samples", "seconds",
        "images_per_second", "loss", "metrics", "weights_sha256",
    } <= result.keys()  # fmt: skip
    assert (result["plan"], result["world_size"], result["microbatches"]) == ("dp=1", 1, 2)
    assert (result["steps"], result["samples"]) == (2, 8)
    assert {"map", "map50"} <= result["metrics"].keys()
    first, again = (load_file(folder / "weights.safetensors") for folder in (trained, tmp_path / "again"))
    assert all(torch.equal(first[name], again[name]) for name in first), "two workers = one worker"


def test_a_run_that_goes_on_ends_in_the_same_bits(trained, tmp_path, capfd):
    """Stopped after the first of two steps (as by a kill after a checkpoint), then resumed on two workers."""
    from ziggurat.config import load_config, override, save_config

    out = tmp_path / "run"
    every = ["--set", "train.checkpoint_every=1"]
    assert (
        run(capfd, "train", "digits", "--plan", "dp=1", "--microbatches", "2", "--out", out, *TINY, *every)[0]
        == 0
    )
    whole = load_file(out / "weights.safetensors")
    for name in ("step-2", "weights.safetensors"):
        path = out / "checkpoints" / name if name.startswith("step") else out / name
        path.rename(tmp_path / name)
    status, result, _ = run(capfd, "train", "digits", "--plan", "dp=2", "--out", out, "--resume", "--json")
    assert status == 0
    assert result["samples"] == 4, "only the second step is taken again"
    resumed = load_file(out / "weights.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2], "no gap and no double: two steps and an evaluation"
    changed = override(load_config(out / "config.yaml"), {"seed": 5})
    save_config(changed, out / "config.yaml")
    status, _, error = run(capfd, "train", "digits", "--out", out, "--resume", "--seed", "6")
    assert status == 2
    assert "a run goes on as it was defined: seed was 5, and cannot become 6" in error


def test_evaluate_gives_the_same_metrics_on_any_number_of_workers(trained, capfd):
    found = []
    for plan in ("dp=1", "dp=2", "dp=3"):
        arguments = ["evaluate", trained, "digits", "--plan", plan, "--threads", "1", "--json"]
        status, result, _ = run(capfd, *arguments)
        assert status == 0
        assert result["images"] == 3
        found.append(result["metrics"])
    assert found[0] == found[1] == found[2]


def test_predict_writes_results_and_pictures(trained, tmp_path, capfd):
    write_coco(tmp_path / "data", "train", ["a.png", "b.jpg"], size=(80, 150))
    out = tmp_path / "out"
    arguments = [
        "predict",
        trained,
        tmp_path / "data" / "train",
        "--plan",
        "dp=2",
        "--threads",
        "1",
        "--out",
        out,
    ]
    status, result, _ = run(capfd, *arguments, "--json")
    assert (status, result["images"]) == (0, 2)
    rows = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert all({"image_id", "category_id", "bbox", "score"} <= row.keys() for row in rows)
    assert len([path for path in out.rglob("*") if path.suffix in (".png", ".jpg")]) == 2


def test_check_lists_faults_with_status_1(tmp_path, capfd):
    write_coco(tmp_path, "train", ["a.png", "b.png"])
    assert run(capfd, "check", tmp_path, "--json")[:2][0] == 0
    (tmp_path / "train" / "b.png").unlink()
    status, result, _ = run(capfd, "check", tmp_path, "--json")
    assert status == 1
    assert not result["ok"]
    assert len(result["faults"]) == 1
    assert "b.png" in json.dumps(result["faults"][0])


@pytest.mark.parametrize(
    ("words", "status"),
    [("models --filter pnn", 141), ("models --filter pnn --json", 141), ("--help", 0), ("train --help", 0)],
)  # argparse says nothing of help that nobody reads
def test_a_reader_that_leaves_is_no_fault(words, status):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ziggurat", *words.split()]
    ran = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (status, "")


def test_models_lists_what_can_be_built(capfd):
    status, result, _ = run(capfd, "models", "--filter", "fcos-resnet18", "--json")
    assert status == 0
    assert [row["name"] for row in result["models"]] == [
        f"fcos-resnet18-{neck}" for neck in ("fpn", "pafpn", "bifpn")
    ]
    assert result["models"][0]["parameters"] > 11e6
    assert result["models"][0]["plans"] == ["dp", "fsdp", "sp", "pp", "tp", "lp"]
    assert main(["models", "--filter", "nonsense"]) == 0
    assert "no listed model's name holds 'nonsense'" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["nowhere"], ["there is no data set nowhere"]),
        ([], ["no data set: give DATA"]),
        (
            ["digits", "--plan", "dp=3", "--microbatches", "2"],
            ["each worker of the dp axis needs a microbatch"],
        ),
        (["digits", "--plan", "dq=3"], ["unknown axis 'dq' in the plan 'dq=3': did you mean 'dp'?"]),
        (
            ["digits", "--batch-size", "2", "--microbatches", "4"],
            ["raise --batch-size or lower --microbatches"],
        ),
        (["digits", "--model", "fcos-resnet5O-fpn"], ["resnet5O", "did you mean"]),
        (["digits", "--model", "fcoss-resnet50-fpn"], ["unknown head 'fcoss'", "did you mean 'fcos'?"]),
        (["digits", "--set", "train.learning_rate=1"], ["unknown setting 'train.learning_rate'"]),
        (["digits", "--set", "train.lr"], ["--set takes key=value: got 'train.lr'"]),
        (["digits", "--set", "data.crop=0"], ["data.crop must be from 8 to 65536: got 0"]),
        (
            ["digits", "--set", "data.crops=48,x"],
            ["data.crops must name sides of 8 to 65536 pixels", "got '48,x'"],
        ),
        (["digits", "--weights", "nothing.pth"], ["there is no file nothing.pth"]),
        (["digits", "--config", "nothing.yaml"], ["cannot read the config nothing.yaml"]),
        (["digits", "--resume", "--config", "c.yaml"], ["remove --config c.yaml or --resume"]),
        (["digits", "--resume"], ["--resume needs --out with the folder of a run"]),
        (
            [
                "digits",
                "--model",
                "smp:upernet/resnet18",
                "--set",
                "data.crop=64",
                "--set",
                "digits.size=64",
                "--set",
                "digits.train_scenes=17",
                "--batch-size",
                "8",
                "--microbatches",
                "4",
            ],
            ["microbatches of two images at least", "17 samples", "--batch-size 12", "model.norm=group"],
        ),
        (
            ["nowhere", "--plan", "dp=0", "--model", "x", "--set", "train.lr=-1", "--weights", "no.pth"],
            [
                "5 faults:",
                "train.lr must be from 1e-12 to 1000",
                "degree of dp",
                "HEAD-BACKBONE-NECK",
                "nowhere",
                "no.pth",
            ],
        ),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_bad_input_is_answered_before_anything_starts(arguments, messages, tmp_path, capfd):
    status, _, error = run(capfd, "train", *arguments, "--out", tmp_path / "out")
    assert status == 2
    assert all(message in error for message in messages), error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_train_lists_the_faults_of_both_splits_and_of_masks_that_others_have_too(tmp_path, capfd):
    for number, split in enumerate(("train", "train", "train", "val", "val")):
        for kind, mode in (("images", "RGB"), ("masks", "L")):
            folder = tmp_path / "data" / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (64, 64)).save(folder / f"{number}.png")
    masks = tmp_path / "data" / "masks"
    (tmp_path / "data" / "classes.txt").write_text("background\nroad\n")
    Image.new("L", (64, 64), 7).save(masks / "train" / "0.png")
    Image.new("L", (32, 64)).save(masks / "train" / "1.png")
    Image.new("L", (64, 64), 9).save(masks / "val" / "3.png")
    (masks / "val" / "4.png").unlink()
    status, _, error = run(capfd, "train", tmp_path / "data", "--out", tmp_path / "out")
    assert status == 2
    lines = error.splitlines()
    for file, fault in [
        ("masks/train/0.png", "unknown class: 7"),
        ("masks/train/1.png", "size mismatch"),
        ("masks/val/3.png", "unknown class: 9"),
        ("images/val/4.png", "image without a mask"),
    ]:
        assert any(file in line and fault in line for line in lines), error
    assert not (tmp_path / "out").exists()


def test_weights_of_another_shape_are_named(trained, tmp_path, capfd):
    weights = load_file(trained / "weights.safetensors")
    name = next(name for name in weights if name.endswith("conv1.weight"))
    weights[name] = torch.zeros(1, 2, 3)
    save_file(weights, tmp_path / "wrong.safetensors")
    arguments = ["--weights", tmp_path / "wrong.safetensors", "--out", tmp_path / "out"]
    status, _, error = run(capfd, "train", "digits", "--plan", "dp=1", *arguments, *TINY)
    assert status == 2
    assert name in error
    assert "(1, 2, 3) in the file" in error


@pytest.mark.parametrize("plan", ["dp=1", "dp=2"])
@pytest.mark.parametrize("loaders", [0, 1])
def test_a_corrupt_image_is_named(tmp_path, capfd, plan, loaders):
    write_coco(tmp_path / "data", "train", [f"{number}.png" for number in range(8)])
    damaged = tmp_path / "data" / "train" / "5.png"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    arguments = ["--plan", plan, "--out", tmp_path / "out", *TINY, "--set", f"data.workers={loaders}"]
    status, _, error = run(capfd, "train", tmp_path / "data", *arguments)
    assert status == 2
    assert "5.png" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("plan", ["dp=1", "dp=2"])
def test_a_loss_that_is_not_finite_ends_the_run_with_its_last_good_weights(trained, tmp_path, capfd, plan):
    weights = load_file(trained / "weights.safetensors")
    name = "head.class_tower.0.weight"
    name = (
        name
        if name in weights
        else next(n for n in weights if n.startswith("head.") and weights[n].ndim == 4)
    )
    weights[name] = torch.full_like(weights[name], 3e38)
    save_file(weights, tmp_path / "huge.safetensors")
    out = tmp_path / "out"
    arguments = [
        "--plan",
        plan,
        "--microbatches",
        "2",
        "--dtype",
        "fp32",
        "--weights",
        tmp_path / "huge.safetensors",
    ]
    status, _, error = run(capfd, "train", "digits", *arguments, "--out", out, *TINY)
    assert status == 2
    assert "the loss is not finite in step 1, microbatch 0, on worker 0" in error
    assert f"microbatch 1, on worker {1 if plan == 'dp=2' else 0}" in error
    assert "samples: " in error
    saved = load_file(out / "weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in saved.values()), "the running statistics too"


def test_a_gradient_that_is_not_finite_names_its_parameter(tmp_path, capfd, monkeypatch):
    finish = Parallel.finish_gradients

    def spoil(parallel):
        finish(parallel)
        list(parallel.gradients().values())[-1].fill_(float("nan"))

    monkeypatch.setattr(Parallel, "finish_gradients", spoil)
    status, _, error = run(capfd, "train", "digits", "--plan", "dp=1", "--out", tmp_path / "out", *TINY)
    assert status == 2
    assert "the gradient is not finite in step 1, though that of each microbatch is" in error
    assert "first bad parameter: head." in error


def test_a_run_goes_on_with_its_own_data_only(trained, tmp_path, capfd):
    write_coco(tmp_path / "data", "train", ["a.png", "b.png"])
    status, _, error = run(capfd, "train", tmp_path / "data", "--out", trained, "--resume", "--plan", "dp=1")
    assert status == 2
    assert "a run goes on with the data that it was started with" in error


def test_a_folder_of_its_own_is_validated_on(tmp_path, capfd):
    write_coco(tmp_path / "data", "train", ["a.png", "b.png", "c.png", "d.png"])
    write_coco(tmp_path / "other", "train", ["e.png"])
    arguments = [
        "--plan",
        "dp=1",
        "--out",
        tmp_path / "out",
        *TINY,
        "--set",
        f"data.val={tmp_path / 'other'}",
    ]
    status, result, _ = run(capfd, "train", tmp_path / "data", *arguments, "--json")
    assert status == 0
    assert "map50" in result["metrics"]


def test_a_folder_that_holds_a_run_is_not_overwritten(trained, capfd):
    status, _, error = run(capfd, "train", "digits", "--out", trained, *TINY)
    assert status == 2
    assert "holds a run already" in error


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_folder_without_a_run(command, tmp_path, capfd):
    status, _, error = run(capfd, command, tmp_path, "digits")
    assert status == 2
    assert "is not the folder of a run (it has no config.yaml), nor a file of weights" in error


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--speed", "9"]])
def test_words_that_argparse_does_not_know(arguments, capfd):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capfd.readouterr().err
    assert error.startswith("ziggurat: ")
    assert len(error.splitlines()) == 1
    assert "--help` lists what there is" in error

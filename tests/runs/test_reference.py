"""Every way to name a trained model gives its weights, everywhere that takes one; what is not there is said."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import ziggurat
from support.ranks import run_ranks
from support.small_runs import config_of, weights_of
from ziggurat.cli.main import main
from ziggurat.config import load_config, override
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.runs.checkpoint.manifest import MANIFEST, FileFacts, Manifest
from ziggurat.runs.first_weights import class_note, load_first_weights
from ziggurat.runs.reference import find_reference, load_reference
from ziggurat.training.loop import train

ONE = {"plan": "dp=1", "threads": 1}
LENGTH = {"train.steps": 4, "train.checkpoint_every": 1, "train.evaluate_every": 1, "checkpoint.keep": 9}


def make(workers, folder, settings):
    return train(workers, config_of("detect", **LENGTH, **settings), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of four steps with a checkpoint and an evaluation after each, the best of them after the second."""
    run = tmp_path_factory.mktemp("reference") / "run"
    run_ranks(make, 1, (run, {"train.ema": 0.9, "plan": "dp=1"}))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "val"] == [1, 2, 3, 4]
    return run


def with_metrics(folder, out, metrics):
    """Copy a run whose log says that it was measured so, and whose manifests know of no metric."""
    shutil.copytree(folder, out)
    rows = [{"kind": "val", "step": step, "map50": value} for step, value in metrics.items()]
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(1, 5):
        place = out / "checkpoints" / f"step-{step}" / MANIFEST
        content = json.loads(place.read_text())["manifest"]
        content["metric"] = None
        files = {name: FileFacts(**facts) for name, facts in content["files"].items()}
        place.write_text(Manifest(**(content | {"files": files})).text())
    return out


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_last_checkpoint_is_the_run(folder):
    end = weights_of(folder)
    names = [
        folder, str(folder), f"{folder}/", folder / "weights.safetensors", f"{folder}@last", f"{folder}@step-4",
        f"{folder}/@step-4", folder / "checkpoints" / "step-4", f"{folder}/checkpoints/step-4/",
    ]  # fmt: skip
    for name in names:
        run = load_reference(find_reference(name))
        assert same(run.model.state_dict(), end), name
        assert not run.model.training
        assert run.classes == tuple("0123456789")
    for step in (1, 2, 3):
        assert not same(load_reference(find_reference(f"{folder}@step-{step}")).model.state_dict(), end)


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ({1: 0.1, 2: 0.4, 3: 0.3, 4: 0.2}, 2),
        ({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, 4),
        ({1: 0.5, 2: 0.5, 3: 0.5, 4: 0.1}, 3),
        ({2: 0.0}, 2),
        ({1: 0.1, 2: None, 3: 0.05}, 1),
        ({7: 0.9, 3: 0.1}, 3),
    ],
)
def test_the_best_is_the_one_that_was_measured_best_and_last(folder, tmp_path, metrics, best):
    run = with_metrics(folder, tmp_path / "run", metrics)
    assert find_reference(f"{run}@best").step == best


def test_without_an_evaluation_none_is_the_best(folder, tmp_path):
    run = with_metrics(folder, tmp_path / "run", {})
    with pytest.raises(UserError, match=r"was evaluated.*step-1, step-2, step-3, step-4.*evaluate_every"):
        find_reference(f"{run}@best")


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_of_a_checkpoint_are_those_that_a_run_of_its_length_ends_with(tmp_path, ema):
    """Step 2 of a run of four steps without a schedule, and the end of one of two steps."""
    flat = {"train.final_lr": 1.0, "train.ema": ema, "plan": "dp=1"}
    run_ranks(make, 1, (tmp_path / "four", flat))
    run_ranks(train_two, 1, (tmp_path / "two", flat))
    found = load_reference(find_reference(f"{tmp_path / 'four'}@step-2")).model.state_dict()
    assert same(found, weights_of(tmp_path / "two"))


def train_two(workers, folder, settings):
    return train(workers, config_of("detect", **settings), folder)


def test_checkpoints_of_two_workers_are_whole(tmp_path):
    """Under fsdp each worker writes its rows."""
    run_ranks(make, 2, (tmp_path / "run", {"plan": "fsdp=2", "train.ema": 0.9}))
    end = weights_of(tmp_path / "run")
    assert same(load_reference(find_reference(f"{tmp_path / 'run'}@last")).model.state_dict(), end)


def test_evaluation_prediction_and_loading_take_each(folder, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    names = [
        folder,
        f"{folder}@best",
        f"{folder}@step-2",
        folder / "checkpoints" / "step-3",
        folder / "weights.safetensors",
    ]
    for number, name in enumerate(names):
        assert ziggurat.evaluate(name, "digits", ONE)["images"] == 3
        result = ziggurat.predict(name, tmp_path / "a.png", tmp_path / str(number), ONE)
        assert result["images"] == 1
        assert len(ziggurat.load(name)(tmp_path / "a.png").labels) == result["detections"]
    outs = [ziggurat.predict(name, tmp_path / "a.png", None, ONE)["pictures"] for name in names[:3]]
    assert outs[0] == str(folder / "predictions")
    assert outs[2] == str(folder / "predictions-step-2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("@step-9", "no checkpoint step-9 .*there are step-1, step-2, step-3, step-4"),
        ("@bset", "did you mean 'best'"),
        ("@", "no checkpoint"),
        ("@step-", "no checkpoint"),
        ("@step-1.5", "no checkpoint"),
        ("@3", None),
        ("x", "did you mean '.*run'"),
        ("x@best", "did you mean '.*run'"),
        ("/checkpoints", "is not the folder of a run"),
        ("/checkpoints@best", "is not the folder of a run"),
        ("/weights", "nor a file of weights"),
    ],
)
def test_what_is_not_there_is_said(folder, name, message):
    if message is None:
        assert find_reference(f"{folder}{name}").step == 3
        return
    for use in (find_reference, lambda given: ziggurat.evaluate(given, "digits", ONE)):
        with pytest.raises(UserError, match=message):
            use(f"{folder}{name}")


def test_a_damaged_checkpoint_is_not_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    file = next((tmp_path / "run" / "checkpoints" / "step-2").glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="failed its checks"):
        load_reference(find_reference(f"{tmp_path / 'run'}@step-2"))
    assert file.is_file(), "reading sets nothing aside"


def test_a_run_that_has_not_come_to_its_end_names_its_checkpoint(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="@step-4"):
        ziggurat.evaluate(tmp_path / "run", "digits", ONE)
    assert ziggurat.evaluate(f"{tmp_path / 'run'}@last", "digits", ONE)["images"] == 3


def test_training_begins_with_each(folder):
    config = load_config(folder / "config.yaml")
    for name, step in ((folder, 4), (f"{folder}@step-2", 2), (folder / "checkpoints" / "step-3", 3)):
        model = build_model(config.model, 10)
        report = load_first_weights(model, str(name))
        assert not report.missing
        expected = load_reference(find_reference(f"{folder}@step-{step}")).model.state_dict()
        assert same(model.state_dict(), expected)


DIGITS = tuple("0123456789")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (DIGITS, None),
        (("1", "0", *DIGITS[2:]), "go on with 0 as 1, 1 as 0; where the same classes are meant"),
        (
            tuple(f"tree {digit}" for digit in DIGITS),
            "go on with 0 as tree 0, .*7 as tree 7, ... .10.; where",
        ),
        ((*DIGITS[:9], "nine"), "go on with 9 as nine; where"),
        (("cat", "dog"), "know the classes 0, 1, .*10.*, the data has cat, dog: .* start at random"),
        (DIGITS[:9], "start at random"),
        ((*DIGITS, "10"), "start at random"),
    ],
)
def test_weights_of_other_classes_are_said(folder, classes, said):
    model = build_model(load_config(folder / "config.yaml").model, len(classes))
    for name in (folder, f"{folder}@step-2", folder / "weights.safetensors"):
        note = class_note(model, str(name), load_first_weights(model, str(name)), classes)
        assert note is None if said is None else re.search(said, note)


def test_where_no_layer_of_classes_is_taken_no_classes_are_said(folder, tmp_path):
    """Of a backbone, and of a file by itself, whose classes nobody knows."""
    model = build_model(load_config(folder / "config.yaml").model, 10)
    report = load_first_weights(model, str(folder))
    assert class_note(model, str(folder), report, DIGITS[::-1])
    backbone = tuple(name for name in report.loaded if name.startswith("backbone."))
    assert class_note(model, str(folder), dataclasses.replace(report, loaded=backbone), DIGITS[::-1]) is None
    alone = tmp_path / "copied.safetensors"
    shutil.copy(folder / "weights.safetensors", alone)
    assert class_note(model, str(alone), load_first_weights(model, str(alone)), DIGITS[::-1]) is None


def test_a_run_that_begins_with_other_classes_says_so_once(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    facts = json.loads((other / "classes.json").read_text())
    (other / "classes.json").write_text(json.dumps(facts | {"classes": facts["classes"][::-1]}))
    settings = {"plan": "dp=1", "train.steps": 1, "model.weights": str(other)}
    run_ranks(train_two, 1, (tmp_path / "new", settings))
    assert (tmp_path / "new" / "log.txt").read_text().count("know other classes than the data") == 1


def test_a_new_run_takes_the_model_of_its_weights(folder, tmp_path, capfd):
    small = [
        "digits",
        "--plan",
        "dp=1",
        "--threads",
        "1",
        "--steps",
        "1",
        "--batch-size",
        "2",
        "--dtype",
        "fp32",
    ]
    small += [f"--set=digits.{key}" for key in ("size=64", "height_max=40", "train_scenes=4", "val_scenes=2")]
    small += ["--set=data.crop=64", "--set=data.workers=0", "--set=train.report=numbers"]
    assert main(["train", *small, "--weights", f"{folder}@best", "--out", str(tmp_path / "new")]) == 0
    assert "the model is that of the weights" in capfd.readouterr().err
    new, old = load_config(tmp_path / "new" / "config.yaml"), load_config(folder / "config.yaml")
    assert (new.task, new.model.name, new.model.channels) == ("detect", old.model.name, old.model.channels)
    assert new.model.weights == f"{folder}@best"
    assert main(["train", *small, "--weights", f"{folder}@step-8", "--out", str(tmp_path / "other")]) == 2
    assert "no checkpoint step-8" in capfd.readouterr().err


# A run that is made longer.


def extended(workers, folder, **settings):
    config = load_config(folder / "config.yaml")
    return train(workers, override(config, settings | {"plan": f"dp={workers.size}"}), folder, resume=True)


def longer(workers, folder, steps):
    try:
        return extended(workers, folder, **{"train.steps": steps})["weights_sha256"]
    except UserError as error:
        return str(error)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("world", [1, 2])
def test_a_longer_run_has_the_same_bits_on_any_number_of_workers(folder, tmp_path, world):
    shutil.copytree(folder, tmp_path / "run")
    digests = run_ranks(longer, world, (tmp_path / "run", 7))
    assert len(set(digests)) == 1
    one = tmp_path / "one"
    shutil.copytree(folder, one)
    assert run_ranks(longer, 1, (one, 7))[0] == digests[0]
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "the run was defined for 4 steps and goes on to 7: from step 5 on" in said
    assert load_config(tmp_path / "run" / "config.yaml").train.steps == 7
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["lr"] for row in rows if row["kind"] == "train"}
    assert list(rates) == [1, 2, 3, 4, 5, 6, 7]
    assert rates[5] > rates[4], "the schedule of the new length"
    assert find_reference(f"{tmp_path / 'run'}@last").step == 7


def test_a_longer_run_that_is_stopped_goes_on(folder, tmp_path):
    """Its newest checkpoint may be of before it was made longer, when its config says the new length already."""
    for name in ("whole", "stopped"):
        shutil.copytree(folder, tmp_path / name)
    whole = run_ranks(longer, 1, (tmp_path / "whole", 6))[0]
    stopped = tmp_path / "stopped"
    run_ranks(longer, 1, (stopped, 6))
    for step in (5, 6):
        shutil.rmtree(stopped / "checkpoints" / f"step-{step}")
    assert run_ranks(longer, 1, (stopped, 6))[0] == whole
    assert run_ranks(longer, 1, (stopped, 6))[0] == whole, "at its end it only evaluates"


def test_a_run_is_not_made_shorter_than_it_is(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    said = run_ranks(longer, 1, (tmp_path / "run", 3))[0]
    assert "has done 4, and 3 are asked for" in said
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    assert same(weights_of(tmp_path / "run"), load_file(folder / "weights.safetensors"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "9"], "--epochs has no effect; give --steps"),
        (["--steps", "9", "--set", "train.lr=1"], r"train\.lr was 0\.01.*--weights"),
        (["--steps", "4.5"], "train.steps must be a whole number"),
        (["--steps", "2"], "has done 4, and 2 are asked for"),
    ],
)
def test_what_a_longer_run_cannot_be(folder, tmp_path, capfd, words, message):
    shutil.copytree(folder, tmp_path / "run")
    assert main(["train", "--resume", "--out", str(tmp_path / "run"), "--plan", "dp=1", *words]) == 2
    assert re.search(message, capfd.readouterr().err)


def test_a_run_by_epochs_is_made_longer_by_epochs_or_steps(tmp_path):
    config = config_of("detect", **{"train.steps": 0, "train.epochs": 1, "plan": "dp=1"})
    run_ranks(train, 1, (config, tmp_path / "run"))
    assert run_ranks(by_epochs, 1, (tmp_path / "run",)) == [4]
    assert "defined for 2 steps and goes on to 4" in (tmp_path / "run" / "log.txt").read_text()
    run_ranks(longer, 1, (tmp_path / "run", 5))
    assert "defined for 4 steps and goes on to 5" in (tmp_path / "run" / "log.txt").read_text()


def by_epochs(workers, folder):
    return extended(workers, folder, **{"train.epochs": 2})["steps"]

"""Several runs by one command: the same bits wherever each is computed, and each by itself after a kill."""

import json
import os
import signal

import pytest

from support.small_runs import SMALL, TASKS
from ziggurat.cli.main import main
from ziggurat.commands.evaluate import evaluate
from ziggurat.commands.train import train
from ziggurat.errors import UserError
from ziggurat.parallel.runtime.failures import WorkerFailed
from ziggurat.runs.members import MEMBERS, names_of_runs

DIGITS = {"digits.size": 64, "digits.count_min": 1, "digits.count_max": 1, "digits.train_scenes": 12, "digits.val_scenes": 4}  # fmt: skip
BASE = SMALL | TASKS["classify"] | DIGITS | {"task": "classify", "plan": "dp=1"}
for _key in ("data.path", "model.levels", "model.channels", "model.head_depth", "decode.max_detections"):
    del BASE[_key]


def hashes(result):
    return [one["weights_sha256"] for one in result["members"]]


def several(out, how, count=2, **more):
    return train("digits", BASE | {"members.count": count, "members.data": how} | more, out)


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    out = tmp_path_factory.mktemp("members") / "folds"
    return out, several(out, "folds", 3)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("how", "more"), [("disjoint", {"members.stratify": "classes"}), ("bootstrap", {})])
def test_members_have_the_same_bits_on_any_number_of_workers(how, more, tmp_path):
    alone = several(tmp_path / "1", how, **more)
    assert hashes(several(tmp_path / "2", how, plan="dp=2", **more)) == hashes(alone)
    assert len(set(hashes(alone))) == 2
    lone = train(
        "digits",
        BASE | {"members.count": 2, "members.data": how, "members.member": "1"} | more,
        tmp_path / "lone",
    )
    assert lone["weights_sha256"] == hashes(alone)[1]


def test_a_member_that_sees_all_images_is_the_plain_run_of_its_seed(tmp_path):
    result = several(tmp_path / "all", "all")
    seed = next(
        int(line.partition(":")[2])
        for line in (tmp_path / "all" / "member-1" / "config.yaml").read_text().splitlines()
        if line.startswith("seed:")
    )
    plain = train("digits", BASE | {"seed": seed}, tmp_path / "plain")
    assert plain["weights_sha256"] == hashes(result)[1]


def test_a_cross_validation_is_a_table_of_its_folds(folds):
    out, result = folds
    top1 = [one["metrics"]["top1"] for one in result["members"]]
    assert result["metrics"]["top1"] == pytest.approx(sum(top1) / 3)
    assert json.loads((out / "members.json").read_text()) == result
    assert (result["main_metric"], result["data"]) == ("top1", "folds")
    for number, one in enumerate(result["members"]):
        assert f"member {number} of 3 is trained on 8 of 12 images (members.data=folds)" in one["notes"]
        assert f"member {number} of 3 is evaluated on 4 of 12 images (members.data=folds)" in one["notes"]


def test_the_folder_names_all_of_its_members(folds):
    out, _ = folds
    names = [str(out / f"member-{number}") for number in range(3)]
    assert names_of_runs(out) == tuple(names)
    assert names_of_runs(f"{out}@last") == tuple(f"{name}@last" for name in names)
    assert evaluate(out, "digits")["metrics"] == evaluate(names, "digits")["metrics"]
    with pytest.raises(UserError, match=r"holds several runs: name one of them, such as .*member-0"):
        train("digits", {"model.weights": str(out), **BASE}, out.parent / "other")


def test_a_member_that_is_killed_goes_on_alone(folds, tmp_path):
    out = tmp_path / "out"

    def die(row):
        if (
            row["step"] == 2
            and (out / "member-1" / "config.yaml").exists()
            and not (out / "member-2").exists()
        ):
            os.kill(os.getpid(), signal.SIGKILL)

    settings = {"members.count": 3, "members.data": "folds", "plan": "dp=2", "launch.max_restarts": 0}
    with pytest.raises(
        WorkerFailed, match=r"of 3 members these have failed: 1; `ziggurat train --out .* --resume`"
    ):
        train("digits", BASE | settings, out, on_step=die)
    assert [(out / f"member-{n}" / "weights.safetensors").exists() for n in range(3)] == [True, False, True]
    with pytest.raises(UserError, match=r"must have come to their end: member-1 has not"):
        names_of_runs(out)
    alone = train(None, {"plan": "dp=1"}, out / "member-1", resume=True)
    assert alone["weights_sha256"] == hashes(folds[1])[1]
    assert hashes(train(None, {"plan": "dp=1"}, out, resume=True)) == hashes(folds[1])


def test_members_that_have_not_begun_begin(folds, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / MEMBERS).write_text((folds[0] / MEMBERS).read_text())
    assert hashes(train(None, {}, out, resume=True)) == hashes(folds[1])


REFUSED = {
    "members.member must be less than members.count, 2: got 2": {"members.count": 2, "members.member": "2"},
    "members.count must be from 1 to 64: got 99": {"members.count": 99},
    "members.data has no effect without members.count": {"members.data": "folds"},
    "members.stratify has no effect without members.count and members.data=disjoint or folds": {
        "members.count": 2, "members.stratify": "classes",
    },
    "needs an image for each member: got 12 images and members.count=13": {"members.count": 13, "members.data": "folds"},
    "members.member must be all, or the number of a member, up to 63: got 'x'": {"members.count": 2, "members.member": "x"},
    "members.seed must be empty, or a whole number from 0 to 4294967295: got 'nan'": {"members.count": 2, "members.seed": "nan"},
    "members.seed must be empty, or a whole number from 0 to 4294967295: got '-1'": {
        "members.count": 2, "members.member": "1", "members.seed": "-1",
    },
    "data.val=x has no effect": {"members.count": 2, "members.data": "folds", "data.val": "x"},
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_written(message, tmp_path):
    with pytest.raises(UserError, match=message):
        train("digits", BASE | REFUSED[message], tmp_path / "out")
    assert not (tmp_path / "out" / MEMBERS).exists()


def test_a_folder_of_members_is_not_written_over(folds):
    with pytest.raises(UserError, match="holds members already"):
        several(folds[0], "all")
    with pytest.raises(UserError, match=r"members\.count was 3, and cannot become 4"):
        train(None, {"members.count": 4}, folds[0], resume=True)


def test_the_command_says_each_member_and_the_average(tmp_path, capfd):
    words = [f"{key}={value}" for key, value in BASE.items()]
    assert main(["train", "digits", "--members", "2", "--set", *words, "--out", str(tmp_path / "out")]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(":")[0].rpartition("/")[2] for line in lines] == ["member-0", "member-1", "out"]
    assert "top1" in lines[2]
    assert "on average, standard deviation" in lines[2]

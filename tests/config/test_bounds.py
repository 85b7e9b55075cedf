"""Every setting refuses what is out of its bounds, in one sentence that names it; and takes its bounds."""

import dataclasses
import typing

import pytest
import yaml

from ziggurat.cli.main import main
from ziggurat.cli.options import WRONG_INPUT
from ziggurat.config import (
    RunConfig,
    TrainConfig,
    check_command,
    full_names,
    known_keys,
    load_config,
    override,
    range_faults,
)
from ziggurat.config.fields import settings_of
from ziggurat.config.names import as_typed, shown_name
from ziggurat.errors import UserError

ABSURD = ["1e300", "-1e300", "-1", "1" + "0" * 30, "", "nan", "x", "1e-300"]


def faults_of(key, value):
    try:
        return range_faults(override(RunConfig(), {key: value}))
    except UserError as error:
        return error.faults


NUMBERS = [key for key, value, _ in settings_of(RunConfig()) if type(value) in (int, float)]


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_is_without_bounds(key):
    for value in ABSURD:
        faults = faults_of(key, value)
        assert faults or 0 <= float(value) <= 1, value
        for fault in faults:
            assert "\n" not in fault
            assert shown_name(key) in fault or key.partition(".")[0] in fault
    assert len(faults_of(key, "1e300")) == 1
    assert len(faults_of(key, "-1")) == 1


@pytest.mark.parametrize("key", known_keys())
@pytest.mark.parametrize("value", [None, [1], {"a": 1}, object(), "a\nb", "\0", "x" * 5000])
def test_what_is_no_value_is_refused_without_words_of_python(key, value):
    (fault,) = faults_of(key, value)
    assert fault.startswith(f"{shown_name(key)} must be ")
    assert len(fault) < 200 + 10 * len(key)
    assert not any(word in fault for word in ("None", "object", "{", "\n", "\0", "ValueError"))


def test_a_record_that_python_has_made_is_checked_too():
    config = dataclasses.replace(RunConfig(), seed="one", train=TrainConfig(lr=float("nan"), steps=1.5))
    assert range_faults(config) == [
        "seed must be a whole number: got 'one'",
        "train.steps must be a whole number: got 1.5",
        "train.lr must be a number: got nan",
    ]


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("lr", "train.lr"),
        ("crop", "data.crop"),
        ("seed", "seed"),
        ("plan.cut", "pipeline.cut"),
        ("train.lr", "train.lr"),
    ],
)
def test_a_last_part_that_no_other_has_is_a_name(given, full):
    assert full_names({given: 1}) == {full: 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("levels", "several settings are called 'levels': give one of model.levels, model.pnn.levels"),
        ("weights", "give one of model.weights, model.pnn.weights"),
        ("lrr", "did you mean 'train.lr'?"),
        ("train.crop", "did you mean 'data.crop'?"),
        ("modle.norm", "did you mean 'model.norm'?"),
        ("train", "it is a section; give one of its settings, such as train.epochs"),
        ("", "unknown setting ''"),
        ("a.b.c.d", "unknown setting 'a.b.c.d'"),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_nearest(given, message):
    with pytest.raises(UserError) as caught:
        full_names({given: 1})
    assert message in caught.value.faults[0]


def test_every_kind_of_setting_is_known():
    kinds = set()

    def collect(record):
        for hint in typing.get_type_hints(record).values():
            if dataclasses.is_dataclass(hint):
                collect(hint)
            else:
                kinds.add(str if typing.get_origin(hint) is typing.Literal else hint)

    collect(RunConfig)
    assert kinds == {int, float, bool, str}


WRONG = {  # settings of a plan, by what `plan.` is before: a value that each refuses, whatever the plan is
    "cut": "a\nb", "schedule": "x", "max_bytes": "-1", "checkpoint": "x", "unit_bytes": "few", "shard_optimizer": "maybe", "shares": "1,x", "wire": "int4",
    "replan": "x", "replan_every": "0",
}  # fmt: skip
OF_PLANS = sorted(key.removeprefix("pipeline.") for key in known_keys() if key.startswith("pipeline."))


@pytest.mark.parametrize("name", OF_PLANS)
@pytest.mark.parametrize("section", ["plan", "pipeline"])
def test_a_setting_of_a_plan_is_called_as_the_user_has_called_it(name, section, tmp_path, capfd):
    """By the command line, and by a call; also where the name itself is wrong, and where an axis refuses it."""
    typed, other = f"{section}.{name}", f"{'plan' if section == 'pipeline' else 'pipeline'}.{name}"
    words = ["train", "digits", "--task", "classify", "--out", str(tmp_path / "run"), "--plan", "dp=1"]
    assert main([*words, "--set", f"{typed}={WRONG[name]}"]) == WRONG_INPUT
    said = capfd.readouterr().err
    assert typed in said, said
    assert other not in said, said
    with pytest.raises(UserError) as caught:
        override(RunConfig(), {f"{typed}s": 1})
    assert f"'{typed}'" in str(caught.value)


OTHERWISE = [key for key in known_keys() if shown_name(key) != key]
OUT_OF_RANGE = {"cut": "a\nb", "schedule": 3, "max_bytes": -1, "checkpoint": "x", "unit_bytes": 1.5, "shard_optimizer": "maybe", "shares": "1,x", "wire": "int4", "replan": 0, "replan_every": 0}  # fmt: skip


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_setting_whose_name_is_not_its_field_is_called_by_its_name(key, tmp_path):
    """From a file, in each way in which it can be written there; by a call; in a record that Python has made; where it stands twice."""
    name, section, last = shown_name(key), *key.split(".")
    value = OUT_OF_RANGE[last]
    said = {}
    for number, tree in enumerate(
        ({section: {last: value}}, {"plan": {last: value}}, {name: value}, {key: value})
    ):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(tree))
        said[f"file {tree}"] = faults_in(lambda file=file: range_faults(load_config(file)))
    said["call"] = faults_in(lambda: range_faults(override(RunConfig(), {name: value})))
    part = dataclasses.replace(getattr(RunConfig(), section), **{last: value})
    said["record"] = range_faults(dataclasses.replace(RunConfig(), **{section: part}))
    file.write_text(yaml.safe_dump({name: value, section: {last: value}}))
    said["twice"] = faults_in(lambda: load_config(file))
    said["a command that does not read it"] = faults_in(lambda: check_command("export", {name: value}))
    for how, faults in said.items():
        assert len(faults) == 1, how
        assert name in faults[0], how
        assert key not in faults[0], how


def faults_in(call):
    try:
        return call()
    except UserError as error:
        return error.faults


def test_names_are_those_of_plans_alone():
    assert [key for key in known_keys() if key.startswith("pipeline.")] == OTHERWISE
    assert len({shown_name(key) for key in known_keys()}) == len(known_keys())
    assert all(full_names({shown_name(key): 1}) == {key: 1} for key in known_keys())


def test_what_is_called_otherwise_stays():
    assert as_typed("pipeline.cuts pipeline.cut.x a.pipeline.cut", ["plan.cut"]) == (
        "pipeline.cuts pipeline.cut.x a.pipeline.cut"
    )
    assert as_typed("plan.cut, pipeline.wire=x.", ["pipeline.cut", " plan.wire "]) == (
        "pipeline.cut, plan.wire=x."
    )
    assert as_typed("plan.cuts plan.cut.x a.plan.cut", ["pipeline.cut"]) == "plan.cuts plan.cut.x a.plan.cut"

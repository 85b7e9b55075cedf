"""Settings without an effect: each is refused, with where it would have one."""

import dataclasses
import re
from pathlib import Path

import pytest

import ziggurat
from ziggurat.config import RunConfig, check_command, flatten, known_keys, override
from ziggurat.config.names import shown_name
from ziggurat.config.reads import READ_STILL, UNREAD, matches
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.models.families import FAMILIES
from ziggurat.strategies.effects import NEEDS, check_effects, find_idle
from ziggurat.strategies.registry import STRATEGIES
from ziggurat.tasks.registry import TASKS, make_task

DETECT = {"task": "detect", "model.name": "fcos-resnet18-fpn", "data.path": "digits", "plan": "dp=2"}
CLASSIFY = DETECT | {"task": "classify", "model.name": "timm:resnet18"}
SEGMENT = DETECT | {"task": "segment", "model.name": "smp:unet/resnet18"}
FILES = {"data.path": "photos"}


def judge(base, given, from_file=None):
    config = override(RunConfig(), base | (from_file or {}) | given)
    try:
        return [], check_effects(config, given, from_file)
    except UserError as error:
        return error.faults, []


@pytest.mark.parametrize(
    ("base", "given", "message"),
    [
        (CLASSIFY, {"decode.score_threshold": 0.5}, "on a run to classify: it is for detect"),
        (CLASSIFY, {"data.tile_overlap": 0.5}, "it is for detect and segment"),
        (CLASSIFY, {"loss.focal_gamma": 1.0}, "it is for detect and segment"),
        (CLASSIFY, {"data.ignore": 0}, "it is for segment"),
        (DETECT, {"loss.smoothing": 0.1}, "on a run to detect: it is for classify"),
        (DETECT | {"plan": "dp=3"}, {"launch.hierarchy": "2x2"}, "over as many workers as its sizes make"),
        (DETECT | {"plan": "sp=4"}, {"launch.hierarchy": "flat"}, "a plan that spreads samples"),
        (DETECT, {"loss.segmentation": "dice"}, "it is for segment"),
        (SEGMENT, {"loss.box_weight": 2}, "it is for detect"),
        (SEGMENT, {"loss.dice_weight": 2}, "has no effect without loss.segmentation=dice"),
        (SEGMENT, {"loss.focal_gamma": 2}, "has no effect without loss.segmentation=focal"),
        (SEGMENT, {"data.min_visible": 0.5}, "it is for detect"),
        (DETECT, {"model.spp_bins": "2,1"}, "on fcos-resnet18-fpn: it is for models such as spp-"),
        (DETECT, {"model.pnn.channels": 8}, "it is for models such as fcos-pnn and pnn"),
        (
            DETECT | {"model.name": "fcos-pnn"},
            {"model.neck_depth": 2},
            "on fcos-pnn: it is for models such as fcos-",
        ),
        (
            DETECT | {"model.name": "fcos-pnn"},
            {"model.pnn.levels": 2},
            "on fcos-pnn: it is for models such as pnn",
        ),
        (CLASSIFY, {"model.levels": "p3-p4"}, "on timm:resnet18: it is for models such as fcos-"),
        (CLASSIFY, {"model.channels": 64}, "it is for models such as fcos-"),
        (CLASSIFY | {"model.name": "pnn"}, {"model.drop_path": 0.1}, "on pnn"),
        (SEGMENT, {"model.head_depth": 2}, "on smp:unet/resnet18"),
        (DETECT, {"pipeline.cut": "layer2"}, "under the plan dp=2: it is for plans with pp"),
        (DETECT, {"pipeline.unit_bytes": 5}, "it is for plans with fsdp"),
        (
            DETECT | {"plan": "pp=2"},
            {"pipeline.unit_bytes": 5},
            "under the plan pp=2: it is for plans with fsdp",
        ),
        (DETECT, {"tensor.min_width": 5}, "it is for plans with tp"),
        (DETECT, {"data.images": "x"}, "on the data set digits: it is for image files"),
        (DETECT, {"data.range": "0,5"}, "on the data set digits: it is for image files"),
        (DETECT, {"train.epochs": 3, "train.steps": 5}, "train.epochs has no effect without train.steps=0"),
        (
            DETECT,
            {"train.optimizer": "sgd", "train.beta2": 0.9},
            "has no effect without train.optimizer=adamw",
        ),
        (DETECT, {"train.drops": "0.5"}, "has no effect without train.schedule=step"),
        (
            DETECT,
            {"train.schedule": "constant", "train.final_lr": 0.1},
            "without train.schedule=cosine or onecycle",
        ),
        (DETECT, {"data.resize_limit": 500}, "has no effect without data.resize"),
        (DETECT, {"checkpoint.keep_best": 2}, "has no effect without train.evaluate_every"),
        (DETECT, {"checkpoint.keep_every": 2, "train.checkpoint_every": 0}, "without train.checkpoint_every"),
    ],
)
def test_it_is_refused_with_where_it_would_have_one(base, given, message):
    faults, notes = judge(base, given)
    assert len(faults) == 1
    assert not notes
    assert message in faults[0]
    assert faults[0].endswith("; leave it out")
    (key,) = [key for key in given if faults[0].startswith(f"{shown_name(key)} ")]
    from_a_file = {name: value for name, value in given.items() if value != flatten(RunConfig())[name]}
    if key in from_a_file:  # a file is refused as the command line is
        assert judge(base, {}, from_a_file)[0] == faults


def test_what_a_file_was_written_for_is_said_where_something_else_is_chosen_now():
    held = {"pipeline.cut": "layer2", "plan": "pp=2"}
    assert judge(DETECT, {"plan": "dp=2"}, held) == (
        [], ["plan.cut has no effect under the plan dp=2: it is for plans with pp"]
    )  # fmt: skip
    assert judge(DETECT, {"plan": "pp=2"}, held) == ([], [])
    held = {"decode.candidates": 7, "task": "detect"}
    assert len(judge(CLASSIFY, {"task": "classify"}, held)[1]) == 1


def test_defaults_in_a_file_are_nobody_s_wish():
    assert judge(CLASSIFY, {}, flatten(override(RunConfig(), CLASSIFY))) == ([], [])


def test_how_the_embedded_data_set_looks_is_said_of_other_data():
    assert judge(DETECT | FILES, {"digits.size": 64}) == (
        [], ["digits.size has no effect on photos: it is for the data set digits"]
    )  # fmt: skip
    assert judge(DETECT | FILES | {"data.val": "digits"}, {"digits.size": 64}) == ([], [])


@pytest.mark.parametrize(
    ("base", "given"),
    [
        (
            DETECT,
            {
                "decode.candidates": 10,
                "data.min_visible": 0.5,
                "model.levels": "p3-p4",
                "loss.focal_gamma": 1,
            },
        ),
        (
            CLASSIFY,
            {"loss.smoothing": 0.1, "model.norm": "group", "data.resize": 64, "data.resize_limit": 99},
        ),
        (
            SEGMENT,
            {"loss.segmentation": "ce+dice", "loss.dice_weight": 2, "data.ignore": 0, "model.channels": 64},
        ),
        (DETECT | {"plan": "pp=2"}, {"pipeline.cut": "x"}),
        (DETECT | {"plan": "dp=2,tp=2"}, {"tensor.min_width": 5}),
        (DETECT | {"plan": "fsdp=4,sp=2"}, {"launch.hierarchy": "2x2"}),
        (DETECT, {"train.steps": 3, "train.evaluate_every": 1, "checkpoint.keep_best": 2}),
    ],
)
def test_what_has_an_effect_is_taken(base, given):
    assert judge(base, given) == ([], [])


REMEDIES = sorted(
    {
        key
        for path in Path(ziggurat.__file__).parent.rglob("*.py")
        for key in re.findall(r"--set ([a-z_]+(?:\.[a-z_]+)+)=", path.read_text(encoding="utf-8"))
    }
)


def test_remedies_are_found():
    assert {"data.classes", "data.on_error", "model.norm"} <= set(REMEDIES)


@pytest.mark.parametrize("key", REMEDIES)
@pytest.mark.parametrize("base", [DETECT, CLASSIFY, SEGMENT], ids=["detect", "classify", "segment"])
def test_what_a_message_tells_one_to_set_is_not_refused_as_anothers(base, key):
    """A remedy may ask for something else besides (a plan with tp); no task may refuse it as another task's."""
    found = find_idle(override(RunConfig(), base | FILES), [key])
    assert [idle.sentence for idle in found if idle.because == "task"] == []


@pytest.mark.parametrize(
    ("command", "key", "others"),
    [
        ("evaluate", "train.lr", "train, demo and verify"),
        ("evaluate", "data.flip", "train and demo"),
        ("predict", "loss.smoothing", "train, demo, verify and plan"),
        ("predict", "seed", "train, demo, verify and plan"),
        ("predict", "checkpoint.keep", "train and demo"),
        ("check", "data.tile_overlap", "train, demo, evaluate, predict, export and report"),
        ("check", "digits.size", "train, demo, evaluate, predict, export, report and convert"),
        ("convert", "model.norm", "train, demo, evaluate, predict, export, report, verify and plan"),
        ("demo", "data.images", "train, evaluate, predict, export, report, check and convert"),
        ("verify", "data.crop", "train, demo, evaluate, predict, export, report, check and plan"),
    ],
)
def test_a_command_refuses_what_it_does_not_read(command, key, others):
    with pytest.raises(UserError) as caught:
        check_command(command, {key: 1})
    assert caught.value.faults == [
        f"{key} has no effect in `ziggurat {command}`: it is a setting of {others}; leave it out"
    ]


def test_every_name_in_the_tables_is_that_of_a_setting():
    listed = {one for table in (UNREAD, READ_STILL) for names in table.values() for one in names}
    listed |= {*NEEDS, *(need[0] for need in NEEDS.values())}
    listed |= {one for task in TASKS.values() for one in task.settings or ()}
    listed |= {one for strategy in STRATEGIES.values() for one in strategy.settings}
    families = [family for family in FAMILIES.values() if family.settings is not None]
    listed |= {one for family in families for name in family.names() for one in family.settings(name)}
    assert {one for one in listed if not any(matches([one], key) for key in known_keys())} == set()
    default = flatten(RunConfig())
    for task in TASKS.values():
        assert set(task.idle_settings(RunConfig())) <= set(default)


class Watched:
    """A section of a config that notes what is read of it."""

    def __init__(self, section, prefix, read):
        self._section, self._prefix, self._read = section, prefix, read

    def __getattr__(self, name):
        value = getattr(self._section, name)
        if dataclasses.is_dataclass(value):
            return Watched(value, f"{self._prefix}{name}.", self._read)
        self._read.add(self._prefix + name)
        return value


def test_a_task_declares_what_it_reads_of_loss_and_decode():
    for base in (DETECT, CLASSIFY, SEGMENT):
        read = set()
        config = override(RunConfig(), base)
        task = make_task(build_model(config.model, 3), Watched(config, "", read))
        own = {key for key in read if key.startswith(("loss.", "decode."))}
        assert all(matches(task.settings, key) for key in own), own

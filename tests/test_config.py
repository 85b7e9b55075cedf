"""Configuration: typed overrides, files, and all faults at once."""

import re
from pathlib import Path

import pytest

from ziggurat.cli.main import main
from ziggurat.cli.options import RUN_FLAGS
from ziggurat.config import (
    RunConfig,
    flatten,
    known_keys,
    load_config,
    override,
    range_faults,
    save_config,
)
from ziggurat.config.fields import settings_of
from ziggurat.config.page import settings_page
from ziggurat.data.readers.sample_range import read_range
from ziggurat.errors import UserError


def test_strings_are_read_as_the_settings_type():
    config = override(
        RunConfig(),
        {"train.lr": "0.01", "train.steps": "7", "data.quarter_turns": "true", "data.path": "7"},
    )
    assert (config.train.lr, config.train.steps) == (0.01, 7)
    assert config.data.quarter_turns is True
    assert config.data.path == "7"


def test_every_fault_is_named_with_its_remedy():
    with pytest.raises(UserError) as caught:
        override(
            RunConfig(),
            {
                "train.lrr": "1",
                "train.steps": "many",
                "model.norm": "layer",
                "data.quarter_turns": "2",
                "train": "1",
            },
        )
    assert caught.value.faults == [
        "unknown setting 'train.lrr': did you mean 'train.lr'?",
        "train.steps must be a whole number: got 'many'",
        "model.norm must be one of batch, frozen, group: got 'layer'",
        "data.quarter_turns must be true or false: got '2'",
        "unknown setting 'train': it is a section; give one of its settings, such as train.epochs",
    ]


@pytest.mark.parametrize("value", ["1.5", 1.5, True, "nan", "inf"])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(UserError, match="must be a whole number"):
        override(RunConfig(), {"train.steps": value})


@pytest.mark.parametrize("value", [None, [1], {}])
def test_a_setting_is_one_value(value):
    with pytest.raises(UserError, match=r"train\.channels_last must be one value"):
        override(RunConfig(), {"train.channels_last": value})


@pytest.mark.parametrize("value", ["nan", "inf", float("nan"), "-inf"])
def test_a_number_must_be_finite(value):
    with pytest.raises(UserError, match=r"train\.lr must be a number"):
        override(RunConfig(), {"train.lr": value})


def test_a_config_survives_its_file(tmp_path):
    config = override(RunConfig(), {"train.lr": 1e-5, "data.path": "some folder: with # signs", "seed": 3})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_every_default_is_of_its_type_and_in_range():
    defaults = flatten(RunConfig())
    assert tuple(defaults) == known_keys()
    assert override(RunConfig(), defaults) == RunConfig()
    assert range_faults(RunConfig()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- 1\n- 2\n", "must hold settings by name, such as .*: got a list"),
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"train: {lr: fast}", "train.lr must be a number: got 'fast'"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
        (b"1: 2\n", "unknown setting '1'"),
    ],
)
def test_a_bad_file_is_answered_with_one_message(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=message):
        load_config(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the config .*nothing\.yaml: No such file"):
        load_config(tmp_path / "nothing.yaml")


def test_ranges_and_relations():
    config = override(
        RunConfig(),
        {"train.lr": 0, "train.epochs": 0, "data.scale_min": 2, "train.ema": 1, "decode.nms_threshold": 1.5},
    )
    assert range_faults(config) == [
        "decode.nms_threshold must be in [0, 1]: got 1.5",
        "train.lr must be from 1e-12 to 1000: got 0.0",
        "train.ema must be in [0, 1): got 1.0",
        "data.scale_min must not exceed data.scale_max: got 2.0 and 1.25",
        "nothing to do: give train.epochs or train.steps",
    ]


@pytest.mark.parametrize("text", ["1", "2,1", "0,0", "a,b", "0,inf", "0,1,2", ","])
def test_what_is_no_range_of_samples(text):
    (fault,) = range_faults(override(RunConfig(), {"data.range": text}))
    assert fault.startswith("data.range must be two numbers")
    with pytest.raises(UserError, match=r"data\.range must be two numbers"):
        read_range(text)
    assert range_faults(override(RunConfig(), {"data.range": " -1.5, 2"})) == []


def test_every_setting_is_explained():
    """By whole sentences, whose code is in double backquotes."""
    for name, _, known in settings_of(RunConfig()):
        assert known.help.endswith("."), name
        assert known.help.count("`") == 2 * known.help.count("``"), name


def test_every_number_has_a_range():
    """With both bounds."""
    free = {
        name
        for name, value, known in settings_of(RunConfig())
        if known.rule is None and type(value) in (int, float)
    }
    assert not free


def test_the_page_of_settings_is_that_of_the_settings():
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    assert page == settings_page(), "python -m ziggurat.config.page > docs/settings.md"
    rows = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(known_keys())


def test_the_command_lines_help_is_the_settings(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = "".join(capsys.readouterr().out.split())
    helps = {key: known.help for key, _, known in settings_of(RunConfig())}
    for flag, key in RUN_FLAGS.items():
        assert flag in text
        assert "".join(helps[key].replace("``", "").split()) in text

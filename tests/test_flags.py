"""Words of the command line: each flag is a setting, in any order; other tools' words are answered with ours."""

import os

import pytest

from ziggurat.cli.options import RUN_FLAGS, TRAINED_FLAGS, settings_from
from ziggurat.cli.parsing import FLAGS_ELSEWHERE, split_settings
from ziggurat.cli.running import build_parser
from ziggurat.cli.telling import telling
from ziggurat.commands.loudness import VERBOSE
from ziggurat.config.names import ELSEWHERE, full_name, known_keys, unknown_setting
from ziggurat.errors import UserError


def parsed(*words):
    """Return the settings of a command line, and its options."""
    options = build_parser().parse_args(split_settings(words))
    return settings_from(options), options


def refused(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        parsed(*words)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flags"), [("train", RUN_FLAGS), ("evaluate", TRAINED_FLAGS), ("predict", TRAINED_FLAGS)]
)
def test_each_flag_is_its_setting(command, flags):
    for flag, key in flags.items():
        given = ["data"] if command == "train" else ["run", "data"]
        assert parsed(command, *given, flag, "7")[0] == {key: "7"}
        assert parsed(command, f"{flag}=7", *given)[0] == {key: "7"}


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["data", "--set", "lr=0.1", "data.crop=64", "--seed", "3"], {"train.lr": "0.1", "data.crop": "64", "seed": "3"}),
        (["--set", "lr=0.1", "data.crop=64", "data"], {"train.lr": "0.1", "data.crop": "64"}),
        (["--set=lr=0.1", "data"], {"train.lr": "0.1"}),
        (["data", "--lr=-1e-3"], {"train.lr": "-1e-3"}),
        (["--lr", "-1e-3", "data"], {"train.lr": "-1e-3"}),
        (["data", "--lr", "-.5E+3", "--seed", "-3"], {"train.lr": "-.5E+3", "seed": "-3"}),
        (["--lr", "-inf", "data"], {"train.lr": "-inf"}),
        (["data", "--set", "data.classes=red oak,pine"], {"data.classes": "red oak,pine"}),
        (["data", "--set", "data.classes=sky,ink=255"], {"data.classes": "sky,ink=255"}),
        (["data", "--lr", "1", "--set", "lr=1"], {"train.lr": "1"}),
        (["data", "--lr", "1", "--lr", "2"], {"train.lr": "2"}),
        (["data", "--set", "crop=64", "--set", "crop=32"], {"data.crop": "32"}),
        (["--quiet", "--json", "data", "--dtype=fp32"], {"dtype": "fp32"}),
    ],
)  # fmt: skip
def test_words_in_any_order(words, settings):
    found, options = parsed("train", *words)
    assert (found, options.data) == (settings, "data")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "d", "--learning-rate", "1"], "unknown flag '--learning-rate': here it is '--lr'"),
        (["train", "d", "--imgsz", "640"], "here it is '--set data.crop=...'"),
        (["train", "d", "--batch", "4"], "here it is '--batch-size'"),
        (
            ["train", "d", "--num_workers=2"],
            "unknown flag '--num_workers': here it is '--set data.workers=...'",
        ),
        (["train", "d", "--output-dir", "x"], "here it is '--out'"),
        (["train", "d", "--config-file", "x"], "here it is '--config'"),
        (["predict", "r", "i.jpg", "--conf", "0.5"], "here it is '--score'"),
        (["train", "d", "--LR", "1"], "here it is '--lr'"),
        (["train", "d", "-lr", "1"], "here it is '--lr'"),
        (["train", "d", "--epoch", "1"], "did you mean '--epochs'?"),
        (["demo", "--dtype", "bf16"], "unknown flag '--dtype': here it is '--set dtype=...'"),
        (["demo", "--model", "pnn"], "here it is '--set model.name=...'"),
        (["train", "d", "--tile-overlap", "0.5"], "here it is '--set data.tile_overlap=...'"),
        (["predict", "r", "a.png", "--smoothing", "1"], "unknown flag '--smoothing': known: "),
        (["train", "d", "--frobnicate"], "unknown flag '--frobnicate': known: "),
        (["--verbose", "train", "d"], "flags follow the command: ziggurat train ... --verbose"),
        (["train", "d", "epochs=3"], "nothing takes 'epochs=3'; settings follow --set: --set epochs=3"),
        (["train", "d", "--set", "data.classes=a,", "b"], "too many arguments: nothing takes 'b'"),
        (["predict", "r", "a.png", "--score", "0.5", "epochs=3"], "nothing takes 'epochs=3'"),
        (["trian", "d"], "did you mean 'train'?"),
        (["train", "d", "--quiet", "--verbose"], "not allowed with argument --quiet"),
        (["evaluate", "r", "d", "--split", "tst"], "unknown --split 'tst': did you mean 'test'?"),
    ],
)
def test_what_is_no_flag_is_answered_with_what_is(capsys, words, said):
    assert said in refused(capsys, *words)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("LR", "did you mean 'train.lr'?"),
        ("imgsz", "here it is 'data.crop'"),
        ("lr0", "here it is 'train.lr'"),
        ("conf", "here it is 'decode.score_threshold'"),
        ("Batch", "here it is 'train.batch_size'"),
        ("model.lr", "did you mean 'train.lr'?"),
        ("train", "it is a section"),
        ("trian.lr", "did you mean 'train.lr'?"),
    ],
)
def test_what_is_no_setting_is_answered_with_one(name, said):
    with pytest.raises(UserError, match="unknown setting") as caught:
        full_name(name)
    assert said in str(caught.value)


def test_other_tools_words_lead_to_what_there_is():
    assert set(ELSEWHERE.values()) <= set(known_keys())
    assert not {name for name in ELSEWHERE if any(key.rpartition(".")[2] == name for key in known_keys())}
    texts = {command: build_parser_of(command).format_help() for command in ("train", "predict")}
    assert all(any(flag in text for text in texts.values()) for flag in FLAGS_ELSEWHERE.values())
    assert all(name in unknown_setting(name) for name in ELSEWHERE)


def build_parser_of(command):
    return build_parser().commands[command]


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("ziggurat ")


@pytest.mark.parametrize("before", [None, "0"])
def test_verbose_says_versions_and_reaches_workers_while_the_command_runs(capsys, monkeypatch, before):
    monkeypatch.delenv(VERBOSE, raising=False)
    if before is not None:
        monkeypatch.setenv(VERBOSE, before)
    with telling(quiet=False, verbose=True):
        assert os.environ[VERBOSE] == "1"
    assert os.environ.get(VERBOSE) == before
    assert "PyTorch" in capsys.readouterr().err


def test_quiet_leaves_standard_error_as_it_was(capfd):
    with telling(quiet=True, verbose=False):
        os.write(2, b"of a library\n")
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "after it\n"


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "r", "a", "b", "c", "--score", "0.5", "--set", "dtype=fp32"],
        ["predict", "r", "a", "--score", "0.5", "b", "--json", "c", "--set", "dtype=fp32"],
        ["predict", "--set", "dtype=fp32", "--score", "0.5", "--", "r", "a", "b", "c"],
        ["predict", "--score", "0.5", "r", "--set", "dtype=fp32", "--json", "a", "b", "--plan", "dp=1", "c"],
    ],
)
def test_images_may_stand_before_and_behind_flags(words):
    settings, options = parsed(*words)
    assert (options.run, options.images) == ("r", ["a", "b", "c"])
    assert settings.items() >= {"decode.score_threshold": "0.5", "dtype": "fp32"}.items()

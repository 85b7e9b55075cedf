"""A short form of the settings fuzz (all of it: ``make settings``): every setting once, and some of each other kind."""

import json

import pytest

from settings_fuzz.cases import MORE_VALUES, PLANS, VALUES, Case, all_cases, short_cases
from settings_fuzz.data import make_place
from settings_fuzz.judge import Ending, faults_of, run_case
from ziggurat.cli.options import RUN_FLAGS
from ziggurat.config import known_keys
from ziggurat.strategies.registry import STRATEGIES

CASES = short_cases()
PARTS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("fuzz") / "place")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("part", range(PARTS))
def test_every_case_ends_in_one_message_or_a_run_that_is_right(part, place, tmp_path):
    wrong = []
    for number, case in enumerate(CASES[part::PARTS]):
        ending, faults = run_case(case, place, tmp_path / str(number))
        if faults:
            wrong.append(f"{case.name[:80]}: {faults}\n{ending.errors[-600:]}")
    assert not wrong, "\n\n".join(wrong)


def test_the_long_form_has_every_setting_flag_and_axis_with_twelve_values():
    names = {case.name for case in all_cases()}
    assert len(names) >= 1500
    assert len({*VALUES, *MORE_VALUES}) == 24
    for value in VALUES:
        assert {f"{key}={value}" for key in known_keys()} <= names
        assert {f"{flag} {value}" for flag in RUN_FLAGS} <= names
        assert {f"train {axis}={value}" for axis in STRATEGIES} <= names
    assert {f"train {plan}" for plan in PLANS} <= names


def test_the_short_form_has_every_setting():
    words = [case.words[-1] for case in CASES]
    assert all(any(word.startswith(f"{key}=") for word in words) for key in known_keys())


WELL = Ending(2, "", "ziggurat: train.lr must be from 1e-12 to 1000: got 0\n", 1.0, 0.5, [])
CASE = Case("lr", ("train", "digits", "--set", "train.lr=0"), ("train.lr",))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"status": 1}, "status 1"),
        ({"status": 0}, "no result"),
        ({"status": -1}, "silent"),
        ({"silence": 11.0}, "silent for 11 s"),
        ({"left": [17]}, "left 1 processes"),
        ({"errors": "Traceback (most recent call last):"}, "a traceback"),
        ({"errors": ""}, "0 messages"),
        ({"errors": WELL.errors * 2}, "2 messages"),
        ({"errors": "ziggurat: note: a word before\n" + WELL.errors}, ""),
        ({"errors": "ziggurat: train.lr is of <class 'str'>"}, "a word of Python's"),
        ({"errors": "ziggurat: train.lr " + "x" * 5000}, "a message of"),
        ({"errors": "ziggurat: it cannot be"}, "names none of train.lr"),
    ],
)
def test_what_the_judge_finds(changes, fault, tmp_path):
    found = list(faults_of(CASE, WELL._replace(**changes), tmp_path))
    assert bool(found) == bool(fault)
    assert fault in "; ".join(found)


def test_the_judge_reads_the_config_of_a_run(place):
    case = Case("lr", ("train", "digits", "--set", "train.lr=0.25"), ("train.lr",))
    ending = WELL._replace(status=0, errors="", output=json.dumps({"loss": 1.0, "samples": 4}))
    assert list(faults_of(case, ending, place.run)) == ["train.lr was given as '0.25', and became 0.0005"]
    nothing = ending._replace(output=json.dumps({"loss": None, "samples": 4}))
    assert "trained on nothing" in list(faults_of(case, nothing, place.run))

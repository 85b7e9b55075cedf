"""What users write into a config file: each mistake is answered with one line, none is passed over."""

import pytest

from ziggurat.config import RunConfig, load_config, override, range_faults
from ziggurat.errors import UserError

WRONG = [
    ("train: {lr: 0.1, lr: 0.2}", "'lr' is given twice, in line 1 and here"),
    (
        "train:\n  lr: 0.1\nseed: 1\ntrain:\n  steps: 3\n",
        "'train' is given twice, in line 1 and here (line 4, column 1)",
    ),
    ("train.lr: 0.1\ntrain: {lr: 0.2}", "names train.lr twice"),
    ("pipeline: {cut: a}\nplan: {cut: b}", "names plan.cut twice"),
    ("lr: 0.1", "unknown setting 'lr': did you mean 'train.lr'?"),
    ("model: {lr: 0.1}", "unknown setting 'model.lr': did you mean 'train.lr'?"),
    ("train: {learning_rate: 0.1}", "unknown setting 'train.learning_rate'"),
    ("model: {levels_: p3}", "did you mean 'model.levels' or 'model.pnn.levels'?"),
    ("data: {weights: x}", "did you mean 'model.weights' or 'model.pnn.weights'?"),
    ("train: 5", "unknown setting 'train': it is a section"),
    ("train: [1, 2]", "unknown setting 'train': it is a section"),
    ("train: {lr: [0.1, 0.2]}", "train.lr must be one value: got a list"),
    ("train: {lr: {a: 1}}", "train.lr must be one value: got several settings"),
    ("train: {lr: }", "train.lr must be one value: got nothing"),
    ("train: {lr: 2020-01-01}", "train.lr must be one value: got 2020-01-01"),
    ("train: {lr: .nan}", "train.lr must be a number: got nan"),
    ("train: {lr: .inf}", "train.lr must be a number: got inf"),
    ("train: {lr: yes}", "train.lr must be a number: got true"),
    ("train: {steps: 1.5}", "train.steps must be a whole number: got 1.5"),
    ("train: {steps: 1e3}", "train.steps must be a whole number: got '1e3'"),
    ("data: {flip: no}", "data.flip must be one of none, horizontal, both: got false"),
    ("data: {classes: on}", "data.classes must be text: got true"),
    ('data: {path: "a\\0b"}', "data.path must be one line"),
    ("data: {path: |\n  a\n  b\n  }", "is not YAML"),
    ("seed: " + "9" * 5000, "is not YAML: a value is too long"),
    ("seed: 9" + "9" * 100, "seed must be from 0 to 4294967295: got a number of more than 60 digits"),
    ("seed: " + "[" * 3000, "is not YAML"),
    ("seed: 2020-13-45", "is not YAML: a value is too long, too deep, or a date that there is not"),
    ("", "it is empty"),
    ("- seed", "got a list"),
    ("seed", "got a single value"),
    ("seed: 1\n---\nseed: 2", "is not YAML: but found another document"),
    ("\tseed: 1", "is not YAML"),
    ("seed: *a", "is not YAML: found undefined alias"),
    ("a: &a {b: *a}", "unknown setting 'a'"),
    ("train: &a {lr: *a}", "train.lr must be one value: got several settings"),
    ("train: !!python/object/apply:os.system [x]", "is not YAML: could not determine a constructor"),
    ("? [1, 2]\n: 3", "is not YAML: found unhashable key"),
    ("null: 3", "unknown setting"),
    ("1: 3", "unknown setting '1'"),
]


def faults_of(path):
    try:
        return range_faults(load_config(path))
    except UserError as error:
        return error.faults


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:24].replace("\n", "|") for text, _ in WRONG])
def test_a_mistake_is_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    (fault,) = faults_of(path)
    assert message in fault
    assert "\n" not in fault
    assert not any(word in fault for word in ("NoneType", "dict", "datetime", "True", "False", "<class"))


def test_what_is_right_is_read(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes(
        "\ufefftrain:\n  lr: 1e-3\n  steps: 1_000\nmodel:\ndata.crop: 64\nplan.cut: layer2\n".encode()
    )
    expected = {"train.lr": 1e-3, "train.steps": 1000, "data.crop": 64, "pipeline.cut": "layer2"}
    assert load_config(path) == override(RunConfig(), expected)


@pytest.mark.parametrize("data", ["seed: 1".encode("utf-16"), b"seed: \xff"])
def test_what_is_not_utf_8_is_said(tmp_path, data):
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"is not YAML: byte [0-9]+ is not UTF-8; save it as UTF-8"):
        load_config(path)

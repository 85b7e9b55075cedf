"""An export is served in the place of a run: answers are what `ziggurat predict` with the same file writes, to the byte."""

import json

import pytest

from support.served import png
from ziggurat.cli.main import main
from ziggurat.commands.predict import predict
from ziggurat.commands.serve import models_of
from ziggurat.config.serve_config import ServeConfig
from ziggurat.errors import UserError
from ziggurat.serving.exchange import PICTURE, ROWS, Ask
from ziggurat.serving.replica import Replica

HERE = {"plan": "dp=1", "threads": 1}
PLACES = (0, 1, 3)  # two images of one size, and one of several tiles


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("by", "engine"), [("file", None), ("run", "openvino")])
def test_answers_are_those_of_predict(exported, tmp_path, by, engine):
    name = str(exported / "exports" / "model.onnx" if by == "file" else exported)
    (model,) = models_of([f"numbers={name}"], HERE, engine)
    replica = Replica(model, ServeConfig())
    try:
        asks = [Ask(str(place), png(place), f"{place}.png", frozenset({ROWS, PICTURE})) for place in PLACES]
        answers = replica.answer(asks)
    finally:
        replica.close()
    assert replica.card.name == "numbers"
    for place, answer in zip(PLACES, answers, strict=True):
        file, out = tmp_path / f"{place}.png", tmp_path / f"out-{place}"
        file.write_bytes(png(place))
        predict(name, [str(file)], str(out), HERE, engine=engine)
        text = (out / "predictions.json").read_text().replace(f"{tmp_path.as_posix()}/", "")
        assert json.dumps(answer.rows) == text
        assert answer.rows
        (picture,) = out.glob(f"{place}.*")
        assert answer.picture == picture.read_bytes()


def test_what_cannot_be_served_is_refused_by_name(exported, tmp_path, capsys):
    file = exported / "exports" / "model.onnx"
    with pytest.raises(UserError) as error:
        models_of([f"a={file}", f"b={exported}"], HERE, "torch")
    assert [str(file) in fault for fault in error.value.faults] == [True]
    assert "--engine torch cannot run" in error.value.faults[0]
    with pytest.raises(UserError, match="its plan is dp=N: got sp=2"):
        models_of([str(file)], {**HERE, "plan": "sp=2"})
    with pytest.raises(UserError, match="an export is no part of an average"):
        models_of([f"{file},{exported}"], HERE)
    other = tmp_path / "other.onnx"
    other.write_bytes(file.read_bytes()[:1000])
    assert main(["serve", str(other)]) == 2
    assert f"{other} is no ONNX file" in capsys.readouterr().err

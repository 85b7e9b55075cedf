"""Files that are damaged, swapped or made to do harm: each is refused by one message, and nothing in them is executed."""

import json
import os
import pickle
import resource
import shutil
import zipfile

import onnx
import pytest
import torch

from support.exported import images_of, spread_run
from ziggurat.errors import UserError
from ziggurat.exports.archives import check_archive
from ziggurat.exports.engines import ENGINES, open_engine, read_facts
from ziggurat.exports.exporting import Request, export_run
from ziggurat.exports.formats import FORMATS

FORMS = ("pt2", "onnx", "openvino")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The file of a small classifier in each format."""
    run = spread_run("classify", **{"model.name": "timm:test_resnet"})
    names, tiles = images_of(run, 1)
    folder = tmp_path_factory.mktemp("exports")
    made = {}
    for name in FORMS:
        path = folder / name / f"model{FORMATS[name].suffix}"
        made[name] = export_run(run, Request(name, path, names, tiles, 1, "")).path
    return made


def opened(path):
    """Open a file as `--engine` does."""
    facts = read_facts(path)
    return open_engine(path, facts, ENGINES[path.suffix][0], 1, "fp32")


def refused(path):
    """Return the one message of a file that is not opened."""
    with pytest.raises(UserError) as error:
        opened(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def copied(file, folder):
    shutil.copytree(file.parent, folder, dirs_exist_ok=True)
    return folder / file.name


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", FORMS)
def test_damaged_files(files, tmp_path, name):
    whole = files[name].read_bytes()
    assert opened(files[name])
    copy = copied(files[name], tmp_path)
    for share in (0.0, 0.001, 0.3, 0.9, 0.999):
        copy.write_bytes(whole[: int(len(whole) * share)])
        refused(copy)
    for content in (b"\x00" * 4096, b"PK\x03\x04" + os.urandom(4096), b"<?xml version='1.0'?><net>", b"{}"):
        copy.write_bytes(content)
        refused(copy)
    copy.write_bytes(whole)
    assert opened(copy)


def test_weights_that_are_missing_short_or_others(files, tmp_path):
    copy = copied(files["openvino"], tmp_path)
    weights = copy.with_suffix(".bin")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(copy)
    weights.unlink()
    refused(copy)
    told = []
    for place in (0, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        weights.write_bytes(changed)
        told.append(refused(copy))
    assert any("SHA-256" in one for one in told)  # OpenVINO itself sees what is no shape any more
    weights.write_bytes(whole)
    assert opened(copy)


@pytest.mark.parametrize("name", FORMS)
def test_files_of_another_format(files, tmp_path, name):
    for other in FORMS:
        if other != name:
            path = tmp_path / f"{other}{files[name].suffix}"
            shutil.copy(files[other], path)
            refused(path)


def test_the_metadata_of_another_graph(files, tmp_path):
    model = onnx.load(files["onnx"])
    facts = json.loads(model.metadata_props[0].value)
    wrong = [
        {"outputs": [{**one, "name": "boxes_xyxy"} for one in facts["outputs"]]}, {"outputs": [{}]}, {"outputs": [3]}, {"classes": 7},
        {"classes": [None]}, {"multiple": "32"}, {"multiple": 0}, {"config": []}, {"mean": ["x"]}, {"more": 1},
    ]  # fmt: skip
    for number, fields in enumerate(wrong):
        onnx.helper.set_model_props(model, {"ziggurat": json.dumps({**facts, **fields})})
        path = tmp_path / f"{number}.onnx"
        onnx.save(model, path)
        refused(path)


def test_weights_in_other_files(files, tmp_path):
    """A file that names others could have any file of the machine read."""
    model = onnx.load(files["onnx"])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    onnx.save(model, tmp_path / "model.onnx")
    assert "names other files for its weights" in refused(tmp_path / "model.onnx")


def rewritten(file, path, change, compression=zipfile.ZIP_STORED):
    """Write an archive anew; `change` takes the name below its folder and the content, and returns the content, or None to leave it out."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            content = change(name.partition("/")[2], old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def added(path, name, content):
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/{name}", content)
    return path


class Harm:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def test_archives_that_would_run_something(files, tmp_path):
    """Each place of an archive that PyTorch's loader unpickles, evaluates, calls or loads as a library."""
    harmed = tmp_path / "harmed"
    harm = pickle.dumps(Harm(harmed))
    torch.save(Harm(harmed), tmp_path / "harm.pt")
    saved = (tmp_path / "harm.pt").read_bytes()

    def in_json(name, old, new):
        def change(file, content):
            if file != name:
                return content
            assert old in content
            return content.replace(old, new)

        return change

    graph, weights = "models/model.json", "data/weights/model_weights_config.json"
    operation, size = b'"torch.ops.aten.relu_.default"', None
    with zipfile.ZipFile(files["pt2"]) as archive:
        text = next(archive.read(one) for one in archive.namelist() if one.endswith(graph))
    size = text[text.index(b'"expr_str": "') :].split(b'"', 4)[3]
    code = f"__import__('os').mkdir('{harmed}')".encode()
    changes = {
        "weights": lambda file, content: saved if file == "data/weights/weight_0" else (
            content.replace(b'"use_pickle": false', b'"use_pickle":true', 1) if file == weights else content
        ),
        "truthy": in_json(weights, b'"use_pickle": false', b'"use_pickle": 1'),
        "inputs": lambda file, content: saved if file == "data/sample_inputs/model.pt" else content,
        "place": in_json(weights, b'"path_name": "weight_0"', b'"path_name": "../../../x"'),
        "call": in_json(graph, operation, b'"torch.os.mkdir"'),
        "operator": in_json(graph, operation, b'"_operator.methodcaller"'),
        "file": in_json(graph, operation, b'"torch.ops.aten.from_file.default"'),
        "size": in_json(graph, size, code),
        "lambda": in_json(graph, size, b"(lambda: 1)()"),
        "sympify": in_json(graph, size, b"sympify('1')"),
        "attribute": in_json(graph, size, b"Integer(1).__class__"),
    }  # fmt: skip
    paths = [rewritten(files["pt2"], tmp_path / f"{name}.pt2", change) for name, change in changes.items()]
    for place in ("data/constants/opaque_obj_0", "data/constants/custom_obj_0", "data/weights/model.pt", "data/aotinductor/model/model.so"):  # fmt: skip
        paths.append(added(shutil.copy(files["pt2"], tmp_path / f"{len(paths)}.pt2"), place, harm))
    for path in paths:
        assert "is not opened: it holds" in refused(path), path
    assert not harmed.exists()
    torch.load(tmp_path / "harm.pt", weights_only=False)
    assert harmed.is_dir(), "it would have been made"
    check_archive(rewritten(files["pt2"], tmp_path / "same.pt2", lambda file, content: content))


def test_archives_that_grow(files, tmp_path):
    """What is compressed may be larger than it looks: it is refused before it is read."""
    path = rewritten(
        files["pt2"], tmp_path / "bomb.pt2",
        lambda file, content: b"\x00" * (200 << 20) if file == "data/weights/weight_0" else content, zipfile.ZIP_DEFLATED,
    )  # fmt: skip
    assert path.stat().st_size < 4 << 20
    facts = read_facts(files["pt2"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="which may be larger than it looks"):
        open_engine(path, facts, "torch", 1, "fp32")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10

"""Every byte class of a checkpoint damaged: detected, named, set aside, and the newest good one used."""

import json
import shutil

import pytest
import torch

from support.ranks import run_ranks
from support.states import checkpoints_of, chunks_of, make_state, names, saved
from ziggurat.errors import UserError
from ziggurat.runs.checkpoint import Progress, load_state
from ziggurat.runs.checkpoint.manifest import FileFacts, Manifest, read_manifest

FILES = [
    "manifest.json",
    "shard-00001-model-00001-of-00003.safetensors",
    "shard-00001-model-00002-of-00003.safetensors",
    "shard-00001-model-00003-of-00003.safetensors",
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("good")
    saved(folder, 1, 2)
    assert sorted(path.name for path in (folder / "step-2").iterdir()) == FILES
    return folder


def flip(share):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(share * (len(content) - 1))] ^= 1
        path.write_bytes(content)

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def grow(path):
    path.write_bytes(path.read_bytes() + b"\n")


def empty(path):
    path.write_bytes(b"")


def swap(path):
    """The same file of the older checkpoint: stale."""
    shutil.copy(path.parents[1] / "step-1" / path.name, path)


def link(path):
    """A file outside of the checkpoint, with the same bytes."""
    outside = path.parents[1] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def become_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = {
    "first byte": flip(0), "quarter": flip(0.25), "middle": flip(0.5), "last byte": flip(1),
    "cut": cut, "halved": halve, "grown": grow, "empty": empty, "missing": lambda path: path.unlink(),
    "stale": swap, "a folder": become_a_folder,
}  # fmt: skip


def resume(folder):
    checkpoints = checkpoints_of(folder)
    return checkpoints.find(), checkpoints.messages()


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_older_one_is_used(good, tmp_path, file, damage):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    DAMAGES[damage](folder / "step-2" / file)
    progress, messages = resume(folder)
    assert progress.step == 1
    (message,) = messages
    assert str(folder / "step-2") in message
    assert file in message, "the damaged file is named"
    assert message.endswith("set aside as step-2.bad")
    assert names(folder) == ["step-1", "step-2.bad"]
    state = make_state(steps=0)
    load_state(folder / "step-1", Progress(1), state)
    expected = make_state(steps=2).tensors()
    assert all(torch.equal(value, expected[name]) for name, value in state.tensors().items())


def test_no_bit_of_a_manifest_may_change(good, tmp_path):
    """Also where it would mean the same: the text must be the one that was written."""
    path = tmp_path / "manifest.json"
    content = (good / "step-2" / "manifest.json").read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
            read_manifest(tmp_path)
    path.write_bytes(content)
    assert read_manifest(tmp_path).step == 2


def test_two_good_ones_and_the_newest_is_used(good):
    assert resume(good) == (checkpoints_of(good).find(), [])
    assert resume(good)[0].step == 2


def test_a_link_is_no_file_of_the_checkpoint(good, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    link(folder / "step-2" / FILES[1])
    progress, (message,) = resume(folder)
    assert progress.step == 1
    assert "is not a file of the checkpoint's own folder" in message


def test_a_manifest_cannot_name_files_elsewhere(good, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    path = folder / "step-2" / "manifest.json"
    body = json.loads(path.read_text())["manifest"]
    files = body["files"] | {"../step-1/manifest.json": {"bytes": 1, "sha256": ""}}
    path.write_text(
        Manifest(**(body | {"files": {name: FileFacts(**facts) for name, facts in files.items()}})).text()
    )
    assert "names '../step-1/manifest.json', which is not a file" in resume(folder)[1][0]


def test_a_foreign_manifest_is_refused(good, tmp_path):
    """The checkpoint of another run, whole in itself."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    shutil.rmtree(folder / "step-2")
    other = checkpoints_of(folder, run="another")
    other.save(Progress(2), chunks_of(make_state(steps=1)))
    other.wait()
    progress, (message,) = resume(folder)
    assert progress.step == 1
    assert "manifest.json is that of a run with another definition" in message


def test_a_checkpoint_under_another_name_is_refused(good, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    shutil.copytree(folder / "step-1", folder / "step-9")
    progress, (message,) = resume(folder)
    assert progress.step == 2
    assert "manifest.json is that of step 1" in message


def test_a_file_that_the_manifest_does_not_name_is_refused(good, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    shutil.copy(
        folder / "step-2" / FILES[1], folder / "step-2" / "shard-00002-model-00001-of-00001.safetensors"
    )
    assert "shard-00002-model-00001-of-00001.safetensors is not in manifest.json" in resume(folder)[1][0]


def test_an_earlier_form_is_refused_by_its_name(good, tmp_path):
    (tmp_path / "step-4").mkdir()
    (tmp_path / "step-4" / "state.json").write_text('{"step": 4}')
    (tmp_path / "step-4" / "state.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="an earlier version has written it, whose form is not read any more"):
        resume(tmp_path)


def test_bad_names_do_not_collide(good, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    (folder / "step-2.bad").mkdir()
    cut(folder / "step-2" / FILES[0])
    resume(folder)
    assert names(folder) == ["step-1", "step-2.bad", "step-2.bad-2"]


def find_on(workers, folder):
    try:
        return checkpoints_of(folder, workers).find()
    except UserError as error:
        return error.faults


@pytest.mark.parametrize("world", [1, 3])
def test_when_none_is_good_all_workers_say_so(good, tmp_path, world):
    folder = tmp_path / "checkpoints"
    shutil.copytree(good, folder)
    cut(folder / "step-1" / FILES[1])
    empty(folder / "step-2" / FILES[0])
    found = run_ranks(find_on, world, (folder,))
    assert all(faults == found[0] for faults in found)
    assert len(found[0]) == 3
    assert FILES[1] in found[0][1]
    assert found[0][2] == f"no checkpoint of {folder} is usable: start another run"

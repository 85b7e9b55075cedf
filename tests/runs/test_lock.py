"""One run in one folder: who holds it is named, and whose process is dead holds it no more."""

import json
import os
import signal
import socket

import pytest

from faults.runs import run
from ziggurat.errors import UserError
from ziggurat.runs.lock import LOCK, locked
from ziggurat.system.forking import fork_context


def hold(folder, pipe):
    with locked(folder):
        pipe.send("held")
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    mine, theirs = fork_context().Pipe()
    process = fork_context().Process(target=hold, args=(tmp_path / "run", theirs))
    process.start()
    assert mine.recv() == "held"
    yield process
    process.kill()
    process.join()


def test_the_second_run_says_who_holds_the_folder_and_changes_nothing(tmp_path, holder):
    folder = tmp_path / "run"
    with pytest.raises(UserError) as caught:
        run(folder, "dp=2")
    (fault,) = caught.value.faults
    since = json.loads((folder / LOCK).read_text())["since"]
    who = f"process {holder.pid} on {socket.gethostname()} (since {since})"
    assert fault == f"{folder} is in use by {who}: choose another --out, or wait for its end"
    assert os.listdir(folder) == [LOCK]


def test_it_is_looked_at_before_the_settings(tmp_path, holder):
    with pytest.raises(UserError, match="is in use by process"):
        run(tmp_path / "run", "dp=2", train__batch_size="nonsense")


def test_what_a_dead_process_held_is_free(tmp_path, holder):
    holder.kill()
    holder.join()
    assert (tmp_path / "run" / LOCK).exists(), "it could not clean up"
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_lock_that_says_nonsense_is_free(tmp_path):
    (tmp_path / LOCK).write_text("[")
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_the_name_of_a_holder_on_another_machine_counts_for_nothing_where_the_kernel_knows_better(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "long ago"}))
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("out", ["run", "a/b/run"])
def test_settings_that_are_wrong_leave_no_folder(tmp_path, out):
    with pytest.raises(UserError, match="batch_size"):
        run(tmp_path / out, "dp=1", train__batch_size="nonsense")
    assert not os.listdir(tmp_path)


def test_a_folder_that_was_there_stays(tmp_path):
    with locked(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="a file has the name of its folder"):
        run(tmp_path / "run", "dp=1")

"""Files that are written whole or not at all: every cause is named with its remedy, and colleagues can read what is written."""

import errno
import os
import pickle
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from ziggurat.runs.board import Board
from ziggurat.system.writing import CAUSES, CannotWrite, Lines, Pictures, system_error, whole_file, write_text


@contextmanager
def files_of_at_most(size):
    """Let no file of this process grow over a size: the system's error as of a disk that fills in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def to_full_disk(folder):
    (folder / ".file.partial").symlink_to("/dev/full")


def folder_in_the_way(folder):
    (folder / "file").mkdir()


def partial_in_the_way(folder):
    (folder / ".file.partial").mkdir()


def removed(folder):
    folder.rmdir()


def file_as_folder(folder):
    folder.rmdir()
    folder.touch()


@pytest.mark.parametrize(
    ("obstacle", "cause"),
    [
        (to_full_disk, "no space is left on its disk; make room"),
        (folder_in_the_way, "a folder has its name; remove that folder"),
        (partial_in_the_way, "a folder has its name; remove that folder"),
        (removed, "its folder is not there any more; leave the folder"),
        (file_as_folder, "what should be its folder is a file; remove that file"),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_half_is_left(tmp_path, obstacle, cause):
    folder = tmp_path / "folder"
    folder.mkdir()
    obstacle(folder)
    with pytest.raises(CannotWrite) as caught:
        write_text(folder / "file", "text")
    assert str(caught.value).startswith(f"{folder / 'file'} cannot be written: {cause}")
    assert not (folder / "file").is_file()
    assert not (folder / ".file.partial").is_file()


@pytest.mark.parametrize("number", CAUSES)
def test_the_fault_travels_between_processes(tmp_path, number):
    fault = CannotWrite(tmp_path, OSError(number, os.strerror(number)))
    again = pickle.loads(pickle.dumps(fault))  # noqa: S301 - our own bytes
    assert (str(again), again.path, again.error.errno) == (str(fault), tmp_path, number)
    assert str(fault) == f"{tmp_path} cannot be written: {CAUSES[number][0]}; {CAUSES[number][1]}"


def test_an_older_file_stays_where_the_newer_one_has_no_room(tmp_path):
    write_text(tmp_path / "file", "old")
    with files_of_at_most(10), pytest.raises(CannotWrite, match="larger than files may be"):
        write_text(tmp_path / "file", "new" * 100)
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_mistake_of_the_program_is_none_of_the_disk(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file"):
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
    assert system_error(KeyError("x")) is None


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0o027, 0o640)])
def test_files_have_the_rights_that_the_user_gives_files(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        with whole_file(tmp_path / "weights") as partial:
            save_file({"x": torch.zeros(2)}, partial)
        write_text(tmp_path / "text", "")
        Lines(tmp_path / "lines").close()
        Board(tmp_path, 1).close()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_lines_that_a_full_disk_cuts_are_whole_once_there_is_room(tmp_path):
    lines = Lines(tmp_path / "lines")
    assert lines.add("first") is None
    with files_of_at_most(10):
        fault = lines.add("second, of which some letters find room")
        assert fault is not None
        assert fault.error.errno == errno.EFBIG
        assert lines.add("third") is not None
    assert lines.write(sync=True) is None
    lines.close()
    assert (tmp_path / "lines").read_text() == "first\nsecond, of which some letters find room\nthird\n"


def test_lines_know_that_their_file_was_removed(tmp_path):
    lines = Lines(tmp_path / "lines")
    (tmp_path / "lines").unlink()
    fault = lines.add("to nowhere")
    lines.close()
    assert isinstance(fault.error, FileNotFoundError)


def test_names_that_are_no_text_are_written(tmp_path):
    lines = Lines(tmp_path / "lines")
    assert lines.add("a\udce4b") is None
    lines.close()
    assert (tmp_path / "lines").read_text() == "a\\udce4b\n"


def test_pictures_may_be_missing_and_are_counted(tmp_path):
    pictures = Pictures()
    for name, target in (("a", None), ("b", "/dev/full"), ("c", None)):
        path = tmp_path / name
        if target:
            path.symlink_to(target)
        with pictures.write(path):
            path.write_text("picture")
    where = tmp_path / "b"
    assert str(pictures) == (
        f"1 of 3 pictures are missing; the first: {where} cannot be written: no space is left on its disk; make room"
    )
    assert sorted(os.listdir(tmp_path)) == ["a", "c"], "what there is of a half one is removed"


def test_a_board_without_room_ends_with_a_whole_event(tmp_path):
    board = Board(tmp_path, 1)
    board.add_scalar("loss", 1.0, 1)
    size = board.path.stat().st_size
    with files_of_at_most(size + 10):
        board.add_scalar("loss", 2.0, 2)
    assert board.fault is not None
    board.add_scalar("loss", 3.0, 3)
    board.close()
    assert board.path.stat().st_size == size

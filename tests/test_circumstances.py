"""The table of docs/circumstances.md: every row has a test; and what only a mount can show.

The mounts are private to a forked process (mount namespaces), which takes root or user namespaces; without either they are skipped.
"""

import ctypes
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from support.commands import TINY
from test_terminal import become_command
from ziggurat.system.forking import fork_context

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "circumstances.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if re.match(r"\| (?!what happens)", line)
]
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000  # CLONE_NEWNS, CLONE_NEWUSER of <sched.h>


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_every_row_has_a_status_and_a_test_that_exists(row):
    _, done, status, _, test = row
    assert done
    assert status in ("0", "1", "2", "75", "130", "141")
    file, _, name = test.strip("`").partition("::")
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def unshare():
    """Give this process mounts of its own, and return whether that is possible."""
    libc, user, group = ctypes.CDLL(None), os.getuid(), os.getgid()
    if libc.unshare(NEW_MOUNTS) == 0:
        return True
    if libc.unshare(NEW_MOUNTS | NEW_USERS):
        return False
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    return True


def become_mounted(words, streams, room, size, read_only):
    """Be a command in whose mounts a small disk is at `room`, and some folders are read-only."""
    if not unshare():
        os._exit(77)
    commands = [["mount", "--make-rprivate", "/"]]
    for place in read_only:
        commands += [["mount", "--bind", place, place], ["mount", "-o", "remount,ro,bind", place]]
    commands += [["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", room]]
    for command in commands:
        if subprocess.run([str(word) for word in command], capture_output=True, check=False).returncode:
            os._exit(77)
    os.chdir(room)
    become_command(words, streams, "utf-8")


def run_mounted(words, room, size, read_only=()):
    """Run a command with mounts of its own; return status, output and what was said."""
    files = {number: os.memfd_create(name) for number, name in ((1, "out"), (2, "err"))}
    process = fork_context().Process(target=become_mounted, args=(words, files, room, size, read_only))
    process.start()
    process.join()
    written = [os.pread(file, 1 << 20, 0).decode() for file in files.values()]
    for file in files.values():
        os.close(file)
    if process.exitcode == 77:
        pytest.skip("this process may not make mounts of its own")
    return process.exitcode, *written


def train(*more):
    return ["train", "digits", "--plan", "dp=2", "--out", "run", "--dtype", "fp32", *TINY, *more]


def test_a_disk_that_fills(tmp_path):
    """One checkpoint of two has room; then weights and pictures have none."""
    words = train("--steps", "4", "--set", "train.checkpoint_every=2")
    status, out, said = run_mounted(words, tmp_path, "8M")
    assert (status, out) == (2, "")
    assert "Traceback" not in said
    lines = said.splitlines()
    assert any(line.startswith("evaluation: map") for line in lines), "all that can be done is done"
    assert lines[-1].startswith(
        "ziggurat: run/weights.safetensors cannot be written: no space is left on its disk"
    )
    resume = "`ziggurat train --out run --resume` writes what is missing"
    assert lines[-1].endswith(f"the newest state is run/checkpoints/step-2: {resume}")


def test_all_but_the_runs_folder_is_read_only(tmp_path, monkeypatch):
    home, room = tmp_path / "home", tmp_path / "room"
    home.mkdir()
    room.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    read_only = [
        place for place in (Path("/tmp"), Path("/var/tmp"), tmp_path, Path("/dev/shm")) if place.is_dir()
    ]
    status, out, said = run_mounted(train("--json", "--set", "data.workers=1"), room, "64M", read_only)
    assert status == 0, said
    assert json.loads(out)["steps"] == 2
    assert said.splitlines()[0].startswith(
        "ziggurat: note: /dev/shm cannot be written (Read-only file system)"
    )
    assert "Traceback" not in said

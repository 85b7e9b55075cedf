"""Commands without a terminal, with closed, full or narrow streams, and in other languages' encodings.

`check` of a small data set is the command: it prints to both streams. Its process is forked, as the imports take most of its time. How whole runs live with
signals of terminals is in `tests/runs/test_preemption.py`, with full disks in `tests/runs/test_full_disk.py`.
"""

import io
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from support.commands import TINY
from ziggurat.cli.main import main
from ziggurat.metrics.findings import ClassRow
from ziggurat.report.table import print_table
from ziggurat.runs.log import RunLog
from ziggurat.system.forking import fork_context

CLASSES = ["B\u00e4ume", "木", "🌲"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of classes whose names are no ASCII, with a file whose name is no text, and one that is no image."""
    folder = tmp_path_factory.mktemp("Wälder")
    for name in CLASSES:
        (folder / "train" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "train" / name / "ä.png")
    with open(os.fsencode(folder / "train" / CLASSES[1]) + b"/\xe4.png", "wb") as file:
        file.write(b"no image")
    return folder


def become_command(words, streams, encoding):
    """Be the process of a command: with streams as Python makes them when it starts, None for one that is closed."""
    for number, file in streams.items():
        if file is None:
            os.close(number)
        else:
            os.dup2(file, number)
    sys.stdout = None if streams.get(1, 1) is None else open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = None
    if streams.get(2, 2) is not None:
        sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["ziggurat", *map(str, words)]
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(words, encoding="utf-8", **streams):
    """Run a command; `out` and `err` are files, or None for a stream that is closed; return status, output and what was said."""
    files = {number: os.memfd_create(name) for number, name in ((1, "out"), (2, "err"))}
    given = files | {("in", "out", "err").index(name): file for name, file in streams.items()}
    process = fork_context().Process(target=become_command, args=(words, given, encoding))
    process.start()
    process.join()
    written = [os.pread(file, 1 << 20, 0) for file in files.values()]
    for file in files.values():
        os.close(file)
    return process.exitcode, *written


@pytest.fixture
def full():
    with open("/dev/full", "wb") as file:
        yield file.fileno()


@pytest.fixture
def reader_gone():
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_names_of_other_alphabets_under_few_characters(data):
    """Also one that is no text in any encoding."""
    status, out, err = run(["check", data], "ascii")
    assert (status, err) == (1, b"")
    assert out.isascii()
    assert b"1 faults" in out
    assert rb"B\xe4ume" in out
    assert rb"\udce4.png" in out


@pytest.mark.sampled(0)
def test_the_language_c(data):
    """Python then takes UTF-8; a whole process, as the encoding of names is settled when it starts."""
    words = [sys.executable, "-m", "ziggurat", "check", str(data)]
    environment = os.environ | {"LANG": "C", "LC_ALL": "C"}
    ended = subprocess.run(words, capture_output=True, env=environment, check=False, timeout=200)
    assert (ended.returncode, ended.stderr) == (1, b"")
    assert CLASSES[0] in ended.stdout.decode("utf-8")


def test_a_name_that_is_no_text_where_all_text_can_be_written(data):
    status, out, _ = run(["check", data])
    assert status == 1
    assert all(name in out.decode("utf-8") for name in (*CLASSES, r"\udce4.png"))
    status, out, _ = run(["check", data, "--json"])
    assert status == 1
    assert json.loads(out)["classes"] == sorted(CLASSES)


@pytest.mark.parametrize("closed", [["out"], ["err"], ["in", "out", "err"]])
def test_closed_streams(data, closed):
    """The status is that of the data set, which has a fault."""
    assert run(["check", data], **dict.fromkeys(closed)) == (
        1,
        run(["check", data])[1] if closed == ["err"] else b"",
        b"",
    )


def test_full_and_abandoned_streams(data, full, reader_gone):
    output = run(["check", data])[1]
    assert run(["check", data], err=full) == (1, output, b"")
    assert run(["check", data], err=reader_gone) == (1, output, b"")
    said = b"ziggurat: the output cannot be written: No space left on device\n"
    assert run(["check", data], out=full) == (1, b"", said)
    assert run(["check", data], out=reader_gone) == (141, b"", b"")


def test_a_run_whose_progress_nobody_reads_goes_on(tmp_path, reader_gone):
    """As `ziggurat train ... 2>&1 | head -1` does, with two workers; standard output, which has the result, is read."""
    words = ["train", "digits", "--plan", "dp=2", "--out", tmp_path / "run", "--json", *TINY]
    status, out, _ = run([*words, "--set", "train.report=numbers"], err=reader_gone)
    assert status == 0
    assert json.loads(out)["steps"] == 2
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "step 2/2" in log
    assert "evaluation: map" in log


def all_that_was_written(leader: int) -> bytes:
    """Read a terminal whose other side is closed to its end: one read may return less than all, and the end is an error."""
    shown = b""
    with suppress(OSError), os.fdopen(leader, "rb", buffering=0) as terminal:
        while piece := terminal.read(1 << 16):
            shown += piece
    return shown


def test_a_progress_bar_has_an_ascii_form(tmp_path, monkeypatch):
    """On a terminal whose encoding knows nothing else, and which is narrow."""
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="ascii", errors="backslashreplace") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "60")
        with RunLog(tmp_path, 3, 0, True) as log:
            log.step({"step": 1, "loss": 1.0, "images_per_second": 8.0, "lr": 0.1})
            log.watch("evaluation", "tiles")(1, 2)
            log.say("B\u00e4ume")
    shown = all_that_was_written(leader)
    assert shown.isascii()
    assert b"1/3" in shown
    assert b"evaluation 1/2 tiles" in shown
    assert rb"B\xe4ume" in shown


def test_a_table_has_an_ascii_form():
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace"), width=50)
    rows = [ClassRow(name, 3, {"AP": 0.5}) for name in CLASSES]
    findings = type(
        "Shown",
        (),
        {"metrics": {"map": 0.5, "map_small": None}, "rows": rows, "unit": "objects", "scores": None},
    )()
    print_table(console, findings)
    console.file.flush()
    assert raw.getvalue().isascii()
    assert b"objects" in raw.getvalue()

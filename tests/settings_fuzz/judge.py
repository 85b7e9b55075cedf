"""Running a case in a process of its own, and judging how it has ended."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from safetensors.torch import load_file

from settings_fuzz.cases import Case
from settings_fuzz.data import Place, write_csv
from ziggurat.cli.main import main
from ziggurat.runs.members import MEMBERS
from ziggurat.system.forking import fork_context

SILENCE = 10.0  # seconds without a word
LONGEST = 120.0
PYTHON = re.compile(
    r"Traceback|NoneType|\bNone\b|\bTrue\b|\bFalse\b|<class|object at 0x|\w+Error\b|\bdict\b|\btuple\b|\bint\(\)|__\w+__|datetime\."
)


class Ending(NamedTuple):
    """How a case has ended.

    Attributes:
        status: The exit status; -1 where it was killed.
        output: What it said on standard output.
        errors: What it said on standard error.
        seconds: How long it took.
        silence: The longest time without a word.
        left: Processes that it has left.
    """

    status: int
    output: str
    errors: str
    seconds: float
    silence: float
    left: list[int]


def run_case(case: Case, place: Place, folder: Path) -> tuple[Ending, list[str]]:
    """Run a case, and return how it has ended and what is wrong with that.

    Args:
        case: The case.
        place: Of the data that it reads.
        folder: An empty one, which is removed.
    """
    folder.mkdir()
    try:
        words = _words(case, place, folder)
        ending = run_words(words)
        return ending, list(faults_of(case, ending, folder / "out"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _words(case: Case, place: Place, folder: Path) -> list[str]:
    paths = {
        "{out}": folder / "out",
        "{run}": place.run,
        "{images}": place.images,
        "{config}": folder / "config.yaml",
    }
    if case.csv or "{csv}" in case.words:
        paths["{csv}"] = write_csv(place, folder / "set", case.csv)
    paths["{config}"].write_text(case.config, encoding="utf-8", newline="")
    return [str(paths.get(word, word)) for word in [*case.words, "--json"]]


def run_words(words: list[str]) -> Ending:
    """Run a command in a process that leads a session of its own."""
    output, output_end = os.pipe()
    errors, errors_end = os.pipe()
    process = fork_context().Process(target=_child, args=(words, output_end, errors_end))
    begin = last = time.monotonic()
    process.start()
    os.close(output_end)
    os.close(errors_end)
    found, silence = {output: b"", errors: b""}, 0.0
    open_ends = {output, errors}
    while open_ends:
        ready, _, _ = select.select(list(open_ends), [], [], SILENCE)
        now = time.monotonic()
        silence, last = max(silence, now - last), now
        for end in ready:
            data = os.read(end, 1 << 16)
            found[end] += data
            if not data:
                open_ends.discard(end)
        if not ready or now - begin > LONGEST:
            break
    seconds = time.monotonic() - begin
    process.join(SILENCE if not open_ends else 0)
    left = [pid for pid in session_of(process.pid or 0) if pid != process.pid]
    status = process.exitcode if process.exitcode is not None else -1
    for pid in session_of(process.pid or 0):
        os.kill(pid, signal.SIGKILL)
    process.join()
    for end in (output, errors):
        os.close(end)
    texts = [found[end].decode("utf-8", "backslashreplace") for end in (output, errors)]
    return Ending(status, texts[0], texts[1], seconds, silence, left)


def _child(words: list[str], output: int, errors: int) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.close(output)
    os.close(errors)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    try:
        status = main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:  # noqa: BLE001 - what a program does not catch ends it with a traceback
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def session_of(leader: int) -> list[int]:
    """Return the processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def faults_of(case: Case, ending: Ending, out: Path) -> Iterator[str]:
    """Yield what is wrong with the end of a case."""
    if ending.silence > SILENCE or ending.status == -1:
        yield f"silent for {ending.silence:.0f} s"
    if ending.left:
        yield f"left {len(ending.left)} processes"
    if "Traceback" in ending.errors or "Warning" in ending.errors:
        yield "a traceback, or a warning of Python's"
    elif ending.status == 2:
        yield from _faults_of_refusal(case, ending)
    elif ending.status == 0:
        yield from _faults_of_run(case, ending, out)
    elif not (ending.status == 1 and case.words[0] in ("check", "verify")):
        yield f"status {ending.status}"


def _faults_of_refusal(case: Case, ending: Ending) -> Iterator[str]:
    start = ending.errors.find("ziggurat: ")
    messages = re.findall(r"^ziggurat: (?!note: )", ending.errors, re.MULTILINE)
    if len(messages) != 1:
        yield f"{len(messages)} messages"
    message = ending.errors[start:]
    if PYTHON.search(message):
        yield f"a word of Python's: {PYTHON.search(message)}"
    if len(message) > 4000:
        yield f"a message of {len(message)} characters"
    if case.about and not any(word in message for word in case.about):
        yield f"names none of {', '.join(case.about)}"


def _faults_of_run(case: Case, ending: Ending, out: Path) -> Iterator[str]:
    try:
        result = json.loads(ending.output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        yield "no result"
        return
    if case.words[0] == "train":
        held = out / "config.yaml"
        if (out / MEMBERS).is_file():  # the first of several runs stands for all
            held, out, result = out / MEMBERS, out / "member-0", result["members"][0]
        weights = load_file(out / "weights.safetensors")
        if not all(value.isfinite().all() for value in weights.values()):
            yield "weights that are not finite"
        if result["loss"] is None or result["samples"] == 0:
            yield "trained on nothing"
        yield from _faults_of_config(case, held)


def _faults_of_config(case: Case, config: Path) -> Iterator[str]:
    """Yield where the config of a run does not say what was given."""
    key, _, given = case.words[-1].partition("=")
    tree = yaml.safe_load(config.read_text(encoding="utf-8"))
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    if tree is None or case.words[-2] != "--set":
        return
    same = str(tree) == given or str(tree).lower() == given.lower().strip()
    try:
        same = same or float(tree) == float(given)
    except ValueError:
        same = same or given in ("", "auto", "none")
    if not same and not (given == "0" and tree):  # 0 is resolved: threads, microbatches
        yield f"{key} was given as {given!r}, and became {tree!r}"

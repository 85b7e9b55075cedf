"""Jobs: predictions of large images, which take longer than a request may.

A job is a folder: what is asked for, its state, and its results. Each is run by a process of its own, which does what
``ziggurat predict`` does, under any plan: so it is stopped by ending the process, its memory is given back, and one that was killed
together with the server goes on where it was (`--resume`).

    jobs/0b7f.../job.json     what is asked for, and the state: queued, running, done, failed, cancelled
    jobs/0b7f.../result/      all that `predict` writes
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ziggurat.config.serve_config import ServeConfig, format_of_bytes
from ziggurat.errors import nearest
from ziggurat.serving.exchange import Refused

STATE, RESULT = "job.json", "result"
PROGRAM = (sys.executable, "-m", "ziggurat.cli.child")
# Of images whose bytes are looked at; lists, tables and mosaics name further files, and are none.
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".btf",
    ".svs",
    ".ndpi",
    ".scn",
)
KEYS = ("model", "images", "format", "pictures", "classes", "score")
MOST_IMAGES = 10_000
MOST_ATTEMPTS = 3  # of a job whose server is killed meanwhile
STOP_SECONDS = 10.0  # that a process has to end
TAIL_BYTES = 4096
WAITING = ("queued", "running")


@dataclass(frozen=True)
class Job:
    """A prediction that is asked for.

    Attributes:
        id: Its name.
        model: Which.
        images: Files, by their real paths.
        flags: Of the command.
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.
        created: Seconds since 1970.
        progress: What the command last said of how far it is.
        error: Why it has failed.
        result: The fields of the command's JSON object.
        attempts: How often it was begun.
        files: What it has written, from its result's folder on.
    """

    id: str
    model: str
    images: tuple[str, ...]
    flags: tuple[str, ...]
    state: str = "queued"
    created: float = 0.0
    progress: str = ""
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    attempts: int = 0
    files: tuple[str, ...] = ()

    @property
    def shown(self) -> dict[str, Any]:
        """What is said of it."""
        known = {
            "id": self.id, "model": self.model, "state": self.state, "images": len(self.images), "created": self.created,
            "progress": self.progress,
        }  # fmt: skip
        if self.state == "failed":
            known["error"] = self.error
        if self.state == "done":
            known["result"] = {name: self.result[name] for name in sorted(self.result) if name not in _PLACES}
            known["files"] = [f"/jobs/{self.id}/files/{name}" for name in self.files]
        return known


_PLACES = ("predictions", "table", "files", "pictures")  # places on the server's disk


class Jobs:
    """All jobs of a server, and what runs them: one after the other.

    Args:
        folder: Of the jobs; those that have not ended go on.
        allowed: Folders below which images may lie.
        commands: Of each model, the words of the command that predicts with it, but for images and places.
        config: Limits.
        program: What runs the words of a command; its first argument is the number of this process, with which it ends.
    """

    def __init__(
        self,
        folder: Path,
        allowed: Sequence[Path],
        commands: Mapping[str, Sequence[str]],
        config: ServeConfig,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._program = tuple(program)
        self.folder, self.config, self.commands = folder, config, commands
        self.allowed = tuple(path.resolve() for path in allowed)
        folder.mkdir(parents=True, exist_ok=True)
        self._jobs = {job.id: job for job in sorted(_read(folder), key=lambda job: job.created)}
        for job in self._jobs.values():
            if job.state == "running":  # as its server was killed
                self._put(replace(job, state="queued"))
        self._process: asyncio.subprocess.Process | None = None
        self._current = ""
        self._more = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None  # of a process that is cancelled

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        return sorted(self._jobs.values(), key=lambda job: -job.created)

    def get(self, name: str) -> Job:
        """Return a job.

        Raises:
            Refused: If there is none.
        """
        if name not in self._jobs:
            raise Refused(404, "there is no such job: GET /jobs lists them")
        return self._jobs[name]

    def add(self, body: bytes, name_of: Callable[[str], str]) -> Job:
        """Put a job behind the others.

        Args:
            body: Of the request.
            name_of: Returns the name of the model that is meant, or refuses it.

        Raises:
            Refused: If what is asked for is not possible, or too many jobs wait.
        """
        if sum(job.state in WAITING for job in self._jobs.values()) >= self.config.max_jobs:
            raise Refused(429, f"{self.config.max_jobs} jobs wait already (--max-jobs): try again", 30)
        tree = _tree(body)
        model = name_of(tree.get("model", ""))
        job = Job(uuid.uuid4().hex, model, self._images(tree), _flags(tree), created=time.time())
        (self.folder / job.id).mkdir()
        self._put(job)
        self._forget()
        self._more.set()
        return job

    def cancel(self, name: str) -> Job:
        """Stop a job, or take it out of the queue; one that has ended is removed with its results."""
        job = self.get(name)
        if job.state in WAITING:
            job = self._put(replace(job, state="cancelled"))
            if self._current == name and self._process is not None:
                self._ending = asyncio.get_running_loop().create_task(_end(self._process))
        elif self._current != name:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            del self._jobs[name]
        return job

    def file(self, name: str, path: str) -> Path:
        """Return a file of a job's results.

        Raises:
            Refused: If there is none.
        """
        job = self.get(name)
        if path not in job.files:
            raise Refused(404, "the job has no such file: its state lists those that it has")
        return self.folder / name / RESULT / path

    async def run(self) -> None:
        """Run jobs, one after the other, until this is cancelled; the one that runs then goes on with the next server."""
        try:
            while True:
                job = next((one for one in self._jobs.values() if one.state == "queued"), None)
                if job is None:
                    self._more.clear()
                    await self._more.wait()
                    continue
                self._current = job.id
                await self._run(job)
                self._current = ""
        finally:
            if self._process is not None:
                await _end(self._process)

    async def _run(self, job: Job) -> None:
        here = self.folder / job.id
        if job.attempts >= MOST_ATTEMPTS:
            self._put(
                replace(job, state="failed", error=f"the server was lost {job.attempts} times while it ran")
            )
            return
        job = self._put(replace(job, state="running", attempts=job.attempts + 1))
        words = [
            *self._program, str(os.getpid()), *self.commands[job.model], *job.images, *job.flags,
            "--out", str(here / RESULT), "--resume", "--json",
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            start_new_session=True, limit=1 << 26,
        )  # fmt: skip
        self._process = process
        assert process.stderr is not None
        assert process.stdout is not None
        said, output = await asyncio.gather(self._listen(job.id, process.stderr), process.stdout.read())
        status = await process.wait()
        self._process = None
        if self._jobs[job.id].state == "cancelled":
            shutil.rmtree(here / RESULT, ignore_errors=True)
            return
        lines = output.decode(errors="replace").strip().splitlines()
        if status in (0, 1) and lines and lines[-1].startswith("{"):
            files = sorted(
                str(one.relative_to(here / RESULT)) for one in (here / RESULT).rglob("*") if one.is_file()
            )
            self._put(
                replace(
                    self._jobs[job.id],
                    state="done",
                    progress="",
                    result=json.loads(lines[-1]),
                    files=tuple(files),
                )
            )
            return
        self._put(replace(self._jobs[job.id], state="failed", error=_reason(said, status)))

    async def _listen(self, name: str, stream: asyncio.StreamReader) -> str:
        """Take what a command says, keep its end, and show the lines that say how far it is."""
        said = ""
        while line := await stream.readline():
            text = line.decode(errors="replace").strip()
            said = f"{said}\n{text}"[-TAIL_BYTES:]
            if re.search(r"\d+/\d+ \w+", text) and self._jobs[name].state == "running":
                self._jobs[name] = replace(self._jobs[name], progress=text[:200])
        return said

    def _images(self, tree: dict[str, Any]) -> tuple[str, ...]:
        given = tree.get("images")
        if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
            raise Refused(400, "images must be a list of paths of files")
        if len(given) > MOST_IMAGES:
            raise Refused(413, f"a job may have {MOST_IMAGES} images: got {len(given)}; ask for several jobs")
        found = []
        for one in given:
            path = self._allowed(one)
            if path is None:  # one answer for all: it tells nothing of what lies elsewhere
                folders = ", ".join(map(str, self.allowed))
                raise Refused(
                    403,
                    f"images must be files of images below {folders} (--allow): {_shown(one)} is none; name one that is",
                )
            found.append(str(path))
        return tuple(found)

    def _allowed(self, text: str) -> Path | None:
        """Return the real place of a file below an allowed folder; None if it is none."""
        if "\0" in text or len(text) > 4096:
            return None
        try:
            path = Path(text)
            real = (path if path.is_absolute() else self.allowed[0] / path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        is_below = any(real.is_relative_to(folder) for folder in self.allowed)
        if not is_below or not real.is_file() or real.suffix.lower() not in SUFFIXES:
            return None
        with real.open("rb") as file:
            return real if format_of_bytes(file.read(16)) else None

    def _put(self, job: Job) -> Job:
        self._jobs[job.id] = job
        target = self.folder / job.id / STATE
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(job)), encoding="utf-8")
        partial.replace(target)
        return job

    def _forget(self) -> None:
        """Remove the oldest jobs that have ended, if there are too many."""
        ended = [job for job in self.all() if job.state not in WAITING]
        for job in ended[self.config.keep_jobs :]:
            shutil.rmtree(self.folder / job.id, ignore_errors=True)
            del self._jobs[job.id]


def _read(folder: Path) -> list[Job]:
    jobs = []
    for file in folder.glob(f"*/{STATE}"):
        tree = json.loads(file.read_text(encoding="utf-8"))
        for name in ("images", "flags", "files"):
            tree[name] = tuple(tree[name])
        jobs.append(Job(**tree))
    return jobs


def _tree(body: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise Refused(400, f"a job must be a JSON object with {', '.join(KEYS)}")
    for key in tree:
        if key not in KEYS:
            raise Refused(400, f"a job has no {_shown(key)}: {nearest(key[:100], KEYS)}")
    if not isinstance(tree.get("model", ""), str):
        raise Refused(400, "model must be the name of a model")
    return tree


def _flags(tree: dict[str, Any]) -> tuple[str, ...]:
    """Return the flags of the command; each value is checked here, so that none is taken for a flag."""
    flags: list[str] = []
    for key in ("format", "pictures", "classes"):
        value = tree.get(key)
        if value is None:
            continue
        if not isinstance(value, str) or not re.fullmatch(r"[^\W-][^\0\n]{0,499}", value):
            raise Refused(400, f"{key} must be text of up to 500 letters, such as {_EXAMPLES[key]}")
        flags += [f"--{key}={value}"]
    score = tree.get("score")
    if score is not None:
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
            raise Refused(400, "score must be a number from 0 to 1")
        flags += [f"--score={score}"]
    return tuple(flags)


_EXAMPLES = {"format": "coco,csv,geojson", "pictures": "overview", "classes": "oak,ash"}


def _reason(said: str, status: int) -> str:
    lines = [line for line in said.strip().splitlines() if line]
    own = [number for number, line in enumerate(lines) if line.startswith("ziggurat: ")]
    told = "\n".join(lines[own[-1] :]) if own else "\n".join(lines[-3:])
    return told.removeprefix("ziggurat: ") or f"the command has ended with status {status}"


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        process.send_signal(number)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process, at once if it does not by itself."""
    _signal(process, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        _signal(process, signal.SIGKILL)
        await process.wait()


def _shown(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:100])

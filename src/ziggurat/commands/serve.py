"""`ziggurat serve`: answers requests for predictions over HTTP, on Ray Serve."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from ziggurat.commands.notes import say
from ziggurat.commands.runs import members_of
from ziggurat.config.serve_config import ServeConfig
from ziggurat.errors import Faults, UserError
from ziggurat.exports.engines import EngineName
from ziggurat.serving.opening import Served
from ziggurat.system.scratch import scratch_folder

PACKAGES = ("ray", "starlette", "prometheus_client", "python_multipart")
MODULE = "ziggurat.serving.ray_app"  # imported once it is known that Ray is there
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nobody is told what it is used for
    # a proxy that was killed is noticed at the third look that fails, and a new one may take its time on a busy machine
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
_NAME = r"[A-Za-z0-9][\w.-]{0,63}"


def serve(
    runs: Sequence[str | os.PathLike[str]],
    settings: Mapping[str, Any] | None = None,
    config: ServeConfig | None = None,
    *,
    allow: Sequence[str | os.PathLike[str]] = (),
    jobs: str | os.PathLike[str] | None = None,
    address: str = "",
    log: str = "",
    engine: EngineName | None = None,
    ready: threading.Event | None = None,
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """Answer requests until Ctrl-C, SIGTERM, or an event.

    Args:
        runs: What is served: ``RUN`` or ``NAME=RUN`` (a run, a checkpoint of it, a file of weights, an export, or several runs with commas
            between whose predictions are averaged); the first is asked if a request names none.
        settings: From dotted names to values, for all of them.
        config: Limits and places.
        allow: Folders below which images of jobs may lie; without one no jobs are taken.
        jobs: Folder of the jobs; by default one that is removed at the end.
        address: Of a cluster of Ray; empty starts one on this machine.
        log: File to which a line of JSON for each request is added; empty takes standard error.
        engine: What computes, for all of them; as for `ziggurat.predict`.
        ready: Is set once requests are answered.
        stop: Ends it.

    Returns:
        ``models``, ``address``, ``seconds`` (until all replicas answered) and ``served_seconds``.

    Raises:
        UserError: If runs, settings or limits are not usable, or the port is taken.
    """
    if missing := [
        name for name in PACKAGES if importlib.util.find_spec(name) is None
    ]:  # Ray takes seconds to import
        raise UserError(
            f"ziggurat serve needs the packages {', '.join(missing)}: pip install 'ziggurat[serve]'"
        )
    config, faults = config or ServeConfig(), Faults()
    faults.of(config.check)
    models = faults.of(models_of, runs, settings, engine) or []
    faults.of(_check_port, config.host, config.port)
    folders = [folder for one in allow if (folder := faults.of(_folder, one))]
    if jobs is not None and not allow:
        faults.append("--jobs is for jobs, whose images lie below a folder: name it by --allow DIR")
    if faults:
        raise UserError(faults)
    begin = time.perf_counter()
    with (
        _Stopping(stop or threading.Event()) as stopping,
        _ray_environment(),  # read as Ray is imported
        scratch_folder("ziggurat-jobs-") as own,
    ):
        ray_app: Any = importlib.import_module(MODULE)
        places = None
        if folders:
            commands = {one.name: _command(one, settings or {}) for one in models}
            here = Path(jobs).absolute() if jobs is not None else own
            places = ray_app.JobPlaces(str(here), tuple(map(str, folders)), commands)
        try:
            handle = ray_app.start(models, config, address, places, str(Path(log).absolute()) if log else "")
            stopping.listen()
            seconds = time.perf_counter() - begin
            url = f"http://{config.host}:{config.port}"
            names = ", ".join(f"{one.name} (plan {one.config.plan})" for one in models)
            say(f"serving {names} at {url} with {config.replicas} replicas each; Ctrl-C ends it")
            if ready is not None:
                ready.set()
            stopping.stop.wait()
            say("ending: requests under way are answered, no others")
            ray_app.drain(handle, config)
        finally:
            ray_app.stop(address)
    return {
        "models": [one.name for one in models],
        "address": url,
        "seconds": seconds,
        "served_seconds": time.perf_counter() - begin - seconds,
    }


def models_of(
    runs: Sequence[str | os.PathLike[str]],
    settings: Mapping[str, Any] | None = None,
    engine: EngineName | None = None,
) -> list[Served]:
    """Return what is served, of runs or ``NAME=RUN``; the arguments are those of `serve`.

    Raises:
        UserError: Listing what is wrong with each.
    """
    faults = Faults()
    models = [
        found for one in _named(runs, faults) if (found := faults.of(_served, *one, settings or {}, engine))
    ]
    if faults:
        raise UserError(faults)
    return models


def _named(runs: Sequence[str | os.PathLike[str]], faults: list[str]) -> list[tuple[str, str]]:
    """Return name and run of each model."""
    found: dict[str, str] = {}
    for one in (str(os.fspath(run)) for run in runs):
        name, equals, run = one.partition("=")
        if not equals or Path(one).exists() or not re.fullmatch(_NAME, name):
            parts = [part for part in Path(one.partition("@")[0]).absolute().parts if part != "/"]
            name, run = re.sub(r"[^\w.-]", "-", parts[-1] if parts else "model", flags=re.ASCII), one
        if name in found or name == "door":
            faults.append(f"models need names of their own: {name} is taken; give NAME=RUN for {run}")
        found.setdefault(name, run)
    return list(found.items())


def _served(name: str, run: str, settings: Mapping[str, Any], engine: EngineName | None) -> Served:
    settings = {"plan": "dp=1", **settings}  # a replica is one worker; more of them answer more requests
    members = members_of(run, settings, "predict", engine)
    here = tuple(str(Path(one).absolute()) for one in members.names)  # replicas run elsewhere
    return Served(name, members._replace(names=here))


def _command(served: Served, settings: Mapping[str, Any]) -> list[str]:
    """Return the words of the command that predicts with a model, up to the images."""
    words = ["predict", ",".join(served.runs.names)]
    for name, value in {**settings, "plan": served.config.plan, "threads": served.config.threads}.items():
        words[1:1] = ["--set", f"{name}={value}"]
    if served.runs.engine is not None:
        words[1:1] = ["--engine", served.runs.engine]
    return words


def _folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"--allow names folders of images: {path} is none; correct the path")
    return path.resolve()


def _check_port(host: str, port: int) -> None:
    """See whether a port can be listened at."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family[0], socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(family[4])
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be listened at: {error.strerror or error}; choose another --port or --host"
        ) from None


class _Stopping:
    """Lets Ctrl-C and SIGTERM set an event while a block runs; the second one ends the process as usual."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other
            self._before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
            self.listen()
        return self

    def listen(self) -> None:
        """Take the signals; again once Ray has started, which takes SIGTERM for itself."""
        for one in self._before:
            signal.signal(one, self._set)

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.stop.set()
        self._restore()

    def _restore(self) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def __exit__(self, *error: object) -> None:
        self._restore()


@contextmanager
def _ray_environment() -> Iterator[None]:
    """Tell Ray what only the environment tells it, while a block runs; what the user has set there stays."""
    told = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(told)
    try:
        yield
    finally:
        for name in told:
            os.environ.pop(name, None)

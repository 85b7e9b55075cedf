"""What load a server holds: requests that come at random (Poisson), twice as many as it can answer, and processes that are killed under load.

Requests are sent at the times of a Poisson process, whatever the server does (an open loop, as MLPerf's server scenario): who waits for an answer
before asking again would measure a server that is never overloaded. The highest rate is that whose 99th percentile stays within three single latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import math
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
import uvicorn
from PIL import Image
from safetensors.torch import save_file

from ziggurat.commands.serve import models_of
from ziggurat.config import DigitsConfig, RunConfig, override
from ziggurat.config.serve_config import ServeConfig
from ziggurat.models.build import build_model
from ziggurat.runs.folder import WEIGHTS, declare_run, start_run_folder
from ziggurat.serving.app import Door
from ziggurat.serving.exchange import Answer, Ask, Card, Refused
from ziggurat.serving.replica import Replica
from ziggurat.system.platform import processor_name
from ziggurat.tasks.opening import open_dataset

FOLDER = Path(__file__).parent
FACTOR = 3.0  # single latencies that the 99th percentile may take
KILLED = ("ray::ServeReplica:ziggurat:", "ray::ServeReplica:ziggurat:door", "ray::ProxyActor")


@dataclass(frozen=True)
class Sent:
    """A request.

    Attributes:
        at: When it was sent, in seconds from the begin.
        seconds: Until its answer.
        status: Of HTTP; 0 where the connection broke, -1 where no answer came in time.
    """

    at: float
    seconds: float
    status: int


def images_of(side: int, count: int = 8) -> list[bytes]:
    """Return images of noise, as JPEG."""
    found = []
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, (side, side, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


async def load(
    url: str, rate: float, seconds: float, images: Sequence[bytes], patience: float = 90.0
) -> list[Sent]:
    """Send requests at the times of a Poisson process, and return what became of each."""
    draw = random.Random(f"{rate}-{seconds}")
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    sent: list[Sent] = []

    async def one(client: httpx.AsyncClient, at: float, image: bytes) -> None:
        start = time.perf_counter()
        try:
            status = (await client.post(f"{url}/predict", content=image)).status_code
        except httpx.TimeoutException:
            status = -1
        except httpx.HTTPError:
            status = 0
        sent.append(Sent(at, time.perf_counter() - start, status))

    async with httpx.AsyncClient(timeout=patience, limits=limits) as client:
        begin, due, tasks = time.perf_counter(), 0.0, []
        while (due := due + draw.expovariate(rate)) < seconds:
            await asyncio.sleep(max(0.0, begin + due - time.perf_counter()))
            tasks.append(asyncio.create_task(one(client, due, draw.choice(images))))
        await asyncio.gather(*tasks)
    return sent


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that a share of all do not exceed; infinity of none.

    Example:
        >>> percentile([3.0, 1.0, 2.0], 0.5), percentile([], 0.5)
        (2.0, inf)
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.inf


def summary(sent: Sequence[Sent]) -> dict[str, Any]:
    """Return the figures of some requests."""
    good = [one.seconds for one in sent if one.status == 200]
    full = [one.seconds for one in sent if one.status == 429]
    return {
        "requests": len(sent), "answered": len(good), "refused": len(full), "hung": sum(one.status == -1 for one in sent),
        "failed": sum(one.status not in (-1, 200, 429) for one in sent), "p50": percentile(good, 0.5), "p99": percentile(good, 0.99),
        "refused_p99": percentile(full, 0.99) if full else None,
    }  # fmt: skip


def single_latency(url: str, images: Sequence[bytes], count: int) -> float:
    """Return the median of requests that are sent one after the other; the first ones are not counted."""
    found = []
    with httpx.Client(timeout=300) as client:
        for number in range(count + 3):
            start = time.perf_counter()
            client.post(f"{url}/predict", content=images[number % len(images)]).raise_for_status()
            found.append(time.perf_counter() - start)
    return percentile(found[3:], 0.5)


def highest_rate(
    url: str, images: Sequence[bytes], single: float, seconds: float, rounds: int
) -> dict[str, Any]:
    """Find the highest rate whose 99th percentile is within the bound, by halving; all tried rates are returned, too."""
    low, high, tried, best = 0.0, 4 / single, [], None
    for _ in range(rounds):
        rate = (low + high) / 2
        found = summary(asyncio.run(load(url, rate, seconds, images))) | {"rate": rate}
        tried.append(found)
        holds = found["answered"] == found["requests"] and found["p99"] <= FACTOR * single
        low, high, best = (rate, high, found) if holds else (low, rate, best)
    return {"rate": low, "at": best, "tried": tried}


def overload(url: str, images: Sequence[bytes], rate: float, seconds: float, process: int) -> dict[str, Any]:
    """Send twice as many requests as the server holds, and look at its memory at the quarters."""
    marks: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(seconds / 4):
            marks.append(memory(process))

    thread = threading.Thread(target=look)
    thread.start()
    found = summary(asyncio.run(load(url, 2 * rate, seconds, images)))
    done.set()
    thread.join()
    return found | {"rate": 2 * rate, "seconds": seconds, "mebibytes": marks}


def memory(process: int) -> float:
    """Return the resident memory of a process and all that it has started, in MiB."""
    total = 0
    for one in (psutil.Process(process), *psutil.Process(process).children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += one.memory_info().rss
    return total / 2**20


def kills(url: str, images: Sequence[bytes], rate: float, count: int, process: int) -> dict[str, Any]:
    """Kill processes of the server while requests come, one after the other, and measure how long it is not ready."""
    draw, back, stop = random.Random(0), [], threading.Event()
    everything: list[Sent] = []

    def requests() -> None:
        while not stop.is_set():
            everything.extend(asyncio.run(load(url, rate, 5.0, images)))

    thread = threading.Thread(target=requests)
    thread.start()
    for number in range(count):
        name = KILLED[number % len(KILLED)]
        victims = [
            one
            for one in psutil.Process(process).children(recursive=True)
            if title(one).startswith(name) and (name != KILLED[0] or not title(one).endswith("door"))
        ]
        draw.choice(victims).kill()
        start = time.perf_counter()
        until_ready(url)
        back.append(time.perf_counter() - start)
    stop.set()
    thread.join()
    return summary(everything) | {
        "kills": count,
        "not_ready_most": max(back),
        "not_ready_p50": percentile(back, 0.5),
    }


def title(process: psutil.Process) -> str:
    """Return what a process calls itself."""
    try:
        return (process.cmdline() or [""])[0].strip()
    except psutil.Error:
        return ""


def until_ready(url: str, seconds: float = 300.0) -> None:
    """Wait until the server says that it is ready."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/v2/health/ready", timeout=10).status_code == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{url} was not ready within {seconds:g} s")


@contextlib.contextmanager
def started(words: Sequence[str], url: str) -> Iterator[int]:
    """Start a server, yield its process id once it is ready, and end it."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL)
    try:
        until_ready(url)
        yield process.pid
    finally:
        process.terminate()
        process.wait(120)


def measure(
    url: str, process: int, images: Sequence[bytes], seconds: float, rounds: int, long: float
) -> dict[str, Any]:
    """Return the figures of one server."""
    single = single_latency(url, images, 20)
    found = highest_rate(url, images, single, seconds, rounds)
    rate = found["rate"] or 1 / single
    return {"single": single, "highest": found, "overload": overload(url, images, rate, long, process)}


class InProcess:
    """Answers by a replica of this process, for the short form."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def names(self) -> tuple[str, ...]:
        return (self._replica.card.name,)

    async def card(self, name: str) -> Card:
        return self._replica.card

    async def answer(self, name: str, ask: Ask) -> Answer:
        (found,) = await asyncio.to_thread(self._replica.answer, [ask])
        if isinstance(found, Refused):
            raise found
        return found


def random_run(folder: Path, settings: dict[str, Any]) -> Path:
    """Write a run with random weights, which are as fast as trained ones, and return its folder."""
    scenes = DigitsConfig(size=64, count_min=1, count_max=1, train_scenes=2, val_scenes=2)
    config = override(RunConfig(), {"data.path": "digits", "device": "cpu", "threads": 1, **settings})
    dataset = open_dataset("digits", "val", config.task, config.data, scenes)
    start_run_folder(folder, config, dataset)
    declare_run(folder, config)
    model = build_model(config.model, len(dataset.classes))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    return folder


@contextlib.contextmanager
def in_process(run: Path) -> Iterator[str]:
    """Serve a run from this process, without Ray, and yield the address."""
    replica = Replica(models_of([str(run)])[0], ServeConfig())
    door = Door(InProcess(replica), ServeConfig(queue=4), log=io.StringIO())
    server = uvicorn.Server(
        uvicorn.Config(door.app, log_level="error", lifespan="off", ws="none", loop="asyncio")
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            until_ready(url)
            yield url
        finally:
            server.should_exit = True
            thread.join()
            replica.close()


def quick() -> dict[str, Any]:
    """Return the figures of a tiny network behind the door in this process, in some seconds, without Ray."""
    small = {
        "task": "classify",
        "model.name": "pnn",
        "model.pnn.channels": 8,
        "data.crop": 64,
        "data.resize": 64,
        "dtype": "fp32",
    }
    images = images_of(64, 2)
    with tempfile.TemporaryDirectory() as place, in_process(random_run(Path(place) / "run", small)) as url:
        single = single_latency(url, images, 3)
        calm = summary(asyncio.run(load(url, 0.2 / single, 10 * single, images)))
        crowded = summary(asyncio.run(load(url, 10 / single, 20 * single, images)))
    return {"single": single, "calm": calm, "overload": crowded}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and unless it is the short form write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "run", nargs="?", help="the run that is served; by default an FCOS R50-FPN with random weights"
    )
    parser.add_argument("--side", type=int, default=400, help="pixels of the images")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each rate that is tried")
    parser.add_argument("--rounds", type=int, default=6, help="rates that are tried")
    parser.add_argument("--overload", type=float, default=600.0, help="seconds of twice the highest rate")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--quick", action="store_true", help="some seconds, without Ray; nothing is written")
    options = parser.parse_args(arguments)
    if options.quick:
        print(json.dumps(quick()))
        return
    with tempfile.TemporaryDirectory() as place:
        run = options.run or str(
            random_run(
                Path(place) / "run",
                {"task": "detect", "model.name": "fcos-resnet50-fpn", "model.weights": ""},
            )
        )
        results = compare(run, options)
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results))


def compare(run: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of our server, and of the peers that are installed."""
    url, images = f"http://127.0.0.1:{options.port}", images_of(options.side)
    words = [run, str(options.port), str(options.replicas)]
    ours = [
        "-m",
        "ziggurat",
        "serve",
        f"model={run}",
        "--port",
        str(options.port),
        "--replicas",
        str(options.replicas),
        "--log",
        "/dev/null",
    ]
    results: dict[str, Any] = {
        "torch": torch.__version__, "processor": processor_name(), "cores": psutil.cpu_count(), "side": options.side,
        "replicas": options.replicas,
    }  # fmt: skip
    with started(ours, url) as process:
        results["ziggurat"] = measure(url, process, images, options.seconds, options.rounds, options.overload)
        rate = 0.5 * (results["ziggurat"]["highest"]["rate"] or 1 / results["ziggurat"]["single"])
        results["kills"] = kills(url, images, rate, options.kills, process)
    for peer in ("litserve",):
        try:
            __import__(peer)
        except ImportError:
            results[peer] = None
            continue
        with started([str(FOLDER / f"peer_{peer}.py"), *words], url) as process:
            results[peer] = measure(url, process, images, options.seconds, options.rounds, options.overload)
    return results


if __name__ == "__main__":
    main()

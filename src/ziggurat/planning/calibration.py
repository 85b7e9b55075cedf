"""Latency and bandwidth of this machine's own connections, measured in some seconds by the workers that there are.

Each kind of message is sent at five sizes, several times; the fastest third counts, of the slowest worker. The line through the sizes
gives seconds of a message and of a byte. What the worker's own thread and the carrier's threads take of the processor for it is measured, too,
while the worker computes in between: a message that follows another at once finds all threads awake and all they need in the cache, and takes
a half or a third. A collective has a line of its own: its algorithm says how many messages follow one another, and
the calibration what such a message takes within it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ziggurat.config import LaunchConfig
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.planning.fits import Point, fit_line
from ziggurat.planning.network import Carrier, Connection, Link, Links
from ziggurat.planning.program import Kind, Start
from ziggurat.strategies.costs.cache import MeasurementCache

SIZES = (1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 23)  # bytes
REPEATS = 9
SERIES = 5  # of messages with computing in between, whose time of the processor is taken
COMPUTED = (
    256,
    1 << 19,
)  # rows of matrices, and elements, of what is computed in between: about what a small layer does
KINDS: tuple[Kind, ...] = ("all-reduce", "all-gather", "all-to-all", "broadcast", "gather", "barrier")

Measured = Callable[[Workers, Kind, int, int], float]  # of a kind and a size of messages, repeated so often
Send = Callable[[Workers, Tensor, Tensor], None]  # of a tensor, with room for what comes


def calibrate(
    workers: Workers, connection: Connection = "machine", carrier: Carrier = "gloo", repeats: int = REPEATS
) -> Links:
    """Return what messages between some workers cost.

    Args:
        workers: Two or more, all of which call this; they do nothing else meanwhile.
        connection: What there is between them.
        carrier: Of their group.
        repeats: Of each message.

    Returns:
        The same on every worker.

    Communication: some tens of messages of each kind and size.
    """
    unit = Links({connection: Link(0.0, 0.0)}, carrier=carrier)
    group, places = tuple(range(workers.size)), [*range(workers.size)]
    if connection != "network":
        places = [0] * workers.size

    def lines(measured: Measured) -> dict[Kind, Link]:
        return {
            kind: _line(workers, unit, measured, kind, group if kind != "swap" else (0, 1), places, repeats)
            for kind in ("swap", *KINDS)
        }

    taken = lines(_seconds)
    kinds = {(connection, kind): taken[kind] for kind in KINDS}
    links = Links({connection: taken["swap"]}, kinds, carrier)
    if carrier != "gloo" or workers.device.type != "cpu":
        return links
    known: dict[tuple[Kind, int], tuple[float, float]] = {}

    def of_processor(place: int) -> Measured:
        def measured(workers: Workers, kind: Kind, size: int, repeats: int) -> float:
            if (kind, size) not in known:
                known[kind, size] = _processor_seconds(workers, kind, size, repeats)
            return known[kind, size][place]

        return measured

    return replace(links, processor=lines(of_processor(1)), begins=lines(of_processor(0)))


def _line(
    workers: Workers, unit: Links, measured: Measured, kind: Kind,
    group: tuple[int, ...], places: list[int], repeats: int,
) -> Link:  # fmt: skip
    """Return seconds of a message, and of a byte, within one kind of message or collective."""
    points: list[Point] = []
    messages = 1.0
    for size in SIZES if kind != "barrier" else SIZES[:1]:
        seconds = measured(workers, kind, size, repeats)
        start = Start(kind, group, sends=((1, size),) if kind == "swap" else (), num_bytes=size)
        way = unit.carried(start, places)
        messages = way.messages
        points.append((way.num_bytes, seconds))
    if kind == "barrier":
        return Link(points[0][1] / messages, 0.0)
    if kind == "swap":  # there and back
        points = [(num_bytes, seconds / 2) for num_bytes, seconds in points]
    line = fit_line(points)
    return Link(line.start / messages, line.slope)


def _seconds(workers: Workers, kind: Kind, size: int, repeats: int) -> float:
    """Return the seconds of a message of some bytes: of the slowest worker, the median of the fastest third of repeats."""
    send = _SENDS[kind]
    tensor, room = _tensors(workers, size)
    times = []
    for number in range(repeats + 1):
        workers.barrier()
        begin = time.perf_counter()
        send(workers, tensor, room)
        workers.confirm()
        if number:  # the first opens connections, and takes memory page by page
            times.append(time.perf_counter() - begin)
    fastest = statistics.median(sorted(times)[: max(1, repeats // 3)])
    slowest = torch.tensor([fastest], dtype=torch.float64, device=workers.device)
    return float(workers.to_host(workers.add_up(slowest, "max")))


def _processor_seconds(workers: Workers, kind: Kind, size: int, repeats: int) -> tuple[float, float]:
    """Return what a message takes of the processor, in the worker's own thread and in those of the carrier.

    Of all workers the mean, of some series the median. The worker computes before each message, which is not counted.
    """
    send = _SENDS[kind] if kind != "swap" else _exchange
    tensor, room = _tensors(workers, size)
    compute = computing()
    mine, carriers = [], []
    for number in range(SERIES + 1):
        workers.barrier()
        own, all_threads, computed = time.thread_time(), time.process_time(), 0.0
        for _ in range(repeats):
            begin = time.thread_time()
            compute()
            computed += time.thread_time() - begin
            send(workers, tensor, room)
        own, all_threads = time.thread_time() - own, time.process_time() - all_threads
        if number:
            mine.append((own - computed) / repeats)
            carriers.append((all_threads - own) / repeats)
    members = workers.size if kind != "swap" else 2
    medians = [max(statistics.median(some), 1e-9) / members for some in (mine, carriers)]
    found = workers.add_up(torch.tensor(medians, dtype=torch.float64)).tolist()
    return found[0], found[1]


def computing() -> Callable[[], object]:
    """Return what a worker computes between messages: so much that it finds other things in its cache afterwards."""
    rows, elements = COMPUTED
    matrix, values = torch.ones(rows, rows), torch.ones(elements)

    def compute() -> None:
        torch.mm(matrix, matrix)
        values.mul_(1.0)

    return compute


def _tensors(workers: Workers, size: int) -> tuple[Tensor, Tensor]:
    tensor = torch.zeros(max(1, size // 4 // workers.size) * workers.size, device=workers.device)
    return tensor, tensor.new_zeros(tensor.numel() * workers.size)


def _swap(workers: Workers, tensor: Tensor, room: Tensor) -> None:
    if workers.rank == 0:
        workers.start_send(tensor, 1).wait()
        workers.start_receive(tensor, 1).wait()
    elif workers.rank == 1:
        workers.start_receive(tensor, 0).wait()
        workers.start_send(tensor, 0).wait()


def _exchange(workers: Workers, tensor: Tensor, room: Tensor) -> None:
    """Send and receive at once, as neighbours of bands do."""
    if workers.rank < 2:
        other = 1 - workers.rank
        workers.start_swap([(other, tensor)], [(other, room[: tensor.numel()])]).wait()


def _all_to_all(workers: Workers, tensor: Tensor, room: Tensor) -> None:
    sizes = [tensor.numel() // workers.size] * workers.size
    workers.start_all_to_all(room[: tensor.numel()], tensor, sizes, sizes).wait()


def _gather(workers: Workers, tensor: Tensor, room: Tensor) -> None:
    workers.gather_to(tensor, 0)


_SENDS: dict[Kind, Send] = {
    "swap": _swap,
    "all-reduce": lambda workers, tensor, room: workers.start_add_up(tensor).wait(),
    "all-gather": lambda workers, tensor, room: workers.start_all_gather(room, tensor).wait(),
    "all-to-all": _all_to_all,
    "broadcast": lambda workers, tensor, room: workers.broadcast([tensor]),
    "gather": _gather,
    "barrier": lambda workers, tensor, room: workers.barrier(),
}


def key_of(num_workers: int, processor: str) -> str:
    """Return the key of a calibration in a file of measurements."""
    return f"links by local sockets, their beginnings and their processor time of {processor}, torch {torch.__version__}, {num_workers} workers"


def links_of_this_machine(
    num_workers: int, processor: str, cache: MeasurementCache, device: str = "cpu"
) -> Links:
    """Return what messages between workers of this machine cost: from the cache, or measured by workers that are started for it.

    Args:
        num_workers: Two or more.
        processor: Names the machine.
        cache: Where it is kept.
        device: ``cpu`` or ``cuda``.
    """
    key = key_of(num_workers, processor)
    found = cache.read(key)
    if found is not None:
        try:
            return links_from_json(found)
        except ValueError:
            cache.discard(key)
    links = launch(calibrate, (), num_workers, WorkerSettings(1, device, LaunchConfig()))
    assert links is not None  # torchrun's workers do not plan
    cache.write(key, links_to_json(links))
    return links


def links_to_json(links: Links) -> dict[str, Any]:
    """Return links as JSON has them."""
    return {
        "carrier": links.carrier,
        "links": {name: list(link) for name, link in links.links.items()},
        "kinds": {f"{connection} {kind}": list(link) for (connection, kind), link in links.kinds.items()},
        "processor": {kind: list(link) for kind, link in links.processor.items()},
        "begins": {kind: list(link) for kind, link in links.begins.items()},
    }


def links_from_json(found: Any) -> Links:
    """Return links from what `links_to_json` gave.

    Raises:
        ValueError: If they are none.
    """
    try:
        kinds: dict[Any, Link] = {}
        for name, link in found["kinds"].items():
            connection, _, kind = name.partition(" ")
            kinds[connection, kind] = Link(*map(float, link))
        links = {name: Link(*map(float, link)) for name, link in found["links"].items()}
        processor, begins = (
            {kind: Link(*map(float, link)) for kind, link in found[name].items()}
            for name in ("processor", "begins")
        )
        return Links(links, kinds, found["carrier"], processor, begins)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no costs of messages: {type(error).__name__}: {error}") from error

"""Machines that one does not have, from a file: devices and connections, by name or by their figures.

    device: h100            # a name of `devices.DEVICES`; left out, kernels cost what they do on this machine
    machines: 4x8           # machines x workers; left out, what the command says
    machine: nvlink4        # within a machine, and between machines: a name of `CABLES`, or figures of one's own
    network: {latency: 5e-6, bandwidth: 50e9, cables: 8}
    carrier: nccl

What a cable carries at most is its maker's figure; that messages reach a share of it, and what a message takes of whatever size, are
assumptions, and nothing here is measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ziggurat.config.yaml_files import read_yaml
from ziggurat.errors import UserError, nearest
from ziggurat.planning.devices import Device, find_device
from ziggurat.planning.network import CARRIERS, Carrier, Connection, Link, Links

REACHED = 0.8  # assumed: share of a cable's bandwidth that long messages reach
KEYS = ("device", "machines", "machine", "network", "carrier")
FIGURES = ("latency", "bandwidth", "cables")


@dataclass(frozen=True)
class Cable:
    """A kind of connection as its maker describes it.

    Attributes:
        name: Of the kind.
        latency: Seconds of a message of whatever size.
        bandwidth: Bytes a second in one direction.
        source: Where this is said.
    """

    name: str
    latency: float
    bandwidth: float
    source: str

    def link(self, cables: int = 1) -> Link:
        """Return what messages cost over several of them."""
        return Link(self.latency, 1 / (self.bandwidth * REACHED * cables))


# What a step of a ring takes of whatever size: NCCL's own figures, src/graph/tuning.cc, protocol Simple.
_NVLINK, _PCI, _NET = 3.4e-6, 5.7e-6, 14e-6
_TUNING = "latency: a ring's step in NCCL, src/graph/tuning.cc"
_TCP = 30e-6  # assumed: a round through the kernel's TCP on both sides

CABLES: dict[str, Cable] = {
    cable.name: cable
    for cable in (
        Cable("nvlink2", _NVLINK, 150e9, f"NVIDIA V100 data sheet, half of both directions; {_TUNING}"),
        Cable("nvlink3", _NVLINK, 300e9, f"NVIDIA A100 data sheet, half of both directions; {_TUNING}"),
        Cable("nvlink4", _NVLINK, 450e9, f"NVIDIA H100 data sheet, half of both directions; {_TUNING}"),
        Cable("nvlink5", _NVLINK, 900e9, f"NVIDIA B200 data sheet, half of both directions; {_TUNING}"),
        Cable("pcie4", _PCI, 31.5e9, f"PCI Express 4.0, 16 lanes of 16 GT/s; {_TUNING}"),
        Cable("pcie5", _PCI, 63e9, f"PCI Express 5.0, 16 lanes of 32 GT/s; {_TUNING}"),
        Cable("infiniband-hdr", _NET, 25e9, f"InfiniBand HDR, 200 Gbit/s; {_TUNING}"),
        Cable("infiniband-ndr", _NET, 50e9, f"InfiniBand NDR, 400 Gbit/s; {_TUNING}"),
        *(
            Cable(f"ethernet-{gigabits}g", _TCP, gigabits * 1e9 / 8, f"IEEE 802.3, {gigabits} Gbit/s; latency assumed")
            for gigabits in (10, 25, 100, 200, 400)
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Cluster:
    """Machines as a file describes them.

    Attributes:
        links: What carries messages.
        device: Of each worker; None if it is this machine's.
        machines: How many, and workers of each; None if the file does not say.
    """

    links: Links
    device: Device | None = None
    machines: tuple[int, int] | None = None

    def places(self, num_workers: int) -> list[int]:
        """Return the machine of each worker: the first ones are on the first machine.

        Raises:
            UserError: If there are not so many.
        """
        machines, each = self.machines or (1, num_workers)
        if num_workers > machines * each:
            raise UserError(
                f"{machines}x{each} machines have {machines * each} workers: got {num_workers}; ask for fewer, or describe more machines"
            )
        return [rank // each for rank in range(num_workers)]


def read_network(path: Path) -> Cluster:
    """Return the machines that a YAML or JSON file describes.

    Raises:
        UserError: If it cannot be read, or is wrong; lists every fault.
    """
    found = read_yaml(path, "description of machines", "names and values, such as 'machines: 4x8'")  # or JSON
    faults: list[str] = []
    for key in found:
        if key not in KEYS:
            faults.append(
                f"{path}: there is no {key!r} in a description of machines: {nearest(str(key), KEYS)}"
            )
    device = _device(found.get("device"), path, faults)
    machines = _machines(found.get("machines"), path, faults)
    links: dict[Connection, Link] = {}
    for connection in ("machine", "network"):
        link = _link(found.get(connection), connection, path, faults)
        if link is not None:
            links[connection] = link
    carrier: Carrier = found.get("carrier", "gloo" if device is None else "nccl")
    if carrier not in CARRIERS:
        faults.append(f"{path}: carrier is {' or '.join(CARRIERS)}: got {carrier!r}")
    if machines is not None:
        needed = [name for name, count in (("machine", machines[1]), ("network", machines[0])) if count > 1]
        faults += [
            f"{path}: machines: {machines[0]}x{machines[1]} needs a {name!r}: name a cable, or give latency and bandwidth"
            for name in needed
            if name not in found
        ]
    if not found:
        faults.append(f"{path} describes nothing: give at least one of {', '.join(KEYS)}")
    if faults:
        raise UserError(faults)
    return Cluster(Links(links, carrier=carrier), device, machines)


def _device(value: Any, path: Path, faults: list[str]) -> Device | None:
    try:
        return None if value is None else find_device(str(value))
    except UserError as error:
        faults += [f"{path}: {fault}" for fault in error.faults]
        return None


def _machines(value: Any, path: Path, faults: list[str]) -> tuple[int, int] | None:
    if value is None:
        return None
    try:
        return parse_machines(str(value))
    except UserError as error:
        faults += [f"{path}: {fault}" for fault in error.faults]
        return None


def parse_machines(text: str) -> tuple[int, int]:
    """Return how many machines there are, and workers of each.

    Raises:
        UserError: If it says neither.

    Example:
        >>> parse_machines("4x8")
        (4, 8)
    """
    match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text.strip())
    if match is None:
        raise UserError(f"machines are MxW, how many machines and workers of each, such as 4x8: got {text!r}")
    return int(match[1]), int(match[2])


def _link(value: Any, connection: str, path: Path, faults: list[str]) -> Link | None:
    if value is None:
        return None
    if isinstance(value, str):
        cable = CABLES.get(value.lower())
        if cable is None:
            faults.append(
                f"{path}: {connection}: there is no cable {value!r}: {nearest(value, list(CABLES))}"
            )
            return None
        return cable.link()
    if not isinstance(value, Mapping):
        faults.append(
            f"{path}: {connection} is the name of a cable, or latency and bandwidth: got {value!r}; such as "
            "{latency: 5e-6, bandwidth: 50e9}"
        )
        return None
    return _own_link(dict(value), f"{path}: {connection}", faults)


def _own_link(value: dict[Any, Any], where: str, faults: list[str]) -> Link | None:
    """Return a link of figures, or of a named cable of which there are several."""
    before = len(faults)
    name = value.pop("cable", None)
    faults += [
        f"{where}: there is no {key!r}: {nearest(str(key), ('cable', *FIGURES))}"
        for key in value
        if key not in FIGURES
    ]
    numbers = {key: _number(value.get(key), f"{where}.{key}", faults) for key in FIGURES if key in value}
    if name is not None and str(name).lower() not in CABLES:
        faults.append(f"{where}: there is no cable {name!r}: {nearest(str(name), list(CABLES))}")
    elif name is None:
        faults += [
            f"{where} needs a {key}, or the name of a cable" for key in FIGURES[:2] if key not in value
        ]
    if len(faults) > before:
        return None
    cable = CABLES[str(name).lower()] if name is not None else Cable("own", 0.0, 1.0 / REACHED, "")
    latency = numbers.get("latency", cable.latency)
    cables = numbers.get("cables", 1.0)
    if "bandwidth" in numbers:  # what messages reach: taken as it is given
        return Link(latency, 1 / (numbers["bandwidth"] * cables))
    return Link(latency, cable.link().beta / cables)


def _number(value: Any, where: str, faults: list[str]) -> float:
    """Return a number above zero; YAML takes ``5e-6``, without a point, for text."""
    try:
        number = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < float("inf"):
        faults.append(f"{where} must be a number above 0: got {value!r}; seconds, or bytes a second")
        return 1.0
    return number

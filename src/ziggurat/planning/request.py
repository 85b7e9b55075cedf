"""What the user of `ziggurat plan` asks for: read and checked completely before anything is recorded."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ziggurat.config import RunConfig, bands_of, check_command, override, range_faults
from ziggurat.config.values import shown
from ziggurat.errors import Faults, UserError
from ziggurat.models.build import build_model, task_of
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.planning.clusters import Cluster, parse_machines, read_network
from ziggurat.runs.folder import CLASSES
from ziggurat.runs.reference import Reference, find_reference
from ziggurat.strategies.pipeline import IN_FLIGHT
from ziggurat.strategies.plan import Plan
from ziggurat.strategies.resolve import batch_faults, local_devices, resolve_device, resolve_dtype
from ziggurat.system.memory import total_memory
from ziggurat.verification.networks import build_network, check_name, is_foreign
from ziggurat.verification.request import read_shape
from ziggurat.verification.timeline import timeline_path

Purpose = Literal["train", "predict"]

UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
FEW = 2  # batches of a prediction that are recorded
SECONDS = 60.0  # of a search, unless said
MOST_WORKERS = 64  # each is a process while a step is recorded: of more, those of one replica are


class Amount(NamedTuple):
    """How much of the work is looked at.

    Attributes:
        pieces: Microbatches of a step, or batches of a prediction that a worker is given.
        times: How many times as much all of it is.
    """

    pieces: int
    times: float


@dataclass(frozen=True)
class Subject:
    """The network that is to be spread: what makes it, by the settings of a config.

    Attributes:
        config: To begin with.
        name: Of the network.
        num_classes: Of a run; None of a network by itself.
        folder: Of a run.
    """

    config: RunConfig
    name: str
    num_classes: int | None = None
    folder: Path | None = None

    def __call__(self, config: RunConfig) -> nn.Module:
        """Return the network, with weights drawn from PyTorch's global generator."""
        if self.num_classes is None:
            return build_network(self.name, config.model)
        return build_model(config.model, self.num_classes)


@dataclass(frozen=True)
class PlanRequest:
    """One search for a plan.

    Attributes:
        name: Of the network, or of the run.
        build: Makes the network.
        config: Of the run: task, model, loss, optimizer, microbatches; its plan is not used.
        shape: Of the images of a step, or of all that are predicted, ``(B, C, *spatial)``.
        purpose: ``train`` or ``predict``.
        machines: How many there are, and workers of each.
        together: Images that a prediction computes as one batch.
        memory: Bytes of a worker.
        cluster: Machines that are described, and what is between them; None for this machine.
        fixed: Settings that the user has chosen, by dotted names.
        seconds: Longest time of the search.
        num_measured: Of the best plans, how many are measured.
        num_best: How many are to be known as the best; the search ends when they are.
        timeline: Where the best plan's simulated step goes; None for nowhere.
        images_per_worker: Images of a step for each worker, where these were given and not those of all; else 0.
    """

    name: str
    build: Subject
    config: RunConfig
    shape: tuple[int, ...]
    purpose: Purpose
    machines: tuple[int, int]
    together: int = 1
    memory: float = math.inf
    cluster: Cluster | None = None
    fixed: Mapping[str, Any] | None = None
    seconds: float = SECONDS
    num_measured: int = 0
    num_best: int = 10
    timeline: Path | None = None
    images_per_worker: int = 0

    @property
    def is_large(self) -> bool:
        """Whether there are more workers than can be recorded."""
        return self.num_workers > MOST_WORKERS

    @property
    def shares_memory(self) -> bool:
        """Whether workers of a machine exchange through its memory: those with devices of their own do not."""
        return self.cluster is None or self.cluster.device is None

    @property
    def num_workers(self) -> int:
        """Workers of all machines."""
        return math.prod(self.machines)

    @property
    def places(self) -> list[int]:
        """The machine of each worker, by rank: neighbours of inner axes are on one machine."""
        return [rank // self.machines[1] for rank in range(self.num_workers)]

    @property
    def pieces(self) -> int:
        """Microbatches of a step, or batches of a prediction."""
        train = self.purpose == "train"
        return self.config.train.microbatches if train else -(-self.shape[0] // self.together)

    @property
    def recorded_shape(self) -> tuple[int, ...]:
        """Shape of the images of a step, or of one batch of a prediction."""
        return self.shape if self.purpose == "train" else (self.together, *self.shape[1:])

    def amount(self, plan: Plan) -> Amount:
        """Return how much of the work is looked at: of a prediction some batches tell what many take."""
        if self.purpose == "train":
            return Amount(self.pieces, 1.0)
        each = -(-self.pieces // plan.num_data)
        looked_at = min(each, IN_FLIGHT * plan.num_of_one if plan.has_timeline else FEW)
        return Amount(looked_at, each / looked_at)

    def packs(self, plan: Plan) -> bool:
        """Whether a worker packs weights of convolutions: with the second batch of a prediction, on a processor."""
        is_processor = self.cluster is None or self.cluster.device is None
        return self.purpose == "predict" and is_processor and self.pieces > plan.num_data

    def check(self, plan: Plan) -> None:
        """Raise if a run of this batch refuses a plan.

        Raises:
            UserError: Listing every fault.
        """
        train = self.config.train
        faults = batch_faults(plan, self.shape[0], train.microbatches) if self.purpose == "train" else []
        if faults:
            raise UserError(faults)


def read_plan_request(
    name: str,
    settings: Mapping[str, Any],
    *,
    workers: str | None = None,
    machines: str | None = None,
    network: str | None = None,
    memory: str | None = None,
    shape: str | None = None,
    purpose: str = "train",
    seconds: str | None = None,
    measure: str | None = None,
    timeline: str | None = None,
    per_worker: bool = False,
) -> PlanRequest:
    """Check everything that the user gave.

    Args:
        name: Of a network as `ziggurat verify` takes it, or of a run as `ziggurat predict` does.
        settings: From dotted names to values.
        workers: How many; by default as many as this machine has devices or cores.
        machines: Such as ``4x8``: machines, and workers of each.
        network: A file, see `planning.clusters`.
        memory: Of a worker, such as ``16G``.
        shape: Of the images of a step, such as ``8x3x512x512``; by default of the run's batch and crop.
        purpose: ``train`` or ``predict``.
        seconds: Longest time of the search.
        measure: How many of the best plans are measured.
        timeline: A file for the best plan's simulated step.
        per_worker: Whether the images that are given are those of each worker, and not of all.

    Raises:
        UserError: Listing every fault.
    """
    faults = Faults()
    check = faults.of
    if world_from_environment() is not None:
        raise UserError(
            "plans are looked for by one process: run `ziggurat plan` without torchrun, with --workers or --machines, and "
            "give the plan that it finds"
        )
    given = check(check_command, "plan", settings) or {}
    subject = check(_subject, name)
    config = check(override, subject.config if subject else RunConfig(), given)
    if config is not None:
        faults += range_faults(config)
    cluster = check(read_network, Path(network)) if network is not None else None
    counts = check(_machines, workers, machines, cluster, config.device if config else "cpu")
    room = check(read_bytes, memory) if memory is not None else 0.0
    sizes = check(read_shape, shape, 1) if shape is not None else ()
    if purpose not in ("train", "predict"):
        faults.append(f"--for must be train or predict: got {shown(purpose)}")
    budget = check(_number, "--seconds", seconds, 1.0) if seconds is not None else SECONDS
    measured = check(_number, "--measure", measure, 0.0) if measure is not None else 0.0
    path = check(timeline_path, timeline) if timeline is not None else None
    if counts is not None and (network is None or cluster is not None):
        faults += _missing_links(counts, cluster)
    if counts is not None and math.prod(counts) > MOST_WORKERS:
        faults += _large_faults(counts, cluster, purpose, timeline)
    if per_worker and purpose == "predict":
        faults.append("--per-worker is about the images of a training step: leave it out, or --for predict")
    if counts and measured and (counts[0] > 1 or network is not None):
        faults.append(
            "--measure takes steps on this machine: leave out --machines and --network, or --measure"
        )
    if faults or subject is None or config is None or counts is None or room is None or sizes is None:
        raise UserError(faults)
    assert budget is not None
    assert measured is not None
    kind: Purpose = "predict" if purpose == "predict" else "train"
    is_said = bool(sizes) or "train.batch_size" in given or subject.num_classes is not None
    sizes = sizes or (config.train.batch_size, bands_of(config.model), config.data.crop, config.data.crop)
    each = sizes[0] if per_worker else 0
    if math.prod(counts) > MOST_WORKERS and not is_said and not per_worker:
        each = 1  # what one worker's batch is by default would leave most of these without an image
    sizes = (each * math.prod(counts) if each else sizes[0], *sizes[1:])
    config = _resolved(config, sizes, counts, cluster)
    check_priced(config.device, cluster)
    room = room or memory_of_worker(config.device, counts[1], cluster)
    if kind == "train" and (batch := batch_faults(Plan(), sizes[0], config.train.microbatches)):
        raise UserError(batch)
    return PlanRequest(
        name, subject, config, sizes, kind, counts, memory=room, cluster=cluster, fixed=given, seconds=budget,
        num_measured=int(measured), timeline=path, images_per_worker=each,
    )  # fmt: skip


def _subject(name: str) -> Subject:
    """Return the run of a name, or else the network.

    Raises:
        UserError: If there is neither.
    """
    if os.path.exists(name) or "@" in name:
        return _of_run(find_reference(name))
    check_name(name)
    settings = {"model.name": name} | ({} if is_foreign(name) else {"task": task_of(name)})
    return Subject(override(RunConfig(), settings), name)


def _of_run(reference: Reference) -> Subject:
    if reference.folder is None:
        raise UserError(
            f"{reference.text} is a file of weights, which tells no plan: name its model, such as fcos-resnet50-fpn, or the run that has "
            "trained it"
        )
    config = reference.config()
    classes = json.loads((reference.folder / CLASSES).read_text(encoding="utf-8"))["classes"]
    return Subject(config, config.model.name, len(classes), reference.folder)


def _machines(
    workers: str | None, machines: str | None, cluster: Cluster | None, device: str
) -> tuple[int, int]:
    """Return how many machines there are, and how many workers each has.

    Raises:
        UserError: If it cannot be read, or both do not fit each other.
    """
    if machines is not None:
        counts = parse_machines(machines)
        if workers is not None and workers != str(math.prod(counts)):
            raise UserError(
                f"--machines {machines} are {math.prod(counts)} workers: got --workers {shown(workers)}; give one of them"
            )
        return counts
    if workers is None:
        named = cluster.machines if cluster is not None else None
        return named or (1, local_devices(resolve_device(device)))
    if re.fullmatch(r"[1-9][0-9]{0,3}", workers) is None:
        raise UserError(
            f"--workers must be a positive whole number, of one machine (--machines has several): got {shown(workers)}"
        )
    return 1, int(workers)


def _large_faults(
    machines: tuple[int, int], cluster: Cluster | None, purpose: str, timeline: str | None
) -> list[str]:
    """Return what is asked for that a world of so many workers has not."""
    few = f"{math.prod(machines)} workers are more than {MOST_WORKERS}, of which one replica is recorded for all"
    faults = []
    if purpose == "predict":
        faults.append(
            f"{few}: a prediction is planned for fewer; as images do not depend on each other, plan those of a part of the machines"
        )
    if timeline is not None:
        faults.append(f"{few}: --timeline draws each worker of fewer; leave it out")
    if cluster is None or (cluster.device is None and machines[1] > local_devices("cpu")):
        faults.append(
            f"{few}: each needs a device or a core of its own; describe the machines with --machines and --network (a device such as h100, "
            f"or at most {local_devices('cpu')} workers a machine)"
        )
    return faults


def _missing_links(machines: tuple[int, int], cluster: Cluster | None) -> list[str]:
    """Return a fault where nothing is known of what is between workers."""
    if cluster is None:
        if machines[0] == 1:
            return []
        return [
            f"what is between {machines[0]} machines cannot be measured on this one: describe it in a file, and give --network "
            "(docs/planning.md)"
        ]
    needed = (("machine", "of a machine", machines[1]), ("network", "of several machines", machines[0]))
    return [
        f"--network must say what is between workers {whose} ({name}: a cable, or latency and bandwidth)"
        for name, whose, count in needed
        if count > 1 and name not in cluster.links.links
    ]


def check_priced(device: str, cluster: Cluster | None = None) -> None:
    """Refuse devices whose kernels nobody prices.

    Args:
        device: ``cpu`` or ``cuda``, of this machine.
        cluster: That is described; None for this machine.

    Raises:
        UserError: If kernels would run on GPUs of this machine: what is measured here is the processor.
    """
    if device == "cuda" and (cluster is None or cluster.device is None):
        raise UserError(
            "kernels are measured on processors, not on this machine's GPUs: describe them (--network with a device such as h100, "
            "docs/planning-costs.md), plan for the processor (device=cpu), or name a plan"
        )


def memory_of_worker(device: str, local_workers: int, cluster: Cluster | None = None) -> float:
    """Return the bytes of a worker: of its device, or its part of this machine's."""
    if cluster is not None and cluster.device is not None:
        return float(cluster.device.memory)
    if device == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    return total_memory() / local_workers


def _number(flag: str, text: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= 1e6:
        raise UserError(f"{flag} must be a number from {least:g} to 1000000: got {shown(text)}")
    return value


def read_bytes(text: str) -> float:
    """Return a number of bytes.

    Raises:
        UserError: If it is none.

    Example:
        >>> read_bytes("16G"), read_bytes("1.5Gi"), read_bytes("900MB")
        (16000000000.0, 1610612736.0, 900000000.0)
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([KMGT]?I?)B?", text.strip().upper())
    if match is None or match[2] not in UNITS or not float(match[1]):
        raise UserError(f"--memory must be the bytes of a worker, such as 16G or 15.5Gi: got {shown(text)}")
    return float(match[1]) * UNITS[match[2]]


def _resolved(
    config: RunConfig, shape: tuple[int, ...], machines: tuple[int, int], cluster: Cluster | None
) -> RunConfig:
    """Return a config whose batch, microbatches, device, type and threads are chosen.

    A run that is started has as many microbatches as workers; where its batch is no multiple, the most that divide it.
    """
    device = resolve_device(config.device)
    # volumes have no such memory format here
    train = replace(
        config.train, batch_size=shape[0], channels_last=config.train.channels_last and len(shape) == 4
    )
    if not train.microbatches:
        wanted = min(math.prod(machines), shape[0])
        train = replace(train, microbatches=max(n for n in range(1, wanted + 1) if shape[0] % n == 0))
    threads = config.threads or max(1, local_devices("cpu") // machines[1])
    described = None if cluster is None else cluster.device
    dtype = resolve_dtype(config.dtype, device)
    if described is not None and config.dtype == "auto":
        dtype = "bf16" if described.peak("bfloat16") > described.peak("float32") else "fp32"
    return replace(config, train=train, threads=threads, dtype=dtype, device=device)

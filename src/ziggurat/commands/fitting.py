"""What cannot fit this machine whatever else is done, found before any worker starts; and what fits, but is hardly meant."""

from __future__ import annotations

import torch

from ziggurat.config import RunConfig
from ziggurat.data.crop_sizes import crop_sizes
from ziggurat.errors import UserError
from ziggurat.models.vision import VisionModel
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.resolve import available_cores, most_processes
from ziggurat.system.memory import total_memory

GIGA = 10**9


def check_model_fits(model: VisionModel, config: RunConfig) -> None:
    """Refuse a model whose weights and their gradient alone are more than the memory.

    Args:
        model: Its shapes count, not its weights.
        config: With its device.

    Raises:
        UserError: With both sizes.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    needed, memory = 8 * count, memory_of(config.device)
    if needed > memory:
        raise UserError(
            f"the model must fit into memory: {config.model.name} with these settings has {count} weights, which take "
            f"{needed / GIGA:.0f} GB with their gradient, and there are {memory / GIGA:.0f} GB; take a smaller model, or "
            "lower its widths and depths (model.channels, model.head_depth, model.pnn.*)"
        )


def check_batch_fits(config: RunConfig) -> None:
    """Refuse a microbatch whose images alone are more than the memory.

    Args:
        config: Resolved.

    Raises:
        UserError: With both sizes.
    """
    side, size = max(crop_sizes(config.data)), config.train.batch_size // config.train.microbatches
    needed, memory = 12 * size * side * side, memory_of(config.device) * parse_plan(config.plan).num_of_one
    if needed > memory:
        raise UserError(
            f"the images of a microbatch must fit into memory: {size} images of {side} x {side} pixels take "
            f"{needed / GIGA:.0f} GB, and there are {memory / GIGA:.0f} GB; lower data.crop or --batch-size, or raise "
            "--microbatches"
        )


def check_loaders(config: RunConfig) -> None:
    """Refuse more loader processes than a machine can be meant to run.

    Raises:
        UserError: With the number of cores.
    """
    loaders = config.data.workers * parse_plan(config.plan).num_workers
    if loaders > most_processes():
        raise UserError(
            f"data.workers must suit the machine: {loaders} loader processes on {available_cores()} cores, of which "
            f"{most_processes()} are the most; lower data.workers"
        )


def size_notes(config: RunConfig, num_samples: int) -> list[str]:
    """Return what is said of sizes that work, and are hardly meant.

    Args:
        config: Resolved.
        num_samples: Of an epoch.
    """
    notes, batch = [], config.train.batch_size
    if batch > num_samples:
        notes.append(
            f"a batch of {batch} is larger than an epoch of {num_samples} samples: every step takes all of them, once; "
            f"--batch-size {num_samples} says the same"
        )
    return notes


def worker_notes(plan: str, threads: int, device: str) -> list[str]:
    """Return what is said where workers, or their threads, are more than the cores of this machine."""
    workers, cores = parse_plan(plan).num_workers, available_cores()
    if device != "cpu":
        return []
    if workers > cores:
        return [f"the plan {plan} has {workers} workers and this machine {cores} cores: they take turns"]
    if workers * threads > cores:
        return [
            f"{workers} workers of {threads} threads are more than the {cores} cores of this machine: they take turns"
        ]
    return []


def memory_of(device: str) -> int:
    """Return the bytes of memory of a device: of the first GPU, or of this machine."""
    return torch.cuda.get_device_properties(0).total_memory if device == "cuda" else total_memory()

"""Completing a run's configuration: what the user left open is decided once, before any process starts.

Plan, microbatches and threads are part of the resolved config, so that a run can be repeated, or go on, elsewhere.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

import torch

from ziggurat.config import RunConfig, range_faults
from ziggurat.errors import UserError
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.replica_rules import replica_faults
from ziggurat.torch_internals.machine import cpu_has_bf16_units


def available_cores() -> int:
    """Return the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _cpu_quota().partition(" ")
    return min(cores, max(1, int(quota) // int(period))) if quota.isdecimal() else cores


def local_devices(device: str) -> int:
    """Return how many workers this machine has a device for: its GPUs, or its cores."""
    return torch.cuda.device_count() if device == "cuda" else available_cores()


def most_processes() -> int:
    """Return the most processes of one kind that a run may start here: more are a slip of the keyboard, and stall a machine."""
    return max(16, 8 * available_cores())


def _cpu_quota() -> str:
    """Return the container's quota and period in microseconds, such as ``200000 100000`` for two cores."""
    path = Path("/sys/fs/cgroup/cpu.max")
    return path.read_text(encoding="ascii").strip() if path.is_file() else "max"


def resolve_dtype(dtype: str, device: str) -> Literal["bf16", "fp32"]:
    """Return ``bf16`` or ``fp32`` for a setting that may be ``auto``: bf16 where the device has units for it."""
    if dtype != "auto":
        return "bf16" if dtype == "bf16" else "fp32"
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16_units() else "fp32"


def resolve_device(device: str) -> Literal["cpu", "cuda"]:
    """Return ``cuda`` or ``cpu`` for a setting that may be ``auto``.

    Raises:
        UserError: If ``cuda`` is asked for and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is cuda, and PyTorch finds no GPU here: use device=cpu or device=auto")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def resolve_plan(text: str, num_pieces: int, device: str, world: int | None, backend: str = "auto") -> Plan:
    """Return the plan; without one, every device (every core where there is no GPU) as dp.

    Args:
        text: The user's plan, or nothing.
        num_pieces: What the workers share: without a plan their number divides it.
        device: ``cpu`` or ``cuda``.
        world: Workers of the world that torchrun has made, or None.
        backend: Under ``gloo`` workers may share a GPU.

    Raises:
        UserError: If the plan cannot be read, or does not fit the world, the GPUs or the cores.
    """
    num_devices = local_devices(device)
    if not text:
        fitting = [count for count in range(1, num_devices + 1) if num_pieces % count == 0]
        return Plan(dp=world or max(fitting))
    plan = parse_plan(text)
    if world is not None and plan.num_workers != world:
        raise UserError(
            f"the plan must have as many workers as there are: {plan} has {plan.num_workers}, torchrun "
            f"started {world}: change the plan or --nproc-per-node"
        )
    if world is None and device == "cuda" and plan.num_workers > num_devices and backend != "gloo":
        raise UserError(
            f"the plan {plan} needs {plan.num_workers} GPUs: this machine has {num_devices}; workers share them, slowly, "
            "with --set launch.backend=gloo"
        )
    if world is None and plan.num_workers > max(most_processes(), num_devices):
        raise UserError(
            f"the plan {plan} has {plan.num_workers} workers: this machine has {available_cores()} cores, and "
            f"{most_processes()} workers are the most that are started on it; take fewer, or torchrun on more machines"
        )
    return plan


def resolve_device_of(plan: Plan, config: RunConfig, world: int | None) -> Literal["cpu", "cuda"]:
    """Return where a plan is tried out: on GPUs where there are as many as workers, or where they are asked for.

    Args:
        plan: Of all workers.
        config: Its ``device`` and ``launch.backend`` are used.
        world: Workers of the world that torchrun has made, or None.

    Raises:
        UserError: If GPUs are asked for, and there are none or too few.
    """
    device = resolve_device(config.device)
    few = world is None and device == "cuda" and plan.num_workers > torch.cuda.device_count()
    if few and config.device == "auto" and config.launch.backend != "gloo":
        return "cpu"
    resolve_plan(str(plan), plan.num_microbatches, device, world, config.launch.backend)
    return device


def resolve_place(config: RunConfig, world: int | None) -> RunConfig:
    """Complete device, plan, threads and dtype: all that depends on the machine.

    Args:
        config: As the user gave it.
        world: Workers of the world that torchrun has made, or None.

    Raises:
        UserError: Listing every fault, also those of settings out of their range.
    """
    faults = range_faults(config)
    device: Literal["cpu", "cuda"] = "cpu"
    plan = Plan()
    try:
        device = resolve_device(config.device)
        plan = resolve_plan(config.plan, _num_pieces(config), device, world, config.launch.backend)
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    local_workers = int(os.environ.get("LOCAL_WORLD_SIZE", plan.num_workers))
    threads = config.threads or max(1, available_cores() // local_workers)
    dtype = resolve_dtype(config.dtype, device)
    return dataclasses.replace(config, device=device, plan=str(plan), threads=threads, dtype=dtype)


def resolve_batch(config: RunConfig, world: int | None) -> RunConfig:
    """Complete the number of microbatches (one for each worker that would be idle without), and check that all fits together.

    Args:
        config: With or without a plan.
        world: Workers of the world that torchrun has made, or None.

    Raises:
        UserError: Listing every fault.
    """
    device = resolve_device(config.device)
    plan = resolve_plan(config.plan, _num_pieces(config), device, world, config.launch.backend)
    microbatches = config.train.microbatches or config.local_sgd.replicas or plan.num_microbatches
    faults = batch_faults(plan, config.train.batch_size, microbatches)
    faults += replica_faults(config, plan, microbatches)
    if faults:
        raise UserError(faults)
    train = dataclasses.replace(config.train, microbatches=microbatches)
    return dataclasses.replace(config, train=train)


def batch_faults(plan: Plan, batch_size: int, microbatches: int) -> list[str]:
    """Return what is wrong with a batch, its microbatches, and the workers that they are spread over."""
    faults = []
    if batch_size < microbatches:
        faults.append(
            f"a batch must have a sample for each microbatch: batch_size is {batch_size}, microbatches "
            f"{microbatches}: raise --batch-size or lower --microbatches"
        )
    elif batch_size % microbatches:
        faults.append(
            f"microbatches must divide the batch: batch_size is {batch_size}, microbatches {microbatches}: use "
            f"{_nearest_divisor(batch_size, microbatches)} microbatches, or a batch of "
            f"{-(-batch_size // microbatches) * microbatches}"
        )
    if microbatches < plan.num_data:
        axis = plan.data_axis
        faults.append(
            f"each worker of the {axis} axis needs a microbatch: the plan {plan} has {plan.num_data}, and microbatches is "
            f"{microbatches}: use --plan {plan.spread_over(microbatches)} or --microbatches {plan.num_data}"
        )
    return faults


def _num_pieces(config: RunConfig) -> int:
    """Return what the workers of a run share: its microbatches, or samples where those are not decided yet."""
    return config.local_sgd.replicas or config.train.microbatches or config.train.batch_size


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [i for i in range(1, number + 1) if number % i == 0]
    return min(divisors, key=lambda divisor: abs(divisor - wanted))

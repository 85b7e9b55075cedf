"""What of a run's config says how its plan is carried out, by which workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ziggurat.config.fields import BYTES, HIERARCHY, MICROBATCHES, between, setting


@dataclass(frozen=True)
class PipelineConfig:
    """How a plan with pp cuts the network, and in what order its stages compute; ``plan.cut`` is ``pipeline.cut``."""

    cut: str = setting(
        "",
        "Names of the layers at which new stages start, with commas between, such as ``layer2,layer4``; "
        "of a layer that is called several times ``head:3`` is the third call. Empty balances the "
        "measured times.",
    )
    schedule: Literal["gpipe", "1f1b", "interleaved"] = setting(
        "1f1b",
        "``gpipe``, ``1f1b`` (fewer activations at once) or ``interleaved`` (two stages on each worker).",
    )
    max_bytes: int = setting(
        0,
        "Most bytes of a stage's weights, gradients and activations where the cut is chosen; 0 for no bound.",
        between(0, BYTES),
    )
    checkpoint: Literal["none", "stage"] = setting(
        "none",
        "``stage`` keeps of a microbatch what each stage has received, and computes the rest again for "
        "backward: less memory for more time. ``none`` keeps all.",
    )
    unit_bytes: int = setting(
        1 << 20,
        "Under fsdp, parameters of the smallest module that is gathered on its own.",
        between(0, BYTES),
    )
    shard_optimizer: bool = setting(
        False,
        "Under dp, alone and with sp: each worker keeps what the optimizer keeps of its rows of the weights, and updates these. The same bits, "
        "and bytes sent; the optimizer's memory is divided by dp. A worker that is lost takes its rows along.",
    )
    shares: str = setting(
        "even",
        "Under dp, alone and with sp, pp, tp or lp: how many microbatches of a step each worker of dp takes. ``even``; ``measured`` gives "
        "slower ones fewer, by what the last steps took, and changes that while the run goes on; or numbers with commas between, together "
        "``train.microbatches``, such as ``5,3``. The same bits.",
        MICROBATCHES,
    )
    wire: Literal["fp32", "bf16", "int8"] = setting(
        "fp32",
        "What gradients travel as between workers of dp: ``bf16`` takes half the bytes of ``fp32``, ``int8`` (blocks of 32 with an exponent "
        "each, rounded by chance) about a quarter. Part of what defines a run: sums are rounded so on one worker, too, and have the same "
        "bits on any number of them. Pays over slow links; not under fsdp.",
    )
    replan: Literal["never", "changes"] = setting(
        "never",
        "``changes``: a run asks the planner by itself where the cores that it may use, or the size of its images, have become others, and goes "
        "on under the plan that it finds if that is forecast to be better by 15 %. ``never`` waits to be asked. Not under torchrun, nor on GPUs.",
    )
    replan_every: int = setting(
        100, "With ``replan=changes``: in so many steps the planner is asked once at most.", between(1, 10**9)
    )


@dataclass(frozen=True)
class TensorConfig:
    """What a plan with tp splits."""

    min_width: int = setting(
        256, "Fewest hidden channels of a pair of layers, or classes of a classifier.", between(1, 1 << 20)
    )


@dataclass(frozen=True)
class LaunchConfig:
    """Workers that die or hang, and how long each section of their work may take without a sign of life."""

    max_restarts: int = setting(
        3,
        "Times in a row that the workers are started again without a new step in between; 0 ends the run "
        "with the first worker that dies.",
        between(0, 1000),
    )
    setup_seconds: float = setting(
        600.0, "Longest time that a worker may spend on the same part of starting up.", between(1.0, 1e6)
    )
    step_seconds: float = setting(
        600.0,
        "Longest time for one phase of a training step (data, forward, backward ...), and for a step that is "
        "verified.",
        between(1.0, 1e6),
    )
    checkpoint_seconds: float = setting(
        600.0, "Longest time for one phase of a checkpoint.", between(1.0, 1e6)
    )
    evaluation_seconds: float = setting(
        1800.0,
        "Longest time for one batch of an evaluation, for its metrics, and for the report.",
        between(1.0, 1e6),
    )
    backend: Literal["auto", "gloo"] = setting(
        "auto",
        "What carries tensors between workers: ``auto`` is nccl between GPUs and gloo between CPUs. ``gloo`` goes "
        "through the CPU's memory: slow, but then several workers may share a GPU, which nccl refuses.",
    )
    hierarchy: str = setting(
        "auto",
        "How workers that take other samples meet to add up gradients: ``8x4`` lets the eight of consecutive numbers that share a machine meet "
        "first, then those of four machines, and so on outwards; ``flat`` lets all meet at once. ``auto`` finds out who shares a machine. "
        "The bits are the same; fewer messages and bytes travel between machines.",
        HIERARCHY,
    )

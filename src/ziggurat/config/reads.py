"""Which command reads which settings: what a command does not read, it refuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ziggurat.config.names import full_names, shown_name
from ziggurat.config.ranges import range_faults
from ziggurat.config.reading import override
from ziggurat.config.records import RunConfig
from ziggurat.errors import UserError

AUGMENTATION = (
    "data.crops", "data.scale_min", "data.scale_max", "data.flip", "data.quarter_turns", "data.color_jitter",
    "data.min_visible", "data.normalize", "data.mean", "data.std", "data.balance", "data.repeat_threshold", "data.count_classes", "data.rare_crops", "data.aspect_grouping",
)  # fmt: skip
BLOCKS = (
    "data.val_share",
    "data.block",
    "data.split_seed",
)  # other ones than the run's would be evaluated on
REPLANNING = ("pipeline.replan", "pipeline.replan_every")  # between two steps of a run
TRAINING = (
    "seed", "data.val", *BLOCKS, *AUGMENTATION, "data.workers", "data.cache_bytes", "digits.train_scenes", "digits.imbalance", "loss.", "train.",
    "members.", "local_sgd.", "checkpoint.", "launch.max_restarts", "launch.step_seconds", "launch.checkpoint_seconds", "launch.hierarchy", "pipeline.shares",
    "pipeline.wire", *REPLANNING,
)  # fmt: skip
SCALES = ("data.gsd", "data.mpp", "data.unscaled")
READING = (
    "task", "plan", "seed", "threads", "dtype", "device", "model.", "loss.", "decode.", "train.", "members.", "local_sgd.", "checkpoint.", "pipeline.",
    "tensor.", "launch.", "data.val", *AUGMENTATION, "data.crop", "data.resize", "data.resize_limit", "data.antialias",
    "data.workers", "data.cache_bytes", "data.tile_overlap", "data.shown", "data.stretch",
)  # fmt: skip

# What a command does not read: names of settings, and of sections with a dot behind.
UNREAD: dict[str, tuple[str, ...]] = {
    "train": (),
    "demo": ("members.", "data.path", "data.val", "data.split", *BLOCKS, "data.classes", "data.ignore", "data.images", "data.label_column", "data.range", "data.bands", "data.layout", "data.shown", "data.stretch", "data.max_pixels", *SCALES),
    "evaluate": TRAINING,
    "predict": (*TRAINING, "data.split"),
    "export": (*TRAINING, "plan", "device", "dtype", "pipeline.", "tensor.", "data.shown", "data.stretch"),
    "report": tuple(name for name in TRAINING if name != "data.val"),
    "check": (*READING, "digits."),
    "convert": (*READING, "data.split", *BLOCKS, *SCALES),
    "verify": (
        "dtype", "data.", "digits.", "decode.", "members.", "local_sgd.", "checkpoint.", "model.name", "model.weights", "train.epochs", "train.steps",
        "train.batch_size", "train.warmup", "train.final_lr", "train.schedule", "train.drops", "train.drop_factor", "train.patience", "train.freeze", "train.checkpoint_every", "train.evaluate_every",
        "train.on_nonfinite", "train.report", "launch.max_restarts", "launch.checkpoint_seconds", "launch.evaluation_seconds",
        "pipeline.wire", *REPLANNING,
    ),
    "plan": (
        "plan", "pipeline.shares", "data.", "digits.", "members.", "local_sgd.", "checkpoint.", "model.name", "model.weights", "train.epochs", "train.steps", "train.lr",
        "train.backbone_lr", "train.momentum", "train.beta2", "train.weight_decay", "train.warmup",
        "train.final_lr", "train.schedule", "train.drops", "train.drop_factor", "train.patience", "train.checkpoint_every", "train.freeze",
        "train.evaluate_every", "train.on_nonfinite", "train.report", "launch.max_restarts", "launch.checkpoint_seconds",
        "launch.evaluation_seconds", *REPLANNING,
    ),
}  # fmt: skip
READ_STILL = {
    "evaluate": ("train.channels_last",),
    "predict": ("train.channels_last",),
    "report": ("train.channels_last", "train.report"),
    "check": ("data.crop", "data.min_visible", "data.count_classes"),  # the first two with blocks
    "plan": ("data.crop",),
}


def check_command(command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their dotted names, all of which a command reads.

    Args:
        command: Its name.
        settings: As they were given.

    Raises:
        UserError: For unknown names, and for settings that the command does not read.
    """
    settings = full_names(settings)
    faults = []
    for key in settings:
        if not reads_setting(command, key):
            others = [name for name in UNREAD if reads_setting(name, key)]
            faults.append(
                f"{shown_name(key)} has no effect in `ziggurat {command}`: it is a setting of {listed(others)}; leave it out"
            )
    if faults:
        raise UserError(faults)
    return settings


def read_config(command: str, settings: Mapping[str, Any]) -> RunConfig:
    """Return the config of a command that needs no more than settings, in their ranges.

    Raises:
        UserError: Listing every fault.
    """
    config = override(RunConfig(), check_command(command, settings))
    faults = range_faults(config)
    if faults:
        raise UserError(faults)
    return config


def reads_setting(command: str, key: str) -> bool:
    """Whether a command reads a setting; one that takes no settings reads none."""
    reads = command in UNREAD and not matches(UNREAD[command], key)
    return reads or matches(READ_STILL.get(command, ()), key)


def matches(patterns: Iterable[str], key: str) -> bool:
    """Whether a setting is one of those named, or of a section that is named with a dot behind.

    Example:
        >>> matches(["loss.", "seed"], "loss.smoothing"), matches(["loss.", "seed"], "seed.other")
        (True, False)
    """
    return any(key == one or (one.endswith(".") and key.startswith(one)) for one in patterns)


def listed(names: list[str]) -> str:
    """Return names with commas and a last "and" between.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

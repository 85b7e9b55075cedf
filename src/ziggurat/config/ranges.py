"""Which settings are out of their range, whatever the data and the plan are."""

from __future__ import annotations

import math
import re

from ziggurat.config.reading import flatten
from ziggurat.config.records import RunConfig


def range_faults(config: RunConfig) -> list[str]:
    """Return a sentence for every setting that is out of its range, whatever the data and the plan are."""
    flat = flatten(config)
    positive = [
        "model.channels", "model.pnn.levels", "model.pnn.channels", "model.pnn.stages", "model.pnn.depth",
        "model.pnn.hidden", "data.crop", "data.resize_limit", "data.scale_min", "data.scale_max", "data.max_pixels",
        "digits.size", "digits.height_min", "digits.height_max", "digits.train_scenes", "digits.val_scenes",
        "decode.candidates", "decode.max_detections", "train.batch_size", "train.lr", "train.backbone_lr", "checkpoint.keep",
        "launch.setup_seconds", "launch.step_seconds", "launch.checkpoint_seconds", "launch.evaluation_seconds",
        "tensor.min_width",
    ]  # fmt: skip
    not_negative = [
        "seed", "threads", "model.head_depth", "model.neck_depth", "data.resize", "data.color_jitter", "data.workers",
        "data.cache_bytes", "digits.count_min", "train.epochs", "train.steps", "train.microbatches",
        "train.weight_decay", "train.clip_norm", "train.checkpoint_every", "train.evaluate_every", "loss.box_weight",
        "loss.level_weight", "loss.dice_weight", "checkpoint.keep_best", "checkpoint.keep_every", "pipeline.max_bytes",
        "pipeline.unit_bytes",
        "launch.max_restarts",
    ]  # fmt: skip
    shares = [
        "model.drop_path",
        "loss.smoothing",
        "data.min_visible",
        "data.tile_overlap",
        "train.momentum",
        "train.beta2",
        "train.ema",
    ]
    closed = [
        "decode.score_threshold",
        "decode.nms_threshold",
        "train.warmup",
        "train.final_lr",
        "loss.focal_alpha",
    ]
    faults = [f"{key} must be positive: got {flat[key]}" for key in positive if not flat[key] > 0]
    faults += [f"{key} must not be negative: got {flat[key]}" for key in not_negative if not flat[key] >= 0]
    faults += [f"{key} must be in [0, 1): got {flat[key]}" for key in shares if not 0 <= flat[key] < 1]
    faults += [f"{key} must be in [0, 1]: got {flat[key]}" for key in closed if not 0 <= flat[key] <= 1]
    for low, high in [
        ("data.scale_min", "data.scale_max"),
        ("digits.count_min", "digits.count_max"),
        ("digits.height_min", "digits.height_max"),
        ("digits.height_max", "digits.size"),
    ]:
        if flat[low] > flat[high]:
            faults.append(f"{low} must not exceed {high}: got {flat[low]} and {flat[high]}")
    if not re.fullmatch(r"( *[1-9][0-9]* *(,|$))*", flat["data.crops"]):
        faults.append(
            f"data.crops must name sides in pixels with commas between, such as 448,512: got {flat['data.crops']}"
        )
    if not _is_range(flat["data.range"]):
        faults.append(
            f"data.range must be two numbers with a comma between, the first smaller, such as 0,4095: got "
            f"{flat['data.range']}"
        )
    if not 0 <= flat["data.ignore"] <= 255:
        faults.append(f"data.ignore must be the value of a pixel, 0 to 255: got {flat['data.ignore']}")
    if not flat["train.steps"] and not flat["train.epochs"]:
        faults.append("nothing to do: give train.epochs or train.steps")
    return faults


def _is_range(text: str) -> bool:
    """Whether a text is empty, or LOW,HIGH."""
    try:
        numbers = [float(part) for part in text.split(",")] if text.strip() else [0.0, 1.0]
    except ValueError:
        return False
    return len(numbers) == 2 and all(map(math.isfinite, numbers)) and numbers[0] < numbers[1]

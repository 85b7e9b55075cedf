"""A run's configuration: one nested, frozen record, from defaults, a YAML file and ``key=value`` settings.

Every part of the program receives its own section only. All faults are found before any process starts.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ziggurat.errors import UserError, nearest


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: ``HEAD-BACKBONE-NECK``; HEAD is ``fcos`` or ``retinanet``, BACKBONE any timm name.
        levels: First and last level of the pyramid, such as ``p3-p7``.
        channels: Channels of every pyramid level.
        head_depth: Convolutions of each tower of the head.
        norm: Normalization of the backbone: ``batch`` (statistics of a microbatch), ``frozen`` (running
            statistics, never updated) or ``group`` (each batch norm replaced by a group norm).
        weights: File whose weights are loaded before training (safetensors or torch), or ``none``.
        drop_path: Rate of stochastic depth in the backbone, where it has any.
    """

    name: str = "fcos-resnet50-fpn"
    levels: str = "p3-p7"
    channels: int = 256
    head_depth: int = 4
    norm: Literal["batch", "frozen", "group"] = "batch"
    weights: str = "none"
    drop_path: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """Reading and augmenting images.

    Attributes:
        path: The data set: a folder, an annotation file, or ``digits`` (the embedded data set).
        val: What training evaluates on: a folder or an annotation file; empty takes the ``val`` split of `path`.
        crop: Rows and columns of a training crop and of a prediction tile, in pixels of the network's input.
        resize: Shorter side of every image before it is cropped or tiled, in pixels; 0 keeps its own size.
        resize_limit: Longest side that ``resize`` may lead to, in pixels.
        scale_min: Smallest factor of the scale jitter.
        scale_max: Largest factor of the scale jitter.
        flip: Mirror images left-right (``horizontal``), also upside down (``both``), or not (``none``).
        quarter_turns: Turn images by multiples of 90 degrees (aerial images, microscopy).
        color_jitter: Strength of random brightness, contrast and saturation; 0 is none.
        min_visible: A box that keeps less than this share of its area in the crop is left out.
        workers: Loader processes per worker; 0 loads in the worker itself.
        cache_bytes: Decoded images that each loader process may keep.
        max_pixels: Images with more pixels are refused before they are decoded.
        tile_overlap: Share of a tile's side that neighbouring prediction tiles have in common.
    """

    path: str = ""
    val: str = ""
    crop: int = 512
    resize: int = 0
    resize_limit: int = 1333
    scale_min: float = 0.8
    scale_max: float = 1.25
    flip: Literal["none", "horizontal", "both"] = "horizontal"
    quarter_turns: bool = False
    color_jitter: float = 0.0
    min_visible: float = 0.25
    workers: int = 1
    cache_bytes: int = 1 << 30
    max_pixels: int = 1 << 30
    tile_overlap: float = 0.25


@dataclass(frozen=True)
class DigitsConfig:
    """The embedded data set: handwritten digits on photographs.

    Attributes:
        size: Rows and columns of a scene, in pixels.
        count_min: Fewest digits of a scene.
        count_max: Most digits of a scene.
        height_min: Height of the smallest digit, in pixels.
        height_max: Height of the largest digit, in pixels.
        train_scenes: Scenes of the training split.
        val_scenes: Scenes of the validation split.
        seed: Another seed is another data set.
    """

    size: int = 128
    count_min: int = 2
    count_max: int = 5
    height_min: int = 12
    height_max: int = 64
    train_scenes: int = 2000
    val_scenes: int = 200
    seed: int = 0


@dataclass(frozen=True)
class LossConfig:
    """The detection loss.

    Attributes:
        normalizer: What the loss is divided by: ``default`` is the head's own as its paper's reference
            implementation has it (FCOS: ``positives``; RetinaNet: ``images``), ``positives`` is the number of
            positive positions of the global batch, ``images`` weighs each image by its own positives and
            divides by the images of the global batch.
        focal_alpha: Weight of positives in the focal loss.
        focal_gamma: Exponent of the focal loss.
        box_weight: Factor of the box term.
    """

    normalizer: Literal["default", "positives", "images"] = "default"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_weight: float = 1.0


@dataclass(frozen=True)
class DecodeConfig:
    """From the network's outputs to boxes.

    Attributes:
        score_threshold: Boxes with a lower score are dropped.
        nms_threshold: Of two boxes of a class whose IoU is larger, the one with the lower score is dropped.
        candidates: Best positions of each level that are decoded.
        max_detections: Most boxes of an image.
    """

    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    candidates: int = 1000
    max_detections: int = 300


@dataclass(frozen=True)
class TrainConfig:
    """The optimization.

    Attributes:
        epochs: Passes over the data; unused if ``steps`` is positive.
        steps: Optimizer steps; 0 trains for ``epochs``.
        batch_size: Samples of one optimizer step, over all workers (the global batch).
        microbatches: Pieces that the global batch is cut into; 0 stands for the number of workers that the
            run is started with, and is resolved before it starts.
        optimizer: ``adamw`` or ``sgd``.
        lr: Peak learning rate.
        momentum: Momentum of SGD, or the first beta of AdamW.
        weight_decay: Decay of weights with more than one dim (never of biases and norms).
        warmup: Share of the steps in which the learning rate rises linearly; then it falls as a cosine.
        final_lr: Learning rate of the last step as a share of ``lr``.
        clip_norm: Largest global norm of the gradient; 0 does not clip.
        ema: Decay of the exponential moving average of the weights; 0 keeps none. Early in training the
            decay is ``(1 + step) / (10 + step)`` where that is smaller.
        channels_last: Memory format of images and weights: ``true`` is faster on CPUs and tensor cores.
        checkpoint_every: Steps between checkpoints; 0 writes the last one only.
        evaluate_every: Steps between evaluations; 0 evaluates at the end only.
    """

    epochs: int = 12
    steps: int = 0
    batch_size: int = 8
    microbatches: int = 0
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 5e-4
    momentum: float = 0.9
    weight_decay: float = 0.05
    warmup: float = 0.05
    final_lr: float = 0.01
    clip_norm: float = 10.0
    ema: float = 0.998
    channels_last: bool = True
    checkpoint_every: int = 500
    evaluate_every: int = 0


@dataclass(frozen=True)
class RunConfig:
    """All that defines a run, and where it runs.

    Attributes:
        task: ``detect``.
        plan: Degrees of the mesh axes, such as ``dp=2``; says where each piece is computed, not what.
        seed: Keys every random choice.
        threads: Threads of each worker; 0 stands for the cores divided by the local workers, and is resolved
            before the run starts.
        dtype: ``bf16`` (autocast) or ``fp32``; ``auto`` takes bf16 where the device has units for it, and is
            resolved before the run starts.
        device: ``auto`` takes GPUs where there are any.
    """

    task: Literal["detect"] = "detect"
    plan: str = ""
    seed: int = 0
    threads: int = 0
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    digits: DigitsConfig = field(default_factory=DigitsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def known_keys(record: type = RunConfig, prefix: str = "") -> list[str]:
    """Return the dotted name of every setting, in order.

    Example:
        >>> known_keys()[:3]
        ['task', 'plan', 'seed']
    """
    hints = typing.get_type_hints(record)
    keys = []
    for item in dataclasses.fields(record):
        if dataclasses.is_dataclass(hints[item.name]):
            keys += known_keys(hints[item.name], f"{prefix}{item.name}.")
        else:
            keys.append(prefix + item.name)
    return keys


def override(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """Return `config` with some settings replaced.

    Args:
        config: The configuration to start from.
        settings: From dotted names to values; a string is read as the setting's type.

    Raises:
        UserError: If names are unknown or values are not of the setting's type; all of them are listed.

    Example:
        >>> override(RunConfig(), {"train.lr": "0.01"}).train.lr
        0.01
    """
    faults: list[str] = []
    for key, value in settings.items():
        try:
            config = _replace(config, key, key.split("."), value)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return config


def _replace(record: Any, key: str, path: list[str], value: Any) -> Any:
    hints = typing.get_type_hints(type(record))
    name, *rest = path
    kind = hints.get(name)
    if kind is None or dataclasses.is_dataclass(kind) != bool(rest):
        raise UserError(f"unknown setting '{key}': {nearest(key, known_keys())}")
    if rest:
        return dataclasses.replace(record, **{name: _replace(getattr(record, name), key, rest, value)})
    return dataclasses.replace(record, **{name: _read(kind, value, key)})


def _read(kind: Any, value: Any, key: str) -> Any:
    """Read `value` as `kind`, which is bool, int, float, str or a Literal of strings."""
    if not isinstance(value, (bool, int, float, str)):
        raise UserError(f"{key} must be one value: got {value!r}")
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value not in allowed:
            raise UserError(f"{key} must be one of {', '.join(allowed)}: got '{value}'")
        return value
    if kind is bool:
        words = {"true": True, "false": False, True: True, False: False}
        word = value.lower() if isinstance(value, str) else value
        if word not in words or (isinstance(word, (int, float)) and not isinstance(word, bool)):
            raise UserError(f"{key} must be true or false: got '{value}'")
        return words[word]
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float) and value != int(value)):
            raise ValueError
        number = kind(value)
        if kind is float and not math.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        wanted = {int: "a whole number", float: "a number", str: "a word"}[kind]
        raise UserError(f"{key} must be {wanted}: got '{value}'") from None


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting by its dotted name.

    Example:
        >>> flatten(RunConfig())["train.optimizer"]
        'adamw'
    """
    flat: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def load_config(path: Path) -> RunConfig:
    """Read a configuration as `save_config` writes it; settings that it does not name keep their defaults.

    Raises:
        UserError: If the file cannot be read, is not YAML, or has unknown or ill-typed settings.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config {path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"the config {path} must hold settings by name: got {type(tree).__name__}")
    return override(RunConfig(), _flat_tree(tree))


def _flat_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat_tree(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def save_config(config: RunConfig, path: Path) -> None:
    """Write the whole configuration as YAML."""
    text = yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)
    path.write_text(text, encoding="utf-8")


def range_faults(config: RunConfig) -> list[str]:
    """Return a sentence for every setting that is out of its range, whatever the data and the plan are."""
    flat = flatten(config)
    positive = [
        "model.channels", "data.crop", "data.resize_limit", "data.scale_min", "data.scale_max", "data.max_pixels",
        "digits.size", "digits.height_min", "digits.height_max", "digits.train_scenes", "digits.val_scenes",
        "decode.candidates", "decode.max_detections", "train.batch_size", "train.lr",
    ]  # fmt: skip
    not_negative = [
        "seed", "threads", "model.head_depth", "data.resize", "data.color_jitter", "data.workers",
        "data.cache_bytes", "digits.count_min", "train.epochs", "train.steps", "train.microbatches",
        "train.weight_decay", "train.clip_norm", "train.checkpoint_every", "train.evaluate_every", "loss.box_weight",
    ]  # fmt: skip
    shares = ["model.drop_path", "data.min_visible", "data.tile_overlap", "train.momentum", "train.ema"]
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
    if not flat["train.steps"] and not flat["train.epochs"]:
        faults.append("nothing to do: give train.epochs or train.steps")
    return faults

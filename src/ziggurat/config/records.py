"""What defines a run: one nested, frozen record; every part of the program receives its own section only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Task = Literal["detect", "classify", "segment"]


@dataclass(frozen=True)
class PnnConfig:
    """The image-pyramid network: a small network on every level of a pyramid of images, linked to its neighbours.

    Attributes:
        levels: Levels of the image pyramid; level k sees the image at ``2**-k`` of its size. A detector takes as
            many as ``model.levels`` names.
        pyramid: ``gaussian`` (smoothed and halved) or ``laplacian`` (what each halving loses, and the rest).
        weights: Whether the networks of all levels share their weights (``shared``) or not (``separate``).
        links: Between neighbouring levels: coarse to fine (``down``), fine to coarse (``up``), ``both`` or ``none``.
        channels: Channels after the first stage of a level's network; each stage doubles them.
        stages: Stages of a level's network, each of convolutions and a pooling that halves its map.
        depth: Convolutions of a stage.
        hidden: Units of the fully connected layer of each level.
    """

    levels: int = 3
    pyramid: Literal["gaussian", "laplacian"] = "gaussian"
    weights: Literal["shared", "separate"] = "separate"
    links: Literal["both", "up", "down", "none"] = "both"
    channels: int = 32
    stages: int = 3
    depth: int = 2
    hidden: int = 128


@dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: A detector: ``HEAD-BACKBONE-NECK`` (HEAD is ``fcos``, ``retinanet`` or ``atss``, BACKBONE any timm
            name, NECK ``fpn``, ``pafpn`` or ``bifpn``) or ``HEAD-pnn``. A classifier: ``timm:NAME``,
            ``spp-BACKBONE``, ``pnn``, or ``pyramidnet-DEPTH-ALPHA`` with the endings ``-bottleneck`` and
            ``-multiplicative``. A segmenter: ``smp:DECODER/ENCODER``. ``auto`` stands for fcos-resnet50-fpn,
            timm:resnet50 or smp:unet/resnet34, as the task is.
        levels: First and last level of a detector's pyramid, such as ``p3-p7``.
        channels: Channels of every pyramid level; scales the decoder of a segmenter, whose own widths it has at
            256.
        neck_depth: Times that the paths of a neck are repeated; 0 takes the neck's own (bifpn 3, others 1).
        head_depth: Convolutions of each tower of the head.
        norm: Normalization of the backbone: ``batch`` (statistics of a microbatch), ``frozen`` (running
            statistics, never updated) or ``group`` (each batch norm replaced by a group norm). The neck ``bifpn``
            has batch norms for ``batch`` and group norms for the others.
        weights: File whose weights are loaded before training (safetensors or torch), or ``none``.
        drop_path: Rate of stochastic depth in the backbone, where it has any.
        spp_bins: Bins along each side of the map that spatial pyramid pooling pools to, level by level.
        pnn: The image-pyramid network.
    """

    name: str = "auto"
    levels: str = "p3-p7"
    channels: int = 256
    neck_depth: int = 0
    head_depth: int = 4
    norm: Literal["batch", "frozen", "group"] = "batch"
    weights: str = "none"
    drop_path: float = 0.0
    spp_bins: str = "4,2,1"
    pnn: PnnConfig = field(default_factory=PnnConfig)


@dataclass(frozen=True)
class DataConfig:
    """Reading and augmenting images.

    Attributes:
        path: The data set: a folder, an annotation file, or ``digits`` (the embedded data set).
        val: What training evaluates on: a folder or an annotation file; empty takes the ``val`` split of `path`.
        classes: Names of the values of segmentation masks from 0, with commas between (``name=255`` gives another
            value); empty takes those that stand beside the masks.
        ignore: Value of a mask's pixels that take no part in loss and metric.
        crop: Rows and columns of a training crop and of a prediction tile, in pixels of the network's input. Larger
            than an image: it is trained on whole, at a random place of a black crop, and predicted as one piece.
        crops: Sides of the training crop, with commas between, such as ``448,512,576``: each step takes one of them, and
            images are scaled along, so that a crop shows as much as one of ``crop`` pixels. Empty takes ``crop`` always.
        resize: Shorter side of every image before it is cropped or tiled, in pixels; 0 keeps its own size (a
            classifier's images are resized to ``crop``).
        resize_limit: Longest side that ``resize`` may lead to, in pixels.
        antialias: Smooth what becomes smaller in evaluation and prediction; torchvision's detectors do not.
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
        on_error: When the image of a training sample cannot be read: ``stop``, or ``skip`` it, which puts the next
            sample of another image in its place, and is counted.
    """

    path: str = ""
    val: str = ""
    classes: str = ""
    ignore: int = 255
    crop: int = 512
    crops: str = ""
    resize: int = 0
    resize_limit: int = 1333
    antialias: bool = True
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
    on_error: Literal["stop", "skip"] = "stop"


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
    """The loss of each task.

    Attributes:
        normalizer: What the loss is divided by: ``default`` is the head's own as its paper's reference
            implementation has it (FCOS and ATSS: ``positives``; RetinaNet: ``images``), ``positives`` is the
            number of positive positions of the global batch (and, for the boxes of ATSS, the sum of their
            centernesses), ``images`` weighs each image by its own positives and divides by the images of the
            global batch.
        focal_alpha: Weight of positives in the focal loss.
        focal_gamma: Exponent of the focal loss.
        box_weight: Factor of the box term.
        smoothing: Share of a class's target probability that is spread over all classes (classification).
        level_weight: Factor of the loss of each level's own prediction (``pnn``); 0 supervises the joined one only.
        segmentation: Terms of the segmentation loss: cross-entropy (``ce``), focal loss (``focal``), Dice of the
            global batch (``dice``), or a sum of two.
        dice_weight: Factor of the Dice term.
    """

    normalizer: Literal["default", "positives", "images"] = "default"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_weight: float = 1.0
    smoothing: float = 0.0
    level_weight: float = 0.3
    segmentation: Literal["ce", "focal", "dice", "ce+dice", "focal+dice"] = "ce"
    dice_weight: float = 1.0


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
        microbatches: Pieces that the global batch is cut into; 0 stands for the degree of dp times that of pp
            that the run is started with, and is resolved before it starts.
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
        on_nonfinite: When the loss or the gradient is not finite: ``stop``, or ``skip`` the step, which then changes
            nothing but the step's number, and is counted.
        report: What a run's report holds: ``pictures`` and numbers, or ``numbers`` alone, which takes a second less.
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
    on_nonfinite: Literal["stop", "skip"] = "stop"
    report: Literal["pictures", "numbers"] = "pictures"


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay; `train.checkpoint_every` says when they are written.

    Attributes:
        keep: Newest checkpoints that stay, at least 1.
        keep_best: Checkpoints with the best metric that stay too (``map50``, ``top1`` or ``miou``), of those that were
            evaluated (``train.evaluate_every``).
        keep_every: Checkpoints whose step is a multiple of this number stay too; 0 keeps none of them.
    """

    keep: int = 2
    keep_best: int = 1
    keep_every: int = 0


@dataclass(frozen=True)
class PipelineConfig:
    """How a plan with pp cuts the network, and in what order its stages compute; ``plan.cut`` is ``pipeline.cut``.

    Attributes:
        cut: Names of the layers at which new stages start, with commas between, such as ``layer2,layer4``; of a layer
            that is called several times ``head:3`` is the third call. Empty balances the measured times.
        schedule: ``gpipe``, ``1f1b`` (fewer activations at once) or ``interleaved`` (two stages on each worker).
        max_bytes: Most bytes of a stage's weights, gradients and activations where the cut is chosen; 0 for no bound.
        checkpoint: ``stage`` keeps of a microbatch what each stage has received, and computes the rest again for
            backward: less memory for more time. ``none`` keeps all.
        unit_bytes: Under fsdp, parameters of the smallest module that is gathered on its own.
    """

    cut: str = ""
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"
    max_bytes: int = 0
    checkpoint: Literal["none", "stage"] = "none"
    unit_bytes: int = 1 << 20


@dataclass(frozen=True)
class TensorConfig:
    """What a plan with tp splits.

    Attributes:
        min_width: Fewest hidden channels of a pair of layers, or classes of a classifier.
    """

    min_width: int = 256


@dataclass(frozen=True)
class LaunchConfig:
    """Workers that die or hang, and how long each section of their work may take without a sign of life.

    Attributes:
        max_restarts: Times in a row that the workers are started again without a new step in between; 0 ends the run
            with the first worker that dies.
        setup_seconds: Longest time that a worker may spend on the same part of starting up.
        step_seconds: Longest time for one phase of a training step (data, forward, backward ...).
        checkpoint_seconds: Longest time for one phase of a checkpoint.
        evaluation_seconds: Longest time for one batch of an evaluation, for its metrics, and for the report.
        backend: What carries tensors between workers: ``auto`` is nccl between GPUs and gloo between CPUs. ``gloo`` goes
            through the CPU's memory: slow, but then several workers may share a GPU, which nccl refuses.
    """

    max_restarts: int = 3
    setup_seconds: float = 600.0
    step_seconds: float = 600.0
    checkpoint_seconds: float = 600.0
    evaluation_seconds: float = 1800.0
    backend: Literal["auto", "gloo"] = "auto"


@dataclass(frozen=True)
class RunConfig:
    """All that defines a run, and where it runs.

    Attributes:
        task: ``detect``, ``classify`` or ``segment``; ``auto`` is resolved before the run starts, from the model's
            name, else from the data.
        plan: Degrees of the mesh axes: ``dp=2`` (samples over workers), ``sp=2`` (each image in bands of rows),
            ``sp=2x2`` (in tiles), ``pp=2`` (parts of the network), ``lp=2`` (parallel branches), ``tp=2`` (wide
            layers), ``fsdp=2`` (samples and weights), and products such as ``dp=2,sp=2``; says where each piece is computed, not what.
        seed: Keys every random choice.
        threads: Threads of each worker; 0 stands for the cores divided by the local workers, and is resolved
            before the run starts.
        dtype: ``bf16`` (autocast) or ``fp32``; ``auto`` takes bf16 where the device has units for it, and is
            resolved before the run starts.
        device: ``auto`` takes GPUs where there are any.
    """

    task: Literal["auto", "detect", "classify", "segment"] = "auto"
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
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    tensor: TensorConfig = field(default_factory=TensorConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)


def run_task(config: RunConfig) -> Task:
    """Return the task of a resolved config.

    Raises:
        ValueError: If it is ``auto`` still.
    """
    if config.task == "auto":
        raise ValueError(
            "the task must be resolved: got auto; set RunConfig.task to detect, classify or segment"
        )
    return config.task

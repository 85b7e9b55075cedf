"""What defines a run: one nested, frozen record; every part of the program receives its own section only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ziggurat.config.fields import (
    BINS,
    BYTES,
    COUNT,
    MAX_SIDE,
    MIN_SIDE,
    PIXEL_VALUE,
    PROBABILITY,
    SAMPLE_RANGE,
    SEED,
    SHARE,
    SHARES,
    SIDES,
    STEPS,
    between,
    setting,
    zero_or,
)


@dataclass(frozen=True)
class PnnConfig:
    """The image-pyramid network: a small network on every level of a pyramid of images, linked to its neighbours."""

    levels: int = setting(
        3,
        "Levels of the image pyramid; level k sees the image at ``2**-k`` of its size. A detector takes "
        "as many as ``model.levels`` names.",
        between(1, 10),
    )
    pyramid: Literal["gaussian", "laplacian"] = setting(
        "gaussian",
        "``gaussian`` (smoothed and halved) or ``laplacian`` (what each halving loses, and the rest).",
    )
    weights: Literal["shared", "separate"] = setting(
        "separate",
        "Whether the networks of all levels share their weights (``shared``) or not (``separate``).",
    )
    links: Literal["both", "up", "down", "none"] = setting(
        "both",
        "Between neighbouring levels: coarse to fine (``down``), fine to coarse (``up``), ``both`` or "
        "``none``.",
    )
    channels: int = setting(
        32, "Channels after the first stage of a level's network; each stage doubles them.", between(1, 4096)
    )
    stages: int = setting(
        3,
        "Stages of a level's network, each of convolutions and a pooling that halves its map.",
        between(1, 10),
    )
    depth: int = setting(2, "Convolutions of a stage.", between(1, 100))
    hidden: int = setting(128, "Units of the fully connected layer of each level.", between(1, 1 << 16))


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = setting(
        "auto",
        "A detector: ``HEAD-BACKBONE-NECK`` (HEAD is ``fcos``, ``retinanet`` or ``atss``, BACKBONE any "
        "timm name, NECK ``fpn``, ``pafpn`` or ``bifpn``) or ``HEAD-pnn``. A classifier: ``timm:NAME``, "
        "``spp-BACKBONE``, ``pnn``, or ``pyramidnet-DEPTH-ALPHA`` with the endings ``-bottleneck`` and "
        "``-multiplicative``. A segmenter: ``smp:DECODER/ENCODER``. ``auto`` stands for "
        "fcos-resnet50-fpn, timm:resnet50 or smp:unet/resnet34, as the task is; ``ziggurat models`` lists them.",
    )
    levels: str = setting("p3-p7", "First and last level of a detector's pyramid, such as ``p3-p7``.")
    channels: int = setting(
        256,
        "Channels of every pyramid level; scales the decoder of a segmenter, whose own widths it has at 256.",
        between(1, 1 << 13),
    )
    neck_depth: int = setting(
        0,
        "Times that the paths of a neck are repeated; 0 takes the neck's own (bifpn 3, others 1).",
        between(0, 100),
    )
    head_depth: int = setting(4, "Convolutions of each tower of the head.", between(0, 100))
    norm: Literal["batch", "frozen", "group"] = setting(
        "batch",
        "Normalization of the backbone: ``batch`` (statistics of a microbatch), ``frozen`` (running "
        "statistics, never updated) or ``group`` (each batch norm replaced by a group norm). The neck "
        "``bifpn`` has batch norms for ``batch`` and group norms for the others.",
    )
    weights: str = setting(
        "none",
        "Weights that are loaded before training: a file (safetensors, torch), a run (``runs/x``) or a checkpoint of it "
        "(``runs/x@best``), whose model is taken where none is named, or ``lite0``; ``none`` starts at random.",
    )
    drop_path: float = setting(0.0, "Rate of stochastic depth in the backbone, where it has any.", SHARE)
    spp_bins: str = setting(
        "4,2,1",
        "Bins along each side of the map that spatial pyramid pooling pools to, level by level.",
        BINS,
    )
    pnn: PnnConfig = field(default_factory=PnnConfig)


@dataclass(frozen=True)
class DataConfig:
    """Reading and augmenting images."""

    path: str = setting(
        "", "The data set: a folder, an annotation file, or ``digits`` (the embedded data set)."
    )
    val: str = setting(
        "",
        "What training evaluates on: a folder or an annotation file; empty takes the ``val`` split of "
        "``path``.",
    )
    classes: str = setting(
        "",
        "Names of all classes, with commas between: of the values of segmentation masks from 0 (``name=255`` gives "
        "another value), else in the order of labels. Empty takes those that the data set declares, else those that "
        "occur in its training data.",
    )
    ignore: int = setting(255, "Value of a mask's pixels that take no part in loss and metric.", PIXEL_VALUE)
    crop: int = setting(
        512,
        "Rows and columns of a training crop and of a prediction tile, in pixels of the network's input. "
        "Larger than an image: it is trained on whole, at a random place of a black crop, and predicted "
        "as one piece.",
        between(MIN_SIDE, MAX_SIDE),
    )
    crops: str = setting(
        "",
        "Sides of the training crop, with commas between, such as ``448,512,576``: each step takes one of "
        "them, and images are scaled along, so that a crop shows as much as one of ``crop`` pixels. Empty "
        "takes ``crop`` always.",
        SIDES,
    )
    resize: int = setting(
        0,
        "Shorter side of every image before it is cropped or tiled, in pixels; 0 keeps its own size (a "
        "classifier's images are resized to ``crop``).",
        zero_or(MIN_SIDE, MAX_SIDE),
    )
    resize_limit: int = setting(
        1333, "Longest side that ``resize`` may lead to, in pixels.", between(MIN_SIDE, 1 << 20)
    )
    antialias: bool = setting(
        True, "Smooth what becomes smaller in evaluation and prediction; torchvision's detectors do not."
    )
    scale_min: float = setting(0.8, "Smallest factor of the scale jitter.", between(0.01, 100.0))
    scale_max: float = setting(1.25, "Largest factor of the scale jitter.", between(0.01, 100.0))
    flip: Literal["none", "horizontal", "both"] = setting(
        "horizontal",
        "Mirror images left-right (``horizontal``), also upside down (``both``), or not (``none``).",
    )
    quarter_turns: bool = setting(
        False, "Turn images by multiples of 90 degrees (aerial images, microscopy)."
    )
    color_jitter: float = setting(
        0.0, "Strength of random brightness, contrast and saturation; 0 is none.", between(0.0, 2.0)
    )
    min_visible: float = setting(
        0.25, "A box that keeps less than this share of its area in the crop is left out.", SHARE
    )
    workers: int = setting(1, "Loader processes per worker; 0 loads in the worker itself.", between(0, 256))
    cache_bytes: int = setting(
        1 << 30, "Decoded images that each loader process may keep.", between(0, BYTES)
    )
    max_pixels: int = setting(
        1 << 30, "Images with more pixels are refused before they are decoded.", between(1, BYTES)
    )
    range: str = setting(
        "",
        "The samples that are black and white, such as ``0,4095``, in images of more than 8 bits; empty "
        "takes all of 16 bits, and refuses 32 bits, signed and floating-point samples, which have no "
        "range of their own.",
        SAMPLE_RANGE,
    )
    extra: Literal["refuse", "drop"] = setting(
        "refuse",
        "What image files hold beside one picture of one or three bands: further bands (near infrared), pages, frames. "
        "``refuse`` such files, or ``drop`` what lies behind the first.",
    )
    images: str = setting(
        "",
        "Folder of the images, where they do not lie in the data set's folder; names in the annotations are "
        "looked for in it first.",
    )
    label_column: str = setting(
        "",
        "Column that holds the class, in GeoPackages, GeoJSON and shapefiles; empty takes the one that is called so "
        "(``label``, ``class`` ...), and says which.",
    )
    exif: Literal["auto", "upright", "stored"] = setting(
        "auto",
        "What annotations are for whose size is that of a photo's file, or that have none, where its EXIF turns the photo: "
        "``upright`` (the "
        "photo as it is shown), ``stored`` (as it lies in its file), or ``auto``: what boxes say that fit in one of "
        "the two only, and a fault where none does.",
    )
    tile_overlap: float = setting(
        0.25,
        "Share of a tile's side that neighbouring prediction tiles have in common.",
        between(0.0, 0.9),
    )
    on_error: Literal["stop", "skip"] = setting(
        "stop",
        "When annotations or images are faulty (a box without area, a missing or broken file, another size): "
        "``stop``, or ``skip`` them, which leaves them out of training and evaluation, counts them, and lists them "
        "in ``skipped.jsonl``.",
    )


@dataclass(frozen=True)
class DigitsConfig:
    """The embedded data set: handwritten digits on photographs."""

    size: int = setting(128, "Rows and columns of a scene, in pixels.", between(MIN_SIDE, 1 << 13))
    count_min: int = setting(2, "Fewest digits of a scene.", between(0, 200))
    count_max: int = setting(5, "Most digits of a scene.", between(0, 200))
    height_min: int = setting(12, "Height of the smallest digit, in pixels.", between(4, 1 << 13))
    height_max: int = setting(64, "Height of the largest digit, in pixels.", between(4, 1 << 13))
    train_scenes: int = setting(2000, "Scenes of the training split.", between(1, COUNT))
    val_scenes: int = setting(200, "Scenes of the validation split.", between(1, COUNT))
    seed: int = setting(0, "Another seed is another data set.", between(0, SEED))


@dataclass(frozen=True)
class LossConfig:
    """The loss of each task."""

    normalizer: Literal["default", "positives", "images"] = setting(
        "default",
        "What the loss is divided by: ``default`` is the head's own as its paper's reference "
        "implementation has it (FCOS and ATSS: ``positives``; RetinaNet: ``images``), ``positives`` is "
        "the number of positive positions of the global batch (and, for the boxes of ATSS, the sum of "
        "their centernesses), ``images`` weighs each image by its own positives and divides by the images "
        "of the global batch.",
    )
    focal_alpha: float = setting(0.25, "Weight of positives in the focal loss.", PROBABILITY)
    focal_gamma: float = setting(2.0, "Exponent of the focal loss.", between(0.0, 20.0))
    box_weight: float = setting(1.0, "Factor of the box term.", between(0.0, 1e4))
    smoothing: float = setting(
        0.0, "Share of a class's target probability that is spread over all classes (classification).", SHARE
    )
    level_weight: float = setting(
        0.3,
        "Factor of the loss of each level's own prediction (``pnn``); 0 supervises the joined one only.",
        between(0.0, 1e4),
    )
    segmentation: Literal["ce", "focal", "dice", "ce+dice", "focal+dice"] = setting(
        "ce",
        "Terms of the segmentation loss: cross-entropy (``ce``), focal loss (``focal``), Dice of the "
        "global batch (``dice``), or a sum of two.",
    )
    dice_weight: float = setting(1.0, "Factor of the Dice term.", between(0.0, 1e4))


@dataclass(frozen=True)
class DecodeConfig:
    """From the network's outputs to boxes."""

    score_threshold: float = setting(0.05, "Boxes with a lower score are dropped.", PROBABILITY)
    nms_threshold: float = setting(
        0.6,
        "Of two boxes of a class whose IoU is larger, the one with the lower score is dropped.",
        PROBABILITY,
    )
    candidates: int = setting(1000, "Best positions of each level that are decoded.", between(1, COUNT))
    max_detections: int = setting(
        300,
        "Most boxes of a tile, and of an image that is not larger than one; what it cuts off is counted "
        "(``truncated``) and said.",
        between(1, COUNT),
    )


@dataclass(frozen=True)
class TrainConfig:
    """The optimization."""

    epochs: int = setting(12, "Passes over the data; unused if ``steps`` is positive.", between(0, COUNT))
    steps: int = setting(0, "Optimizer steps; 0 trains for ``epochs``.", between(0, STEPS))
    batch_size: int = setting(
        8, "Samples of one optimizer step, over all workers (the global batch).", between(1, COUNT)
    )
    microbatches: int = setting(
        0,
        "Pieces that the global batch is cut into; 0 stands for the degree of dp times that of pp that "
        "the run is started with, and is resolved before it starts.",
        between(0, COUNT),
    )
    optimizer: Literal["adamw", "sgd"] = setting("adamw", "``adamw`` or ``sgd``.")
    lr: float = setting(5e-4, "Peak learning rate.", between(1e-12, 1000.0))
    backbone_lr: float = setting(
        1.0,
        "Learning rate of the backbone as a share of ``lr``; of a classifier, of all but its last layer.",
        between(1e-6, 1000.0),
    )
    freeze: str = setting(
        "",
        "Parts of the network that are not trained: names of its modules with commas between, such as "
        "``backbone.body.conv1,backbone.body.layer1``, or ``backbone`` (of a classifier, all but its last layer). "
        "``model.norm=frozen`` keeps the running statistics of its batch norms, too.",
    )
    momentum: float = setting(0.9, "Momentum of SGD, or the first beta of AdamW.", SHARE)
    beta2: float = setting(0.999, "Second beta of AdamW.", SHARE)
    weight_decay: float = setting(
        0.05,
        "Decay of weights with more than one dim (never of biases, norms, position embeddings, class "
        "tokens, nor what a network of timm's names in ``no_weight_decay``).",
        between(0.0, 10.0),
    )
    warmup: float = setting(
        0.05,
        "Share of the steps in which the learning rate rises linearly; then it goes on as ``schedule`` says.",
        PROBABILITY,
    )
    schedule: Literal["cosine", "constant", "step", "onecycle"] = setting(
        "cosine",
        "After the warm-up: ``cosine`` falls to ``final_lr``, ``constant`` stays, ``step`` is multiplied by ``drop_factor`` "
        "at each of ``drops``, ``onecycle`` rises by half a cosine from 1/25 of ``lr`` during the warm-up (usually "
        "``warmup=0.3``) and falls by another to ``final_lr``.",
    )
    drops: str = setting(
        "0.67,0.89", "Shares of the steps at which ``schedule=step`` lowers the learning rate.", SHARES
    )
    drop_factor: float = setting(
        0.1, "What ``schedule=step`` multiplies the learning rate by.", between(1e-6, 1.0)
    )
    final_lr: float = setting(0.01, "Learning rate of the last step as a share of ``lr``.", PROBABILITY)
    clip_norm: float = setting(
        10.0, "Largest global norm of the gradient; 0 does not clip.", zero_or(1e-6, 1e6)
    )
    ema: float = setting(
        0.998,
        "Decay of the exponential moving average of the weights; 0 keeps none. Early in training the "
        "decay is ``(1 + step) / (10 + step)`` where that is smaller.",
        SHARE,
    )
    channels_last: bool = setting(
        True, "Memory format of images and weights: ``true`` is faster on CPUs and tensor cores."
    )
    checkpoint_every: int = setting(
        500, "Steps between checkpoints; 0 writes the last one only.", between(0, STEPS)
    )
    evaluate_every: int = setting(
        0, "Steps between evaluations; 0 evaluates at the end only.", between(0, STEPS)
    )
    patience: int = setting(
        0,
        "Evaluations in a row (``evaluate_every``) without a better main metric (``map50``, ``top1`` or ``miou``) after which "
        "training stops; 0 trains to the end. The learning rate is that of the whole length.",
        between(0, COUNT),
    )
    on_nonfinite: Literal["stop", "skip"] = setting(
        "stop",
        "When the loss or the gradient is not finite: ``stop``, or ``skip`` the step, which then changes "
        "nothing but the step's number, and is counted.",
    )
    report: Literal["pictures", "numbers"] = setting(
        "pictures",
        "What a run's report holds: ``pictures`` and numbers, or ``numbers`` alone, which takes a second less.",
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoints stay; ``train.checkpoint_every`` says when they are written."""

    keep: int = setting(2, "Newest checkpoints that stay, at least 1.", between(1, COUNT))
    keep_best: int = setting(
        1,
        "Checkpoints with the best metric that stay too (``map50``, ``top1`` or ``miou``), of those that "
        "were evaluated (``train.evaluate_every``).",
        between(0, COUNT),
    )
    keep_every: int = setting(
        0,
        "Checkpoints whose step is a multiple of this number stay too; 0 keeps none of them.",
        between(0, STEPS),
    )


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


@dataclass(frozen=True)
class RunConfig:
    """All that defines a run, and where it runs."""

    task: str = setting(
        "auto",
        "``detect``, ``classify``, ``segment``, or the name of a task from outside; ``auto`` is resolved "
        "before the run starts, from the model's name, else from the data.",
    )
    plan: str = setting(
        "",
        "Degrees of the mesh axes: ``dp=2`` (samples over workers), ``sp=2`` (each image in bands of "
        "rows), ``sp=2x2`` (in tiles), ``pp=2`` (parts of the network), ``lp=2`` (parallel branches), "
        "``tp=2`` (wide layers), ``fsdp=2`` (samples and weights), and products such as ``dp=2,sp=2``; "
        "says where each piece is computed, not what. Empty takes every device of the machine as dp.",
    )
    seed: int = setting(0, "Keys every random choice.", between(0, SEED))
    threads: int = setting(
        0,
        "Threads of each worker; 0 stands for the cores divided by the local workers, and is resolved "
        "before the run starts.",
        between(0, 1024),
    )
    dtype: Literal["auto", "bf16", "fp32"] = setting(
        "auto",
        "``bf16`` (autocast) or ``fp32``; ``auto`` takes bf16 where the device has units for it, and is "
        "resolved before the run starts.",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "``auto`` takes GPUs where there are any.")
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


def run_task(config: RunConfig) -> str:
    """Return the task of a resolved config.

    Raises:
        ValueError: If it is ``auto`` still.
    """
    if config.task == "auto":
        raise ValueError("the task must be resolved: got auto; set RunConfig.task to the name of a task")
    return config.task

"""What of a run's config defines the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ziggurat.config.fields import BINS, MAX_BANDS, SHARE, between, setting, zero_or


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
    bands: int = setting(
        0,
        "Bands of the images that the network takes; 0 takes as many as ``data.bands`` says.",
        zero_or(1, MAX_BANDS),
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


def bands_of(config: ModelConfig) -> int:
    """Return the bands of a model's images.

    Example:
        >>> bands_of(ModelConfig()), bands_of(ModelConfig(bands=12))
        (3, 12)
    """
    return config.bands or 3

"""The models of our own that are listed, by name: a few of the many that can be built."""

from __future__ import annotations

from collections.abc import Sequence

from ziggurat.models.segmenter import DECODERS

# A few of timm's networks, small to large; every other one that gives features is built by its name as well.
BACKBONES = (
    "resnet18", "resnet50", "resnet101", "tf_efficientnet_lite0", "mobilenetv3_large_100", "convnext_tiny",
    "regnety_016", "hrnet_w18", "pvt_v2_b0", "pvt_v2_b2", "swin_tiny_patch4_window7_224",
)  # fmt: skip
PYRAMIDNETS = (
    "pyramidnet-110-48", "pyramidnet-110-270", "pyramidnet-164-270-bottleneck", "pyramidnet-110-27-multiplicative",
)  # fmt: skip
ENCODERS = ("resnet34", "mobilenet_v2")
TRANSFORMERS = ("vit_tiny_patch16_224", "vit_base_patch16_224")  # what the decoder dpt takes
MULTI_BRANCH = ("pnn", "hrnet")  # backbones and classifiers whose branches lp computes at the same time


def detector_names(heads: Sequence[str], necks: Sequence[str]) -> list[str]:
    """Return every head on every neck on every listed backbone, and on image pyramids."""
    names = [f"{head}-{backbone}-{neck}" for head in heads for neck in necks for backbone in BACKBONES]
    return names + [f"{head}-pnn" for head in heads]


def classifier_names() -> list[str]:
    """Return the image pyramid, PyramidNets, and the listed backbones with SPP and as timm has them."""
    return ["pnn", *PYRAMIDNETS, *(f"{kind}{b}" for kind in ("spp-", "timm:") for b in BACKBONES)]


def segmenter_names() -> list[str]:
    """Return every decoder with a few encoders that it takes."""
    return [
        f"smp:{decoder}/{encoder}"
        for decoder in DECODERS
        for encoder in (TRANSFORMERS if decoder == "dpt" else ENCODERS)
    ]


def is_multi_branch(name: str) -> bool:
    """Whether a network has branches by its form: image pyramids, HRNet."""
    return any(kind in name for kind in MULTI_BRANCH)

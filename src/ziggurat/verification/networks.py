"""From a name to the network that is verified: ours, timm's, smp's, torchvision's, or the user's own."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

from ziggurat.config import ModelConfig
from ziggurat.errors import UserError, nearest
from ziggurat.models.build import GRAMMAR, HEADS, build_model, parse_name
from ziggurat.models.catalogue import model_names, num_classes_of
from ziggurat.models.segmenter import parse_segmenter_name
from ziggurat.torch_internals.default_group import default_group_hidden

TORCHVISION = "torchvision:"
WITH_FPN = "_fpn"  # torchvision:resnet50_fpn is the backbone of its detectors
EVERY_FORM = f"{GRAMMAR}; others are torchvision:NAME and package.module:function"
OWN_PREFIXES = ("timm:", "smp:")


def build_network(name: str, config: ModelConfig) -> nn.Module:
    """Build the network of a name, with random weights drawn from PyTorch's global generator.

    None of them is zero throughout, see `fill_zero_weights`.

    Args:
        name: As ``ziggurat verify`` takes it.
        config: Settings of a network of ours; its name is not used.

    Raises:
        UserError: If the name is unknown (with the nearest one), or the network cannot be built.
    """
    check_name(name)
    if name.startswith(TORCHVISION):
        model = _torchvision(name.removeprefix(TORCHVISION))
    elif is_foreign(name):
        with default_group_hidden():  # as on one worker
            model = _of_user(name)
    else:
        model = build_model(dataclasses.replace(config, name=name), num_classes_of(name))
    fill_zero_weights(model)
    return model


def is_foreign(name: str) -> bool:
    """Whether a network is not of ours: torchvision's, or of a package."""
    return ":" in name and not name.startswith(OWN_PREFIXES)


def fill_zero_weights(model: nn.Module) -> None:
    """Draw anew, between 1/4 and 3/4, each parameter that is zero throughout, unless it is a bias.

    Many networks begin with a weight of zero in the last norm of every residual branch. It hides all that comes before
    it, faults included; and it leaves equal numbers at neighbouring positions behind, among which a max pooling then
    chooses by their rounding.
    """
    for name, parameter in model.named_parameters():
        is_bias = name.rpartition(".")[2].endswith("bias")
        if not is_bias and parameter.numel() and not parameter.detach().any():
            nn.init.uniform_(parameter, 0.25, 0.75)


def check_name(name: str) -> None:
    """Check a name, as far as that is possible without building the network.

    Raises:
        UserError: If it is unknown; names the nearest one.
    """
    if name.startswith(TORCHVISION):
        plain = name.removeprefix(TORCHVISION)
        if not _is_torchvision(plain):
            raise UserError(f"unknown network '{name}': {nearest(plain, torchvision_names())}")
    elif name.startswith("timm:"):
        plain = name.removeprefix("timm:")
        if not timm.is_model(plain):
            raise UserError(f"unknown network '{name}': {nearest(plain, timm.list_models())}")
    elif name.startswith("smp:"):
        parse_segmenter_name(name)
    elif ":" in name:
        _find_function(name)
    else:
        _check_own_name(name)


def _check_own_name(name: str) -> None:
    """Raise if a name without a prefix is one of nobody's, or of somebody's whose prefix is missing."""
    for prefix, is_known in (("timm:", timm.is_model), (TORCHVISION, _is_torchvision)):
        if is_known(name):
            raise UserError(f"unknown model '{name}': did you mean '{prefix}{name}'?")
    first = name.partition("-")[0]
    if first in HEADS:
        parse_name(name)
    elif first not in {known.partition("-")[0] for known in model_names() if ":" not in known}:
        raise UserError(f"unknown model '{name}': {nearest(name, model_names())} ({EVERY_FORM})")


def _is_torchvision(name: str) -> bool:
    return name in torchvision_names()


def torchvision_names() -> list[str]:
    """Return torchvision's networks that take images or volumes, and the backbones of its detectors with FPN."""
    names = [
        name
        for name in torchvision.models.list_models()
        if not name.startswith(("quantized_", "raft_"))  # integers; two images at once
    ]
    backbones = [n for n in names if n.startswith(("resnet", "resnext", "wide_resnet", "mobilenet_v"))]
    return names + [name + WITH_FPN for name in backbones]


class DenseDetector(nn.Module):
    """What is dense of a torchvision detector: its backbone with FPN, and what it predicts at every position.

    That is the whole network of RetinaNet, FCOS and SSD, and the region proposals of the R-CNN family (whose second
    stage crops boxes out of the maps). Resizing of the images, and decoding of the predictions, are left out.

    Args:
        detector: One of ``torchvision.models.detection``.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, images_BCHW: Tensor) -> Any:
        """Return what the head predicts on every level."""
        maps = self.backbone(images_BCHW)
        return self.head(list(maps.values()) if isinstance(maps, dict) else [maps])


def _torchvision(name: str) -> nn.Module:
    if name.endswith(WITH_FPN) and name not in torchvision.models.list_models():
        plain = name.removesuffix(WITH_FPN)
        if plain.startswith("mobilenet"):
            mobile: nn.Module = mobilenet_backbone(
                backbone_name=plain, weights=None, fpn=True, trainable_layers=6
            )
            return mobile
        backbone: nn.Module = resnet_fpn_backbone(backbone_name=plain, weights=None, trainable_layers=5)
        return backbone
    accepted = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    named: dict[str, Any] = {"weights": None}
    if "weights_backbone" in accepted:
        named["weights_backbone"] = None
    if "trainable_backbone_layers" in accepted:
        named["trainable_backbone_layers"] = 6 if "mobilenet" in name else 5
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of initializations that will change, and of layers that are all trained
        network: nn.Module = torchvision.models.get_model(name, **named)
    return (
        DenseDetector(network)
        if hasattr(network, "roi_heads") or hasattr(network, "anchor_generator")
        else network
    )


def _of_user(name: str) -> nn.Module:
    function = _find_function(name)
    try:
        network = function()
    except Exception as error:  # the user's own code may raise anything
        raise UserError(
            f"{name}() raised {type(error).__name__}: {error}; it is called without arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{name}() must return an nn.Module: got {type(network).__name__}")
    return network


def _find_function(name: str) -> Callable[[], Any]:
    """Import the function; the current directory is importable."""
    path, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(path)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(
            f"cannot import '{path}' of the model '{name}' ({error}); {EVERY_FORM}, found from the current directory"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"'{path}' has no function '{attribute}': {nearest(attribute, known)}")
    found: Callable[[], Any] = function
    return found

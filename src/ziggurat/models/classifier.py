"""Classifiers: one prediction for the whole image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.config import ModelConfig, bands_of
from ziggurat.errors import UserError, nearest
from ziggurat.models.backbone import TIMM_ERRORS, create_backbone, image_statistics, in_bands
from ziggurat.models.depthwise import speed_up_depthwise
from ziggurat.models.images import IMAGENET
from ziggurat.models.norm import replace_norms
from ziggurat.models.pnn import PnnClassifier
from ziggurat.models.pyramidnet import PyramidNet, parse_pyramidnet
from ziggurat.models.spp import SppClassifier, parse_bins
from ziggurat.models.vision import ONE_VALUE, VisionModel
from ziggurat.torch_internals.hollow_results import HollowResults

FORMS = "timm:NAME, spp-BACKBONE, pnn, and pyramidnet-DEPTH-ALPHA"
MULTIPLES = (
    1,
    2,
    4,
    8,
    14,
    16,
    28,
    32,
    56,
    64,
    128,
)  # what a timm network's images may have to be multiples of
PROBES = ((260, 330), (400, 260))  # rows and columns, about: neither squares nor a network's own input size


class Classifier(VisionModel):
    """A network that gives logits to a whole image, and the facts that its task needs.

    Args:
        body: Returns the logits, shape ``(B, num_classes)``, or a dict with ``logits`` and those of single levels.
        num_classes: Classes.
        statistics: Mean and deviation of each channel, in [0, 1], that images are normalized by.
        class_layers: Names in `body` of the layers whose outputs are the classes.
        size_multiple: Images are padded to multiples of this number.
        level_names: Names of the logits of single levels, which the loss may supervise too.
        only_size: Rows and columns of the only images that the network takes; None if they may have any size.
    """

    task = "classify"

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
        class_layers: Iterable[str],
        size_multiple: int = 1,
        level_names: tuple[str, ...] = (),
        only_size: int | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.num_classes = num_classes
        self.mean, self.std = statistics
        self.class_layers = tuple(f"body.{name}" for name in class_layers)
        self.size_multiple = size_multiple
        self.level_names = level_names
        self.only_size = only_size

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return ``logits``, and those of the levels of `level_names`, shapes ``(B, num_classes)``.

        Args:
            images_BCHW: Normalized images; padded with zeros below and to the right if their rows and columns
                are not multiples of `size_multiple`.

        Raises:
            UserError: If the network takes images of another size only, or a batch norm in training gets one value
                of each channel, of which there are no statistics.
        """
        rows, columns = images_BCHW.shape[-2:]
        multiple = self.size_multiple
        height, width = -(-rows // multiple) * multiple, -(-columns // multiple) * multiple
        if self.only_size is not None and (height, width) != (self.only_size, self.only_size):
            raise UserError(
                f"this network takes images of {self.only_size} x {self.only_size} pixels only: got {rows} x "
                f"{columns}; set data.crop to {self.only_size}, or choose another network"
            )
        if (height, width) != (rows, columns):
            images_BCHW = functional.pad(images_BCHW, (0, width - columns, 0, height - rows))
        try:
            outputs = self.body(images_BCHW)
        except ValueError as error:
            if ONE_VALUE not in str(error):
                raise
            raise UserError(
                f"a batch norm in training needs more than one value of each channel: got {len(images_BCHW)} image "
                f"of {rows} x {columns} in a microbatch; take larger microbatches, a larger data.crop, or set "
                "model.norm to group or frozen"
            ) from error
        return outputs if isinstance(outputs, dict) else {"logits": outputs}


def build_classifier(config: ModelConfig, num_classes: int) -> Classifier:
    """Build a classifier with random weights (drawn from PyTorch's global generator).

    Args:
        config: Its name and parameters; its `weights` are not loaded here.
        num_classes: Classes.

    Raises:
        UserError: If the name is of no known form, timm does not know its part of it, or the network cannot be
            built or run.

    Example:
        >>> model = build_classifier(ModelConfig(name="pnn"), num_classes=3)
        >>> {name: tuple(logits.shape) for name, logits in model(torch.rand(2, 3, 33, 40)).items()}
        {'logits': (2, 3), 'level0': (2, 3), 'level1': (2, 3), 'level2': (2, 3)}
    """
    for prefix, build in BUILDERS.items():
        if config.name.startswith(prefix):
            model = build(config, num_classes)
            break
    else:
        if timm.is_model(config.name):
            raise UserError(f"unknown classifier '{config.name}': did you mean 'timm:{config.name}'?")
        raise UserError(f"unknown classifier '{config.name}': model.name may be {FORMS}")
    has_batch_norms = any(isinstance(module, nn.BatchNorm2d) for module in model.body.modules())
    replace_norms(model.body, config.norm)
    if config.norm != "batch" and not has_batch_norms and not config.name.startswith("spp-"):
        _warn(f"model.norm has no effect: '{config.name}' has no batch norms")
    speed_up_depthwise(model.body)
    return model


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def _build_pnn(config: ModelConfig, num_classes: int) -> Classifier:
    if config.name != "pnn":
        raise UserError(f"unknown classifier '{config.name}': did you mean 'pnn'?")
    _warn_of_drop_path(config)
    body = PnnClassifier(config.pnn, num_classes, bands_of(config))
    names = ["fusion", *(f"predictors.{number}" for number in range(len(body.predictors)))]
    return Classifier(body, num_classes, IMAGENET, names, level_names=body.level_names)


def _build_pyramidnet(config: ModelConfig, num_classes: int) -> Classifier:
    body = PyramidNet(parse_pyramidnet(config.name), num_classes, bands_of(config))
    _warn_of_drop_path(config)
    return Classifier(body, num_classes, IMAGENET, ["predictor"])


def _warn_of_drop_path(config: ModelConfig) -> None:
    if config.drop_path > 0:
        _warn(f"model.drop_path has no effect: '{config.name}' has no stochastic depth")


def _build_spp(config: ModelConfig, num_classes: int) -> Classifier:
    name = config.name.removeprefix("spp-")
    bins = parse_bins(config.spp_bins)
    backbone = create_backbone(name, [_coarsest_level(name)], config.norm, config.drop_path, bands_of(config))
    (level,) = backbone.levels.values()
    body = SppClassifier(backbone, bins, num_classes)
    return Classifier(body, num_classes, image_statistics(name), ["predictor"], size_multiple=level.stride)


def _coarsest_level(name: str) -> str:
    """Return the name of a network's coarsest level; a guess where that cannot be known, as `create_backbone` says."""
    try:
        with torch.device("meta"):
            body: Any = timm.create_model(name, pretrained=False, features_only=True)
    except TIMM_ERRORS:
        return "p5"
    return f"p{max(body.feature_info.reduction()).bit_length() - 1}"


def _build_timm(config: ModelConfig, num_classes: int) -> Classifier:
    name = config.name.removeprefix("timm:")
    if not timm.is_model(name):
        raise UserError(f"unknown network '{name}' in model.name: {nearest(name, timm.list_models())}")
    multiple, only_size, unused = _probe(name, num_classes)
    body = _create(name, num_classes, config.drop_path, bands_of(config))
    for key, parameter in body.named_parameters():
        if key in unused:  # it stays, for timm's names, but no optimizer shall decay what has no gradient
            parameter.requires_grad_(False)
    given: str | tuple[str, ...] = cast(Any, body).default_cfg["classifier"]
    names = [given] if isinstance(given, str) else given
    return Classifier(body, num_classes, image_statistics(name), names, multiple, only_size=only_size)


BUILDERS: dict[str, Callable[[ModelConfig, int], Classifier]] = {
    "timm:": _build_timm,
    "spp-": _build_spp,
    "pnn": _build_pnn,
    "pyramidnet": _build_pyramidnet,
}


def _create(name: str, num_classes: int, drop_path: float, bands: int = 3) -> nn.Module:
    """Create the network; what not every network takes is left out for those that do not take it."""
    named: dict[str, Any] = {"dynamic_img_size": True, "strict_img_size": False}  # images of any size
    named |= in_bands(name, bands)
    if drop_path > 0:
        named["drop_path_rate"] = drop_path
    while True:
        try:
            body: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **named)
            return body
        except TypeError as error:
            refused = next((key for key in named if f"'{key}'" in str(error)), None)
            if refused is None:
                raise
            del named[refused]
            if refused == "drop_path_rate":
                _warn(f"model.drop_path has no effect: '{name}' has no stochastic depth")


def _probe(name: str, num_classes: int) -> tuple[int, int | None, set[str]]:
    """Run the network on images of several sizes.

    Returns:
        The number that rows and columns have to be multiples of; the only size that it takes, if it takes only one;
        and the names of the parameters that its logits do not depend on.

    Raises:
        UserError: If the network cannot be run.
    """
    faults = []
    for device in ("meta", "cpu"):  # shapes alone cost nothing; a few networks cannot run without values
        try:
            with torch.device(device):
                body = _create(name, num_classes, 0.0).eval()
        except TIMM_ERRORS as error:
            faults.append(str(error) or type(error).__name__)
            continue
        own_size = max(cast(Any, body).default_cfg["input_size"][1:])
        for multiple in (*MULTIPLES, own_size):
            only_size = own_size if multiple == own_size else None
            try:
                logits = _run(body, _probe_sizes(multiple, only_size), device)
            except TIMM_ERRORS as error:
                faults.append(str(error) or type(error).__name__)
                continue
            if logits.shape == (1, num_classes):
                return multiple, only_size, _unused_parameters(body, logits)
            faults.append(f"its output has the shape {tuple(logits.shape)}")
    raise UserError(
        f"'{name}' cannot be used as a classifier (timm: {faults[-1].splitlines()[0]}): choose another network, such "
        "as timm:resnet50"
    )


def _probe_sizes(multiple: int, only_size: int | None) -> list[tuple[int, int]]:
    """Return rows and columns that are multiples of a number, but not of its double."""
    if only_size is not None:
        return [(only_size, only_size)]
    return [(_odd_multiple(rows, multiple), _odd_multiple(columns, multiple)) for rows, columns in PROBES]


def _odd_multiple(least: int, multiple: int) -> int:
    return multiple * (-(-least // multiple) | 1)


def _run(body: nn.Module, sizes: list[tuple[int, int]], device: str) -> Tensor:
    with HollowResults():
        for rows, columns in sizes:
            logits: Tensor = body(torch.zeros(1, 3, rows, columns, device=device))
    return logits


def _unused_parameters(body: nn.Module, logits: Tensor) -> set[str]:
    names, parameters = zip(*body.named_parameters(), strict=True)
    gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}

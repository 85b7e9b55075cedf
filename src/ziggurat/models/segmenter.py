"""Segmenters: any decoder of segmentation_models_pytorch on any of its encoders or of timm's.

Shapes: ``B`` images, ``K`` classes, ``H`` rows and ``W`` columns of the input.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from ziggurat.config import ModelConfig, bands_of
from ziggurat.errors import UserError, nearest
from ziggurat.models.backbone import TIMM_ERRORS, image_statistics
from ziggurat.models.depthwise import speed_up_depthwise
from ziggurat.models.norm import replace_norms
from ziggurat.models.vision import ONE_VALUE, VisionModel
from ziggurat.torch_internals.hollow_results import HollowResults

DECODERS: tuple[str, ...] = tuple(smp.MODEL_ARCHITECTURES_MAPPING)
# Widths of smp's decoders, for model.channels = 256; those without an entry have one width only.
WIDTHS: dict[str, dict[str, int | tuple[int, ...]]] = {
    "unet": {"decoder_channels": (256, 128, 64, 32, 16)},
    "unetplusplus": {"decoder_channels": (256, 128, 64, 32, 16)},
    "manet": {"decoder_channels": (256, 128, 64, 32, 16), "decoder_pab_channels": 64},
    "fpn": {
        "decoder_pyramid_channels": 256
    },  # its segmentation branch has group norms of 32 groups: left at 128
    "pspnet": {"psp_out_channels": 512},
    "pan": {"decoder_channels": 32},
    "deeplabv3": {"decoder_channels": 256},
    "deeplabv3plus": {"decoder_channels": 256},
    "upernet": {"decoder_channels": 256},
    "segformer": {"decoder_segmentation_channels": 256},
    "dpt": {"decoder_fusion_channels": 256, "decoder_intermediate_channels": (256, 512, 1024, 1024)},
}
# smp asks its server for the statistics of its own encoders; timm knows these by another name, and the same ones
TIMM_TWINS = {
    "inceptionv4": "inception_v4",
    "inceptionresnetv2": "inception_resnet_v2",
    "xception": "legacy_xception",
}


class Segmenter(VisionModel):
    """A segmenter.

    Args:
        body: Returns logits of the input's size, if its rows and columns are multiples of `size_multiple`.
        num_classes: Classes, with the background if there is one.
        size_multiple: Images are padded to multiples of this number.
        statistics: Mean and deviation of each channel, in [0, 1], that images are normalized by.

    Attributes:
        body: The network, with smp's own names.
    """

    task = "segment"

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        size_multiple: int,
        statistics: tuple[tuple[float, ...], tuple[float, ...]],
    ) -> None:
        super().__init__()
        self.body = body
        self.num_classes = num_classes
        self.size_multiple = size_multiple
        self.mean, self.std = statistics
        convolutions = [name for name, module in body.named_modules() if isinstance(module, nn.Conv2d)]
        head = [name for name in convolutions if name.startswith("segmentation_head.")]
        self.class_layers = (f"body.{head[-1]}",)

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the logits of each pixel's classes.

        Args:
            images_BCHW: Normalized images of any size; padded with zeros below and to the right inside.

        Returns:
            ``logits``, shape ``(B, K, H, W)``.

        Raises:
            UserError: In training, if a batch norm sees one value only of each channel.
        """
        rows, columns = images_BCHW.shape[-2:]
        below, right = -rows % self.size_multiple, -columns % self.size_multiple
        if below or right:
            images_BCHW = functional.pad(images_BCHW, (0, right, 0, below))
        try:
            logits_BKHW = self.body(images_BCHW)
        except ValueError as error:
            if not str(error).startswith(ONE_VALUE):
                raise
            raise UserError(
                "a batch norm after a pooling to one position needs microbatches of two images at least: got "
                f"{len(images_BCHW)} of {rows} x {columns}; raise train.batch_size, lower train.microbatches, "
                "or take model.norm=group"
            ) from error
        return {"logits": logits_BKHW[..., :rows, :columns]}


def build_segmenter(config: ModelConfig, num_classes: int) -> Segmenter:
    """Build a segmenter with random weights; nothing is downloaded.

    Args:
        config: Its name is ``smp:DECODER/ENCODER``: the encoder by smp's name, or by timm's (with smp's prefix
            ``tu-`` or without). The decoder's widths are smp's own times ``channels / 256``. The norm is that of
            the whole network.
        num_classes: Classes, with the background if there is one.

    Raises:
        UserError: If the decoder or the encoder is unknown (with the nearest name), or they do not fit.

    Example:
        >>> model = build_segmenter(ModelConfig(name="smp:fpn/resnet10t", channels=64), num_classes=3)
        >>> model.eval()(torch.zeros(1, 3, 37, 50))["logits"].shape
        torch.Size([1, 3, 37, 50])
    """
    decoder, encoder = parse_segmenter_name(config.name)
    body = _create(decoder, encoder, config, num_classes)
    replace_norms(body, config.norm)
    facts = _probe(body, config.name, bands_of(config))
    for key, parameter in body.named_parameters():
        if key in facts.unused:  # it stays, for the names, but no optimizer shall decay what has no gradient
            parameter.requires_grad_(False)
    speed_up_depthwise(body)
    plain = encoder.removeprefix("tu-")
    statistics = image_statistics(TIMM_TWINS.get(plain, plain))
    return Segmenter(body, num_classes, facts.size_multiple, statistics)


def parse_segmenter_name(name: str) -> tuple[str, str]:
    """Return the decoder and the encoder of a segmenter's name, as smp calls them.

    Raises:
        UserError: If the name is not of the form ``smp:DECODER/ENCODER``, or a part is unknown; lists both.

    Example:
        >>> parse_segmenter_name("smp:unet/resnet34"), parse_segmenter_name("smp:fpn/convnext_tiny")
        (('unet', 'resnet34'), ('fpn', 'tu-convnext_tiny'))
    """
    decoder, slash, encoder = name.removeprefix("smp:").partition("/")
    if not name.startswith("smp:") or not slash:
        raise UserError(
            f"model.name must be smp:DECODER/ENCODER, such as smp:unet/resnet34: got '{name}' "
            f"(decoders: {', '.join(DECODERS)}; encoders: any name of smp or timm)"
        )
    faults = []
    if decoder not in DECODERS:
        faults.append(f"unknown decoder '{decoder}' in model.name '{name}': {nearest(decoder, DECODERS)}")
    # DPT knows timm's networks only, also by names that smp has given to networks of its own
    own = list(smp.encoders.encoders) if decoder != "dpt" else []
    plain = encoder.removeprefix("tu-")
    if encoder not in own:
        if timm.is_model(plain):
            encoder = f"tu-{plain}"
        else:
            hint = nearest(plain, [*own, *timm.list_models()])
            faults.append(f"unknown encoder '{encoder}' in model.name '{name}': {hint}")
    if faults:
        raise UserError(faults)
    return decoder, encoder


def _create(decoder: str, encoder: str, config: ModelConfig, num_classes: int) -> nn.Module:
    """Create smp's network; what not every encoder takes is left out for those that do not take it."""
    named: dict[str, Any] = {
        name: _scaled(width, config.channels) for name, width in WIDTHS.get(decoder, {}).items()
    }
    named |= {"encoder_name": encoder, "encoder_weights": None, "classes": num_classes}
    named |= {"in_channels": bands_of(config)}
    optional = _encoder_arguments(encoder, config.drop_path)
    for _ in range(len(optional) + 1):
        try:
            return _build(decoder, named | optional)
        except TIMM_ERRORS as error:
            refused = next((key for key in optional if f"'{key}'" in str(error)), None)
            if refused is None:
                message = (str(error) or type(error).__name__).splitlines()[0]
                raise UserError(
                    f"model.name '{config.name}': this decoder does not work with this encoder ({message}); "
                    "choose another encoder, such as resnet34"
                ) from error
            del optional[refused]
            if refused == "drop_path_rate":
                warnings.warn(
                    f"model.drop_path has no effect: '{encoder}' has no stochastic depth", stacklevel=3
                )
    raise AssertionError("unreachable: each round leaves one of the optional arguments out")


def _encoder_arguments(encoder: str, drop_path: float) -> dict[str, Any]:
    """Return what an encoder is asked for, though it may not know of it."""
    if not encoder.startswith("tu-"):  # smp's own take no arguments, and silently
        if drop_path > 0:
            warnings.warn(
                f"model.drop_path has no effect: it is for timm's encoders, not smp's '{encoder}'",
                stacklevel=4,
            )
        return {}
    sizes = {"dynamic_img_size": True, "strict_img_size": False}  # transformers: images of any size
    return sizes | {"drop_path_rate": drop_path} if drop_path > 0 else sizes


def _build(decoder: str, named: dict[str, Any]) -> nn.Module:
    build = smp.MODEL_ARCHITECTURES_MAPPING[decoder]
    with warnings.catch_warnings():
        # answered below, by a decoder that reads no prefix tokens
        warnings.filterwarnings("ignore", message="Encoder does not have prefix tokens")
        body: Any = build(**named)
    if decoder == "dpt" and not body.encoder.has_prefix_tokens:
        body = build(**named, decoder_readout="ignore")
    network: nn.Module = body
    return network


def _scaled(width: int | tuple[int, ...], channels: int) -> int | tuple[int, ...]:
    if isinstance(width, tuple):
        return tuple(max(8, one * channels // 256) for one in width)
    return max(8, width * channels // 256)


@dataclass(frozen=True)
class _Facts:
    """What is learnt by running a network on shapes.

    Attributes:
        size_multiple: Smallest power of two times the encoder's stride that every image size may be a multiple of.
        unused: Names of the parameters that the logits do not depend on.
    """

    size_multiple: int
    unused: set[str]


@torch.enable_grad()  # a model may be built where gradients are off
def _probe(body: Any, name: str, bands: int) -> _Facts:
    """Run a copy of the network; its weights and running statistics stay as they are.

    Raises:
        UserError: If it does not take images of any size.
    """
    faults = []
    for device in ("meta", "cpu"):  # shapes alone cost nothing; a few networks cannot run without values
        trial = copy.deepcopy(body).to(device).eval()
        stride = int(trial.encoder.output_stride)
        for multiple in (stride, 2 * stride, 4 * stride, 8 * stride, 16 * stride):
            try:
                logits = _run_odd_multiples(trial, bands, multiple, device)
            except TIMM_ERRORS as error:
                faults.append((str(error) or type(error).__name__).splitlines()[0])
                continue
            names, parameters = zip(*trial.named_parameters(), strict=True)
            gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
            unused = {key for key, gradient in zip(names, gradients, strict=True) if gradient is None}
            return _Facts(multiple, unused)
    raise UserError(
        f"model.name '{name}' does not take images of any size ({faults[-1]}); choose another encoder, such as resnet34"
    )


def _run_odd_multiples(trial: nn.Module, bands: int, multiple: int, device: str) -> Tensor:
    """Return the logits of an image of odd multiples in both directions, after the smallest image has gone through.

    Raises:
        ValueError: If the logits are not of the image's size.
    """
    for rows, columns in ((multiple, multiple), (3 * multiple, 5 * multiple)):
        with HollowResults():
            logits: Tensor = trial(torch.zeros(1, bands, rows, columns, device=device))
        if logits.shape[-2:] != (rows, columns):
            raise ValueError(f"the logits of an image of {rows} x {columns} are {tuple(logits.shape[-2:])}")
    return logits

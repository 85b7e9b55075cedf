"""The networks of the matrix: weights that nobody trained, but whose maps and outputs spread as those of trained ones do.

Random weights as a library starts them would prove little: residual branches that begin at zero, statistics that nobody has
measured, and scores that are all alike, so that every order of detections is a tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.config import RunConfig, override
from ziggurat.exports.samples import embedded_images, first_tiles
from ziggurat.models.build import build_model
from ziggurat.models.images import Normalization
from ziggurat.runs.folder import Run
from ziggurat.tasks.registry import make_task

HEADS = ("fcos", "retinanet", "atss")
BACKBONES = ("resnet50", "mobilenetv3_large_100", "convnext_tiny")
NECKS = ("fpn", "pafpn", "bifpn")
DECODERS = ("smp:unet/resnet34", "smp:fpn/resnet34", "smp:deeplabv3plus/resnet34")
CLASSIFIERS = ("timm:resnet50", "spp-resnet18", "pnn", "pyramidnet-26-30")
CLASSES = tuple("0123456789")
SPREAD, BIAS = 1.5, -3.0  # standard deviation and mean of the logits of a detector's classes


@dataclass(frozen=True)
class Subject:
    """A network of the matrix.

    Attributes:
        task: The kind of work.
        name: Of the network.
    """

    task: str
    name: str


def subjects() -> Iterator[Subject]:
    """Yield all networks of the matrix: first those of few minutes, then detectors so that each pair of parts comes early."""
    for name in CLASSIFIERS:
        yield Subject("classify", name)
    for name in DECODERS:
        yield Subject("segment", name)
    for head in HEADS:
        yield Subject("detect", f"{head}-pnn")
    for square in range(
        3
    ):  # a Latin square: nine networks with each head, backbone and neck beside each other
        for row, head in enumerate(HEADS):
            for column, backbone in enumerate(BACKBONES):
                yield Subject("detect", f"{head}-{backbone}-{NECKS[(row + column + square) % 3]}")


def settings_of(subject: Subject, side: int) -> dict[str, Any]:
    """Return the settings of a run of a network that sees crops of a size."""
    settings: dict[str, Any] = {
        "task": subject.task, "model.name": subject.name, "data.path": "digits", "data.crop": side,
        "device": "cpu", "dtype": "fp32", "threads": 1, "plan": "dp=1",
    }  # fmt: skip
    if subject.task == "classify":
        settings["data.resize"] = side
    if subject.task == "detect":
        settings |= {"decode.max_detections": 100}
    if subject.name.endswith("-pnn"):
        settings |= {"model.levels": "p3-p5"}
    return settings


def lively_run(subject: Subject, side: int, **more: Any) -> Run:
    """Return a run of a network whose layers all count, and whose scores lie apart."""
    config = override(RunConfig(), settings_of(subject, side) | more)
    torch.manual_seed(0)
    model = build_model(config.model, len(CLASSES))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.0)
                nn.init.normal_(module.bias, std=0.1)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None  # the mean of all batches
                module.reset_running_stats()
    run = Run(model, config, CLASSES, tuple(range(len(CLASSES))))
    images = _images(run, 4)
    model.train()
    with torch.no_grad():
        model(images)
        model.eval()
        _spread(run, images)
    return run


def _images(run: Run, count: int) -> Tensor:
    _, tiles = first_tiles(embedded_images(run.config, 3), make_task(run.model, run.config), count)
    normalization = Normalization.of(run.config.data, run.model)
    images = torch.stack(tiles)
    return normalization(images, [(images.shape[2], images.shape[3])] * count)


def _spread(run: Run, images: Tensor) -> None:
    """Scale the layer of the classes so that its outputs have the spread of trained ones."""
    model = run.model
    seen: dict[str, list[Tensor]] = {}
    layers = {name: layer for name, layer in model.named_modules() if name in model.class_layers}
    hooks = [
        layer.register_forward_hook(
            lambda module, given, output, name=name: seen.setdefault(name, []).append(output.flatten())
        )
        for name, layer in layers.items()
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        values = torch.cat(seen[name])
        factor = SPREAD / float(values.std().clamp(min=1e-6))
        layer.weight.mul_(factor)
        if layer.bias is not None:
            if run.config.task == "detect":
                layer.bias.copy_(layer.bias * factor - factor * values.mean() + BIAS)
            else:
                layer.bias.mul_(factor)

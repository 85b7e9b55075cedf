"""Images per second of torchvision and segmentation_models_pytorch, of Ziggurat, and of its exports, all in one run.

Every variant takes a turn in each round, so that a slow moment of the machine strikes all of them; each ratio is taken within its
round. Random weights: speed does not ask what is found, but how many candidates there are, so scores are spread (`networks.py`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torchvision
from networks import CLASSES, Subject, lively_run
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn, retinanet_resnet50_fpn

from ziggurat.exports.engines import Engine, open_engine
from ziggurat.exports.facts import Facts
from ziggurat.exports.formats import FORMATS, OpenVino
from ziggurat.exports.graph import trace
from ziggurat.exports.int8 import quantized
from ziggurat.exports.samples import Batch
from ziggurat.models.images import Normalization
from ziggurat.runs.folder import Run
from ziggurat.system.platform import processor_facts, processor_name
from ziggurat.tasks.registry import make_task

BATCH, CALIBRATION = 2, 8
UNITS = ("amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni")
NETWORKS = (
    Subject("detect", "fcos-resnet50-fpn"), Subject("detect", "retinanet-resnet50-fpn"), Subject("segment", "smp:unet/resnet34"),
    Subject("classify", "timm:resnet50"),
)  # fmt: skip
Turn = Callable[[], Any]


def measure(
    pixels: int, rounds: int, threads: int, networks: tuple[Subject, ...] = NETWORKS, **more: Any
) -> dict[str, Any]:
    """Return images per second of every network and variant, with the processor that they were measured on."""
    torch.set_num_threads(threads)
    rows = {one.name: _measured(one, pixels, rounds, threads, more) for one in networks}
    names = ("torch", "torchvision", "segmentation_models_pytorch", "onnxruntime", "openvino", "nncf")
    return {
        "pixels": pixels, "batch": BATCH, "rounds": rounds, "threads": threads, "processor": processor(),
        "versions": {name: version(name) for name in names}, "networks": rows,
    }  # fmt: skip


def processor() -> dict[str, Any]:
    """Return the processor's name, and which of the units it has that compute in few bits."""
    flags = processor_facts().get("flags", "").split()
    return {"name": processor_name(), "units": [one for one in UNITS if one in flags]}


@dataclass(frozen=True)
class Ours:
    """A run, with its normalization and decoding.

    Attributes:
        run: The network.
        images_BCHW: Samples.
        dtype: That it computes in.
    """

    run: Run
    images_BCHW: Tensor
    dtype: str

    @torch.inference_mode()
    def __call__(self) -> Any:
        """Find what there is in the images."""
        model, sizes = self.run.model, [tuple(self.images_BCHW.shape[2:])] * len(self.images_BCHW)
        images = Normalization.of(self.run.config.data, model)(self.images_BCHW, sizes)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == "bf16"):
            outputs = model(images.contiguous(memory_format=torch.channels_last))
        return make_task(model, self.run.config).decode(outputs, sizes)


def _peer(subject: Subject, pixels: int, images_BCHW: Tensor) -> Turn:
    """Return the same network of those that others use, in float32 as it comes."""
    count = len(CLASSES)
    if subject.task == "detect":
        make = fcos_resnet50_fpn if subject.name.startswith("fcos") else retinanet_resnet50_fpn
        model = make(weights=None, weights_backbone=None, num_classes=count, min_size=pixels, max_size=pixels)
    elif subject.task == "segment":
        import segmentation_models_pytorch as smp

        model = smp.Unet("resnet34", encoder_weights=None, classes=count)
    else:
        model = torchvision.models.resnet50(weights=None, num_classes=count)
    model.eval()
    images = images_BCHW / 255

    @torch.inference_mode()
    def turn() -> Any:
        return model(list(images) if subject.task == "detect" else images)

    return turn


def _measured(
    subject: Subject, pixels: int, rounds: int, threads: int, more: Mapping[str, Any]
) -> dict[str, Any]:
    run = lively_run(subject, pixels, **more)
    run.model.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 3, pixels, pixels), generator=generator).float()
    with TemporaryDirectory() as folder:
        engines = _engines(run, images, threads, Path(folder))
        turns: dict[str, Turn] = {"peer fp32": _peer(subject, pixels, images)}
        turns |= {f"ziggurat {dtype}": Ours(run, images, dtype) for dtype in ("fp32", "bf16")}
        sizes = torch.tensor([[pixels, pixels]] * BATCH)
        turns |= {name: (lambda engine=engine: engine(images, sizes)) for name, engine in engines.items()}
        for turn in turns.values():
            turn()  # warm-up
        seconds = [{name: _seconds(turn) for name, turn in turns.items()} for _ in range(rounds)]
    return {
        "images_per_second": {
            name: round(BATCH / statistics.median(row[name] for row in seconds), 3) for name in turns
        },
        "ratios": {
            f"{name} / {base}": _ratio(seconds, name, base)
            for base in ("peer fp32", "ziggurat bf16")
            for name in turns
            if name != base
        },
    }


def _engines(run: Run, images: Tensor, threads: int, folder: Path) -> dict[str, Engine]:
    """Return the exports of a run, in all precisions; that of 8 bits is calibrated on noise, which is as fast as on images."""
    traced = trace(run, "onnx")
    translated = FORMATS["onnx"].convert(traced)
    model = OpenVino().of_onnx(translated.model)
    side = images.shape[2]
    calibration = [Batch(("noise",), images[:1], ((side, side),))] * CALIBRATION
    made = {"onnx": translated, "openvino": model, "int8": quantized(model, calibration)}
    facts, paths = {}, {}
    for name, converted in made.items():
        form = FORMATS["onnx" if name == "onnx" else "openvino"]
        facts[name] = Facts.of_run(
            run, "onnx" if name == "onnx" else "openvino", "fp32", traced.multiple, traced.outputs, "none"
        )
        paths[name] = folder / f"{name}{form.suffix}"
        form.save(converted, facts[name], paths[name])
    return {
        "ONNX Runtime fp32": open_engine(paths["onnx"], facts["onnx"], "onnx", threads, "fp32"),
        "OpenVINO fp32": open_engine(paths["openvino"], facts["openvino"], "openvino", threads, "fp32"),
        "OpenVINO bf16": open_engine(paths["openvino"], facts["openvino"], "openvino", threads, "bf16"),
        "OpenVINO int8": open_engine(paths["int8"], facts["int8"], "openvino", threads, "fp32"),
    }


def _seconds(turn: Turn) -> float:
    begin = time.perf_counter()
    turn()
    return time.perf_counter() - begin


def _ratio(seconds: list[dict[str, float]], name: str, base: str) -> dict[str, float]:
    found = [row[base] / row[name] for row in seconds]
    return {
        "median": round(statistics.median(found), 3), "least": round(min(found), 3), "most": round(max(found), 3)
    }  # fmt: skip

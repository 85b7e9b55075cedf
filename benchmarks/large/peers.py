"""One network, one image, three programs: how many megapixels a second do `predict`, SAHI and DeepForest cut, compute and join?

    python -m venv peers && peers/bin/pip install sahi deepforest
    python benchmarks/large/peers.py --python peers/bin/python

Each row is a process of its own with one thread. All of them cut tiles of 512 that overlap by a fifth, one in a batch, in float32, and call the same
module: the network, and what decodes its outputs. Seconds are those of the processor, so that other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from points import CLASSES, FindPoints, PassOn, plant, write_image
from torch import Tensor, nn

from ziggurat.config import DataConfig, DecodeConfig, RunConfig, override
from ziggurat.models.build import build_model
from ziggurat.system.platform import processor_facts, processor_name
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import make_task

FOLDER = Path(__file__).parent
TILE, OVERLAP, IOU = 512, 0.2, 0.6
PER_TILE = 30  # objects of a network with random weights
# The network, the side of the image, and the objects that are planted in it.
CASES = {"points": (10_000, 10_000), "fcos-resnet18-fpn": (4_096, 0)}
PROGRAMS = ("ziggurat", "sahi", "deepforest")


def make(name: str) -> tuple[RunConfig, nn.Module, Task[Any, Any]]:
    """Return a network and its task: one that costs nothing and finds points, or one of usual size with random weights."""
    data = DataConfig(crop=TILE, tile_overlap=OVERLAP, max_pixels=1 << 40)
    if name == "points":
        decode = DecodeConfig(max_detections=1000, nms_threshold=IOU)
        config = RunConfig(task="detect", dtype="fp32", data=data, decode=decode)
        return config, PassOn("detect"), FindPoints(config)
    decode = DecodeConfig(max_detections=PER_TILE, nms_threshold=IOU, score_threshold=0.0)
    config = override(
        RunConfig(task="detect", dtype="fp32", data=data, decode=decode),
        {"model.name": name, "task": "detect"},
    )
    torch.manual_seed(0)
    model = build_model(config.model, len(CLASSES)).eval().to(memory_format=torch.channels_last)
    return config, model, make_task(model, config)


class AsTorchvision(nn.Module):
    """The network and its decoding, as torchvision's detectors are called, which the other programs know.

    Attributes:
        seconds: Of the processor, within.
    """

    def __init__(self, model: nn.Module, task: Task[Any, Any]) -> None:
        super().__init__()
        self.model, self.task, self.seconds = model, task, 0.0

    @torch.inference_mode()
    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Return what is found on each image: of colours from 0 to 1, shapes ``(3, H, W)``."""
        begin, found = time.thread_time(), []
        for image in images:
            mean, std = (
                torch.tensor(values).view(1, -1, 1, 1) for values in (self.model.mean, self.model.std)
            )
            pixels = ((image[None] - mean) / std).contiguous(memory_format=torch.channels_last)
            (one,) = self.task.decode(self.model(pixels), [tuple(image.shape[1:])])
            found.append(
                {"boxes": one.boxes_xyxy.clone(), "labels": one.labels.clone(), "scores": one.scores.clone()}
            )
        self.seconds += time.thread_time() - begin
        return found


Prediction = Callable[[], tuple[int, dict[str, float]]]  # the number of boxes, and seconds of parts
Find = Callable[[], np.ndarray]  # left, top, right, bottom, label, score: ``(N, 6)``


def by_ziggurat(name: str, path: Path, folder: Path) -> Prediction:
    """Predict as the command does: the list and the table are written, no picture."""
    from ziggurat.inference import reading
    from ziggurat.inference.journal import Journal
    from ziggurat.inference.predict import predict_files
    from ziggurat.inference.predictor import Predictor

    config, model, task = make(name)
    predictor = Predictor.of_model(model, config, None, CLASSES, task)
    seconds = dict.fromkeys(("network", "decoding", "reading", "joining", "journal"), 0.0)

    def timed(owner: Any, method: str, kind: str) -> None:
        called: Callable[..., Any] = getattr(owner, method)

        def call(*words: Any, **named: Any) -> Any:
            begin = time.thread_time()
            try:
                return called(*words, **named)
            finally:
                seconds[kind] += time.thread_time() - begin

        setattr(owner, method, call)

    timed(model, "forward", "network")
    timed(task, "decode", "decoding")
    timed(task, "stitch", "joining")
    timed(reading.RegionReader, "read", "reading")
    timed(Journal, "add", "journal")

    def predict() -> tuple[int, dict[str, float]]:
        result = predict_files(predictor, (1, 2), [path], folder / "out", pictures="none")
        return result["detections"], seconds

    return predict


def by_sahi(name: str, path: Path, folder: Path) -> Prediction:
    """Predict by slices; boxes are suppressed as `predict` does it, not merged."""
    _, model, task = make(name)
    module = AsTorchvision(model, task)
    find = sahi_of(module, CLASSES, path, IOU)
    return lambda: (len(find()), {"network and decoding": module.seconds})


def by_deepforest(name: str, path: Path, folder: Path) -> Prediction:
    """Predict a tile, of which only windows are in memory."""
    _, model, task = make(name)
    module = AsTorchvision(model, task)
    find = deepforest_of(module, CLASSES, path, IOU)
    return lambda: (len(find()), {"network and decoding": module.seconds})


def sahi_of(module: AsTorchvision, classes: Sequence[str], path: Path, iou: float) -> Find:
    """Return a call of SAHI's sliced prediction."""
    from sahi.models.torchvision import TorchVisionDetectionModel
    from sahi.predict import get_sliced_prediction

    names = {str(label): one for label, one in enumerate(classes)}
    detector = TorchVisionDetectionModel(
        model=module, confidence_threshold=0.0, device="cpu", category_mapping=names, load_at_init=True
    )

    def find() -> np.ndarray:
        result = get_sliced_prediction(
            str(path), detector, TILE, TILE, OVERLAP, OVERLAP, perform_standard_pred=False, postprocess_type="NMS",
            postprocess_match_metric="IOU", postprocess_match_threshold=iou, verbose=0,
        )  # fmt: skip
        rows = [
            (*one.bbox.to_xyxy(), one.category.id, one.score.value) for one in result.object_prediction_list
        ]
        return np.array(rows, np.float32).reshape(-1, 6)

    return find


def deepforest_of(module: AsTorchvision, classes: Sequence[str], path: Path, iou: float) -> Find:
    """Return a call of DeepForest's prediction of a tile, of which only windows are in memory."""
    from deepforest import main

    labels = {one: label for label, one in enumerate(classes)}
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "workers": 0,
        "batch_size": 1,
        "num_classes": len(classes),
        "label_dict": labels,
    }
    program = main.deepforest(model=module, config_args=settings)
    program.label_dict, program.numeric_to_label_dict = labels, dict(enumerate(classes))

    def find() -> np.ndarray:
        found = program.predict_tile(
            str(path), patch_size=TILE, patch_overlap=OVERLAP, iou_threshold=iou, dataloader_strategy="window"
        )
        if found is None:
            return np.empty((0, 6), np.float32)
        columns = [found[name].to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")]
        return np.stack(
            [*columns, found["label"].map(labels).to_numpy(), found["score"].to_numpy()], 1
        ).astype(np.float32)

    return find


def measure(program: str, name: str, path: Path, folder: Path) -> dict[str, Any]:
    """Return a row."""
    torch.set_num_threads(1)
    side = CASES[name][0]
    made = {"ziggurat": by_ziggurat, "sahi": by_sahi, "deepforest": by_deepforest}[program](
        name, path, folder
    )
    begin, cpu = time.perf_counter(), time.process_time()
    number, seconds = made()
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "program": program,
        "network": name,
        "side": side,
        "boxes": number,
        "seconds": round(wall, 1),
        "processor_seconds": round(cpu, 1),
        "megapixels_per_processor_second": round(side**2 / cpu / 1e6, 3),
        "parts": {kind: round(one, 1) for kind, one in seconds.items()},
        "mib_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def write_picture(name: str, folder: Path) -> Path:
    """Write the image of a case: points, or noise of all scales."""
    side, objects = CASES[name]
    path = folder / f"{name}.tif"
    if objects:
        write_image(path, side, plant(side, objects))
        return path
    import tifffile

    random = np.random.default_rng(0)
    pixels = sum(
        np.kron(random.integers(0, 255 // 4, (-(-side // scale), -(-side // scale), 3)), np.ones((scale, scale, 1), int))[:side, :side]
        for scale in (1, 4, 16, 64)
    ).astype(np.uint8)  # fmt: skip
    tifffile.imwrite(path, pixels, tile=(512, 512), photometric="rgb", compression="zlib")
    return path


def show_that_it_runs(folder: Path) -> None:
    """Find points by `predict`, and on a tile by the module that the other programs call."""
    side, points = 1_000, plant(1_000, 49)
    path = folder / "peers.tif"
    write_image(path, side, points)
    number, seconds = by_ziggurat("points", path, folder / "peers")()
    assert (number, seconds["reading"] > 0, seconds["decoding"] > 0) == (len(points), True, True), (
        number,
        seconds,
    )
    _, model, task = make("points")
    tile = torch.zeros(3, TILE, TILE)
    tile[:, 100, 200] = 1
    (found,) = AsTorchvision(model, task)([tile])
    assert found["boxes"].tolist() == [[192.5, 92.5, 208.5, 108.5]], found


def version_of(python: str, package: str) -> str:
    """Return the version of a package that another Python has."""
    asked = f"import importlib.metadata as m; print(m.version('{package}'))"
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the rows and write peers.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="that has sahi and deepforest, too")
    parser.add_argument("--network", choices=CASES, action="append")
    parser.add_argument("--program", choices=PROGRAMS, action="append")
    parser.add_argument("--times", type=int, default=1, help="how often each row is measured, in turn")
    parser.add_argument("--row", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.row:
        program, name, path, folder = options.row
        print(json.dumps(measure(program, name, Path(path), Path(folder))))
        return
    file = FOLDER / "peers.json"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for row in kept.get("rows", []):
        rows[row["network"], row["program"], row["time"]] = row
    chosen = itertools.product(options.network or CASES, range(options.times), options.program or PROGRAMS)
    for name, number, program in chosen:
        with tempfile.TemporaryDirectory() as folder:
            path = write_picture(name, Path(folder))
            command = [options.python, __file__, "--row", program, name, str(path), folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
        row = json.loads(done.stdout.splitlines()[-1]) | {"time": number}
        rows[name, program, number] = row
        print(row, flush=True)
        about = {
            "processor": processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{one: version_of(options.python, one) for one in ("torch", "sahi", "deepforest")},
        }
        file.write_text(json.dumps(about | {"rows": list(rows.values())}, indent=1) + "\n", encoding="utf-8")


def processor() -> str:
    """Return the processor's name, family and model."""
    facts = processor_facts()
    return f"{processor_name()}, family {facts.get('cpu family')}, model {facts.get('model')}"


if __name__ == "__main__":
    main()

"""A trained network on one large image, by each program as it is used: how fast is `ziggurat predict` with bf16, and with an int8 export?

    python -m venv peers && peers/bin/pip install sahi deepforest
    ziggurat demo --set decode.max_detections=400 --out runs/digits
    ziggurat export runs/digits --format openvino --int8 digits
    python benchmarks/large/as_used.py runs/digits --python peers/bin/python --times 3

`peers.py` holds everything equal, and finds that all programs are as fast as the network. Here each computes as fast as it can with the
same weights: SAHI and DeepForest call a network of PyTorch's in float32; `predict` has ``--dtype bf16``, and takes an export in the place
of the run. The image is made of validation scenes of the embedded data set, so it is known what is to be found; tiles of 512 overlap by
a fifth. Each row is a process of its own with one thread; seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from peers import OVERLAP, TILE, AsTorchvision, deepforest_of, processor, sahi_of, version_of
from torchvision.ops import box_iou

import ziggurat
from ziggurat.config import DigitsConfig
from ziggurat.data.digits import DigitScenes
from ziggurat.inference.predict import predict_files
from ziggurat.tasks.registry import make_task

FILE = Path(__file__).with_name("as_used.json")
WAYS = ("ziggurat fp32", "ziggurat bf16", "ziggurat int8", "sahi", "deepforest")
SIDE, SCENE = 4_096, 128
SCORE, IOU = 0.3, 0.5  # of what counts as found


def write_mosaic(path: Path, side: int) -> np.ndarray:
    """Write an image of scenes side by side, and return what is there: left, top, right, bottom, label, ``(N, 5)``."""
    across = side // SCENE
    scenes = DigitScenes(DigitsConfig(size=SCENE, val_scenes=across**2), "val")
    pixels, rows = np.zeros((side, side, 3), np.uint8), []
    for index in range(len(scenes)):
        top, left = (SCENE * place for place in divmod(index, across))
        pixels[top : top + SCENE, left : left + SCENE] = scenes.image(index).permute(1, 2, 0).numpy()
        there = scenes.objects(index)
        rows.append(
            torch.cat([there.boxes_xyxy + torch.tensor([left, top, left, top]), there.labels[:, None]], 1)
        )
    tifffile.imwrite(path, pixels, tile=(512, 512), photometric="rgb", compression="zlib")
    return torch.cat(rows).float().numpy()


def find(way: str, run: Path, path: Path, out: Path) -> tuple[np.ndarray, float]:
    """Return what a program finds, ``(N, 6)`` with labels and scores, and its seconds of the processor."""
    program, _, kind = way.partition(" ")
    source = run / "exports" / "model-int8.xml" if kind == "int8" else run
    settings: dict[str, Any] = {"data.crop": TILE, "data.tile_overlap": OVERLAP, "data.max_pixels": 1 << 30}
    predictor = ziggurat.load(source, settings=settings | {"dtype": "bf16" if kind == "bf16" else "fp32"})
    if program != "ziggurat":
        model = predictor.model.to(memory_format=torch.channels_last)
        module = AsTorchvision(model, make_task(model, predictor.config))
        make = {"sahi": sahi_of, "deepforest": deepforest_of}[program]
        call = make(module, predictor.classes, path, predictor.config.decode.nms_threshold)
        begin = time.process_time()
        return call(), time.process_time() - begin
    ids = range(1, len(predictor.classes) + 1)
    begin = time.process_time()
    predict_files(predictor, ids, [path], out, pictures="none")
    seconds = time.process_time() - begin
    listed = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    rows = [(*row["bbox"], row["category_id"] - 1, row["score"]) for row in listed]
    found = np.array(rows, np.float32).reshape(-1, 6)
    found[:, 2:4] += found[:, :2]
    return found, seconds


def score(found: np.ndarray, there: np.ndarray) -> dict[str, float]:
    """Return the shares of what is there that is found, and of what is found that is there, each box once."""
    found = found[found[:, 5] >= SCORE]
    found = found[np.argsort(-found[:, 5], kind="stable")]
    right = 0
    taken = np.zeros(len(there), bool)
    for row in found:
        near = np.flatnonzero(
            ~taken & (there[:, 4] == row[4]) & (np.abs(there[:, :2] - row[:2]).max(1) < SCENE)
        )
        if not len(near):
            continue
        overlaps = box_iou(torch.from_numpy(row[None, :4]), torch.from_numpy(there[near, :4]))[0]
        best = int(overlaps.argmax())
        if overlaps[best] >= IOU:
            taken[near[best]], right = True, right + 1
    return {"recall": round(right / len(there), 4), "precision": round(right / max(1, len(found)), 4)}


def measure(way: str, run: Path, path: Path, out: Path) -> dict[str, Any]:
    """Return a row."""
    torch.set_num_threads(1)
    there = np.load(path.with_suffix(".npy"))
    found, seconds = find(way, run, path, out)
    side = tifffile.TiffFile(path).pages[0].shape[0]
    return {
        "way": way, "boxes": len(found), "processor_seconds": round(seconds, 2),
        "megapixels_per_processor_second": round(side**2 / seconds / 1e6, 3), **score(found, there),
        "mib_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def show_that_it_runs(folder: Path) -> None:
    """Find what there is by a network of one step, which finds nothing that is right, and judge the truth itself."""
    settings = {
        "model.name": "fcos-test_resnet-fpn", "model.levels": "p3-p4", "model.channels": 16, "model.head_depth": 1, "train.steps": 1,
        "train.batch_size": 1, "data.crop": 64, "data.workers": 0, "train.report": "numbers", "digits.train_scenes": 4, "digits.val_scenes": 4,
        "threads": 1, "plan": "dp=1", "decode.max_detections": 20,
    }  # fmt: skip
    ziggurat.train("digits", settings, out=folder / "run")
    path = folder / "used.tif"
    there = write_mosaic(path, TILE)
    found, seconds = find("ziggurat bf16", folder / "run", path, folder / "used")
    assert (seconds > 0, found.shape[1]) == (True, 6), found.shape
    sure = np.concatenate([there, np.ones((len(there), 1), np.float32)], 1)
    assert score(sure, there) == {"recall": 1.0, "precision": 1.0}, score(sure, there)
    assert score(sure[1:], there)["recall"] < 1


def main(words: Sequence[str] | None = None) -> None:
    """Measure all ways in turn, print the rows and write as_used.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="of ziggurat demo, with its int8 export")
    parser.add_argument("--python", default=sys.executable, help="that has sahi and deepforest, too")
    parser.add_argument("--way", choices=WAYS, action="append", help="by default all")
    parser.add_argument("--times", type=int, default=1, help="how often each row is measured, in turn")
    parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of the image")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.row:
        way, path, out = options.row
        print(json.dumps(measure(way, options.run, Path(path), Path(out))))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mosaic.tif"
        np.save(path.with_suffix(".npy"), there := write_mosaic(path, options.side))
        print(f"{len(there)} objects on {options.side} x {options.side} pixels", flush=True)
        for number in range(options.times):
            for way in options.way or WAYS:
                out = Path(folder) / f"{way}-{number}".replace(" ", "-")
                command = [
                    options.python,
                    __file__,
                    str(options.run.resolve()),
                    "--row",
                    way,
                    str(path),
                    str(out),
                ]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
                rows.append(json.loads(done.stdout.splitlines()[-1]) | {"time": number})
                print(rows[-1], flush=True)
    about = {
        "processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(), "side": options.side,
        "objects": len(there), **{one: version_of(options.python, one) for one in ("torch", "openvino", "sahi", "deepforest")},
    }  # fmt: skip
    FILE.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

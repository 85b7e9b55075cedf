"""Does memory grow with the size of an image, or with their number? How many megapixels a second are predicted, and on what?

Each row is a process of its own, whose largest resident memory is read at its end. Images are tiled, deflated TIFFs with points, and
the network passes its input on: what is measured is reading, cutting, joining and writing. The speed is that of a network of usual
size, in alternation with another version of the package (``--against SRC``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

FOLDER = Path(__file__).parent
SIDES = (10_240, 18_432, 32_768)  # 0.1, 0.34 and 1.07 gigapixels
OBJECTS = {10_240: 10_000, 18_432: 90_000, 32_768: 300_000}
COUNTS = (10, 1_000, 10_000)  # images of 256 x 256
SPEED_SIDE, PAIRS = 2_560, 3
CROP = 640
AREA_ROWS, AREA_COLUMNS = (4_096, 16_384), 4_096  # of masks of discs


def resident() -> float:
    """Return the most memory that this process had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def predict_points(task: str, paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Predict, and return what there is to say of it."""
    from points import CLASSES, FindPoints, PassOn

    from ziggurat.config import DataConfig, DecodeConfig, RunConfig
    from ziggurat.inference.predict import predict_files
    from ziggurat.inference.predictor import Predictor
    from ziggurat.tasks.segmentation.task import SegmentationTask

    torch.set_num_threads(1)
    data = DataConfig(crop=CROP, tile_overlap=0.1, max_pixels=1 << 40)
    config = RunConfig(task=task, dtype="fp32", data=data, decode=DecodeConfig(max_detections=1000))
    model = PassOn(task)
    classes = CLASSES if task == "detect" else ("a", "b", "c")
    made = FindPoints(config) if task == "detect" else SegmentationTask(model, config)
    predictor = Predictor.of_model(model, config, None, classes, made)
    begin = resident()
    result = predict_files(predictor, range(len(classes)), paths, out)
    return {
        "task": task,
        "images": result["images"],
        "mib_before": round(begin),
        "mib_peak": round(resident()),
        "seconds": round(result["seconds"], 1),
        "megapixels_per_second": round(result["megapixels_per_second"], 2),
        "detections": result.get("detections"),
        "truncated": result["truncated"],
    }


def row_of_size(task: str, side: int, count: int, folder: Path) -> dict[str, Any]:
    """Predict one image of a size."""
    from points import plant, write_image

    points = plant(side, count)
    path = folder / f"{side}.tif"
    if not path.exists():
        write_image(path, side, points)
    row = predict_points(task, [path], folder / f"{task}-{side}")
    if task == "detect":
        row["recall"] = _recall(points, folder / f"{task}-{side}" / "predictions.json")
    return {"side": side, "planted": len(points), **row}


def _recall(points: np.ndarray, results: Path) -> float:
    """Return the share of planted points that are the middle of a box that is found."""
    rows = json.loads(results.read_text(encoding="utf-8"))
    found = {(int(y + h / 2), int(x + w / 2)) for x, y, w, h in (row["bbox"] for row in rows)}
    return sum(tuple(point) in found for point in points.tolist()) / len(points)


def row_of_count(count: int, side: int, folder: Path) -> dict[str, Any]:
    """Predict many small images."""
    images = folder / f"images-{count}"
    images.mkdir()
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[side // 2, side // 2] = (255, 200, 0)
    Image.fromarray(pixels).save(images / "0.png")
    for number in range(1, count):
        (images / f"{number}.png").write_bytes((images / "0.png").read_bytes())
    return {"side": side, **predict_points("detect", [images], folder / f"out-{count}")}


def row_of_speed(side: int, folder: Path) -> dict[str, Any]:
    """Predict one image with a network of usual size; only what earlier versions have, too, is called."""
    from ziggurat.config import RunConfig, override
    from ziggurat.inference.predict import predict_files
    from ziggurat.inference.predictor import Predictor
    from ziggurat.models.build import build_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = {
        "task": "detect",
        "model.name": "retinanet-resnet10t-fpn",
        "model.channels": 32,
        "model.head_depth": 1,
        "data.crop": CROP,
        "dtype": "fp32",
        "decode.score_threshold": 0.5,
    }
    config = override(RunConfig(), settings)
    path = folder / "speed.tif"
    if not path.exists():
        pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, compression="tiff_adobe_deflate")
    model = build_model(config.model, 2).eval()
    network = [0.0, 0.0]
    model.register_forward_pre_hook(lambda *_: network.__setitem__(1, time.perf_counter()))
    model.register_forward_hook(
        lambda *_: network.__setitem__(0, network[0] + time.perf_counter() - network[1])
    )
    predictor = Predictor.of_model(model, config, None, ("a", "b"))
    begin, cpu = time.perf_counter(), time.process_time()
    predict_files(predictor, (1, 2), [path], Path(tempfile.mkdtemp(dir=folder)) / "out")
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "side": side,
        "seconds": round(seconds, 2),
        "processor_seconds": round(cpu, 2),
        "megapixels_per_second": round(side**2 / seconds / 1e6, 3),
        "megapixels_per_processor_second": round(side**2 / cpu / 1e6, 3),
        "network_share": round(network[0] / seconds, 3),
        "mib_peak": round(resident()),
    }


def row_of_areas(how: str, rows: int, folder: Path) -> dict[str, Any]:
    """Put polygons around the discs of a mask, by `predict`'s tracing or by GDAL's, which rasterio keeps in memory."""
    from rasterio import band
    from rasterio.features import shapes
    from rasterio.windows import Window

    from ziggurat.inference.outputs.label_files import open_labels
    from ziggurat.inference.outputs.tracing import trace_areas

    disc = (np.hypot(*np.mgrid[-8:8, -8:8]) < 6.5).astype(np.uint8)
    path = folder / "discs.png"
    Image.fromarray(np.tile(disc, (rows // 16, AREA_COLUMNS // 16))).save(path, compress_level=1)
    begin, cpu, areas, corners = resident(), time.process_time(), 0, 0
    with open_labels(path) as labels:
        if how == "traced":
            bands = (
                labels.read(1, window=Window(0, top, labels.width, min(256, rows - top)))
                for top in range(0, rows, 256)
            )
            found: Any = (area.rings for area in trace_areas(bands, skipped=(0,)))
        else:
            found = (one["coordinates"] for one, value in shapes(band(labels, 1), connectivity=4) if value)
        for rings in found:
            areas, corners = areas + 1, corners + sum(len(ring) - 1 for ring in rings)
    return {
        "how": how,
        "rows": rows,
        "columns": AREA_COLUMNS,
        "areas": areas,
        "corners": corners,
        "processor_seconds": round(time.process_time() - cpu, 1),
        "mib_more": round(resident() - begin),
    }


ROWS = {"areas": row_of_areas, "size": row_of_size, "count": row_of_count, "speed": row_of_speed}


def in_a_process(kind: str, *words: Any, source: str = "") -> dict[str, Any]:
    """Return a row that is measured in a process of its own."""
    environment = os.environ | ({"PYTHONPATH": source} if source else {})
    command = [sys.executable, __file__, "--row", json.dumps([kind, *map(str, words)])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(kind, row, flush=True)
    return row


def measure_speed(folder: Path, against: str) -> dict[str, Any]:
    """Measure this version and another one in alternation."""
    rows: dict[str, list[dict[str, Any]]] = {"this": [], "other": []}
    for _ in range(PAIRS):
        rows["this"].append(in_a_process("speed", SPEED_SIDE, folder))
        if against:
            rows["other"].append(in_a_process("speed", SPEED_SIDE, folder, source=against))
    ratios = [
        one["megapixels_per_processor_second"] / other["megapixels_per_processor_second"]
        for one, other in zip(rows["this"], rows["other"], strict=False)
    ]
    return {**rows, "ratios": ratios, "median_ratio": statistics.median(ratios) if ratios else None}


def rows_of(kind: str) -> list[tuple[Any, ...]]:
    """Return what is measured of a kind."""
    if kind == "areas":
        return [(how, rows) for rows in AREA_ROWS for how in ("traced", "gdal")]
    if kind == "count":
        return [(count, 256) for count in COUNTS]
    return [(task, side, OBJECTS[side]) for task in ("detect", "segment") for side in SIDES]


def show_that_it_runs() -> None:
    """Measure small forms in this process."""
    import as_used
    import peers

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row = row_of_size("detect", 1_500, 100, folder)
        assert (row["detections"], row["truncated"], row["recall"]) == (100, 0, 1.0), row
        print(row, row_of_size("segment", 1_500, 100, folder), row_of_count(3, 64, folder))
        traced, gdal = (row_of_areas(how, 64, folder) for how in ("traced", "gdal"))
        assert (traced["areas"], traced["corners"]) == (gdal["areas"], gdal["corners"]), (traced, gdal)
        peers.show_that_it_runs(folder)
        as_used.show_that_it_runs(folder)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the rows and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="show in seconds that it runs")
    parser.add_argument("--row", help="measure one row in this process")
    parser.add_argument("--against", default="", metavar="SRC", help="PYTHONPATH of another version")
    parser.add_argument("--only", choices=ROWS, action="append")
    options = parser.parse_args(words)
    if options.quick:
        return show_that_it_runs()
    if options.row:
        kind, *rest = json.loads(options.row)
        given = [Path(word) if "/" in word else int(word) if word.isdigit() else word for word in rest]
        print(json.dumps(ROWS[kind](*given)))
        return None
    results: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    file = FOLDER / "results.json"
    if file.exists():
        results = json.loads(file.read_text(encoding="utf-8")) | results
    chosen = options.only or tuple(ROWS)

    def keep() -> None:
        file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in (kind for kind in ("areas", "size", "count") if kind in chosen):
            results[kind] = []
            for words in rows_of(kind):
                results[kind].append(in_a_process(kind, *words, folder))
                keep()
        if "speed" in chosen:
            results["speed"] = measure_speed(folder, options.against)
            keep()
    return None


if __name__ == "__main__":
    main()

"""One mosaic of 400 megapixels, 4 bands of 16 bits, from annotations to results on the ground: what it takes, and whether objects lie where they were planted.

The file is a tiled, LZW-compressed GeoTIFF in UTM; the annotations are polygons in a GeoPackage. Squares are seen in the fourth band alone. The
mosaic is divided into blocks for training and validation, a small detector is trained on two workers, and the whole mosaic is predicted
by two into a GeoPackage. Memory is that of the process that has most, sampled while the commands run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import tifffile
import torch
from pyogrio.raw import read, write
from scipy.spatial import cKDTree

from ziggurat.system.platform import processor_name

FOLDER = Path(__file__).parent
CELL, SQUARE = 160, 24  # pixels: one square in each cell
TILE, BANDS = 256, 4
CRS, PIXEL, LEFT, TOP = "EPSG:32632", 0.1, 500_000.0, 5_650_000.0
SETTINGS = {
    "model.levels": "p3-p5", "model.channels": 32, "model.head_depth": 2, "data.split": "blocks", "data.crop": 512,
    "data.workers": 0, "data.scale_min": 1.0, "data.scale_max": 1.0, "train.lr": 0.001, "train.warmup": 0.1,
    "data.cache_bytes": 1 << 26, "decode.score_threshold": 0.3, "train.report": "pictures", "data.tile_overlap": 0.15,
}  # fmt: skip


def plant(side: int) -> np.ndarray:
    """Return the left and upper edge of each square, int64, shape ``(N, 2)``."""
    count = side // CELL
    cells = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1).reshape(-1, 2) * CELL
    return cells + np.random.default_rng(0).integers(8, CELL - SQUARE - 8, cells.shape)


def write_mosaic(path: Path, side: int, corners: np.ndarray) -> None:
    """Write the mosaic tile by tile: noise in all bands, squares in the fourth."""
    rng = np.random.default_rng(1)
    noise = [rng.normal(20_000, 12, (TILE, TILE, BANDS)).astype(np.uint16) for _ in range(8)]
    per_row = -(-side // TILE)
    touched: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for left, top in corners.tolist():
        for row in range(top // TILE, (top + SQUARE - 1) // TILE + 1):
            for column in range(left // TILE, (left + SQUARE - 1) // TILE + 1):
                touched.setdefault((row, column), []).append((left - column * TILE, top - row * TILE))

    def tiles() -> Iterator[np.ndarray]:
        for number in range(per_row**2):
            tile = noise[number % len(noise)].copy()
            for left, top in touched.get(divmod(number, per_row), ()):
                tile[max(0, top) : max(0, top + SQUARE), max(0, left) : max(0, left + SQUARE), 3] += 1_500
            yield tile

    keys = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, int(CRS.split(":")[1]))
    tags = [
        (33550, "d", 3, (PIXEL, PIXEL, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, LEFT, TOP, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(
        path, tiles(), shape=(side, side, BANDS), dtype=np.uint16, tile=(TILE, TILE), photometric="minisblack",
        planarconfig="contig", extrasamples=[0] * (BANDS - 1), compression="lzw", predictor=2, bigtiff=True, metadata=None,
        extratags=tags,
    )  # fmt: skip


def write_polygons(path: Path, corners: np.ndarray) -> None:
    """Write the squares as polygons on the ground."""
    left, top = LEFT + PIXEL * corners[:, 0], TOP - PIXEL * corners[:, 1]
    shapes = shapely.box(left, top - PIXEL * SQUARE, left + PIXEL * SQUARE, top)
    labels = np.array(["square"] * len(corners), dtype=object)
    write(
        path, shapely.to_wkb(shapes), [labels], np.array(["label"], dtype=object), layer="squares",
        geometry_type="Polygon", crs=CRS,
    )  # fmt: skip


class Memory:
    """The largest resident memory of a command's processes, sampled while a block runs."""

    def __init__(self) -> None:
        self.most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(0.2):
            parents = {os.getpid()}
            for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
                try:
                    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
                except OSError:  # it has ended
                    continue
                fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
                if int(fields["PPid"]) in parents and pid != os.getpid():
                    parents.add(pid)
                    self.most = max(self.most, int(fields.get("VmHWM", "0 kB").split()[0]) // 1024)


def command(*words: object) -> tuple[dict[str, Any], int, float]:
    """Run a command of ziggurat, and return its JSON, the most memory of its processes in MiB, and its seconds."""
    begin = time.perf_counter()
    with Memory() as memory:
        done = subprocess.run(
            [sys.executable, "-m", "ziggurat", *map(str, words), "--json"],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(done.stdout), memory.most, time.perf_counter() - begin


def compare(found: Path, corners: np.ndarray) -> dict[str, Any]:
    """Compare what was found, on the ground, with what was planted, in pixels."""
    boxes = shapely.bounds(shapely.from_wkb(read(found)[2]))
    pixels = np.stack(
        [(boxes[:, 0] - LEFT) / PIXEL, (TOP - boxes[:, 3]) / PIXEL, (boxes[:, 2] - LEFT) / PIXEL, (TOP - boxes[:, 1]) / PIXEL], 1
    )  # fmt: skip
    middles = (pixels[:, :2] + pixels[:, 2:]) / 2
    distance, which = cKDTree(middles).query(corners + SQUARE / 2)
    near = distance < SQUARE / 2
    return {
        "planted": len(corners),
        "found": len(middles),
        "recall": round(float(near.mean()), 4),
        "doubled": int(near.sum() - len(set(which[near].tolist()))),
        "pixels_off_median": round(float(np.median(distance[near])), 3),
        "pixels_off_99": round(float(np.quantile(distance[near], 0.99)), 3),
        "pixels_off_most": round(float(distance[near].max()), 3),
    }


def measure(side: int, steps: int, folder: Path, plan: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Write the mosaic, train on it, predict it, and return what came of it."""
    corners = plant(side)
    data = folder / "data"
    data.mkdir()
    write_mosaic(data / "mosaic.tif", side, corners)
    write_polygons(data / "train.gpkg", corners)
    chosen = [f"{name}={value}" for name, value in (SETTINGS | settings).items()]
    run = folder / "run"
    trained, train_mib, train_seconds = command(
        "train", data, "--task", "detect", "--model", "fcos-test_resnet-fpn", "--plan", plan, "--threads", 1, "--device", "cpu",
        "--steps", steps, "--batch-size", 4, "--out", run, "--set", *chosen,
    )  # fmt: skip
    predicted, predict_mib, predict_seconds = command(
        "predict", run, data / "mosaic.tif", "--out", folder / "found", "--plan", plan, "--format", "gpkg", "--device", "cpu",
    )  # fmt: skip
    (gpkg,) = (file for file in predicted["files"] if file.endswith(".gpkg"))
    return {
        "side": side,
        "megabytes": round((data / "mosaic.tif").stat().st_size / 1e6),
        "steps": steps,
        "map50": trained["metrics"].get("map50"),
        "train_seconds": round(train_seconds),
        "train_mib": train_mib,
        "predict_seconds": round(predict_seconds),
        "predict_mib": predict_mib,
        "megapixels_per_second": round(predicted["megapixels_per_second"], 2),
        "truncated": predicted["truncated"],
        **(compare(Path(gpkg), corners) if predicted["detections"] else {"found": 0}),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the row and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="show in seconds that it runs")
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        if options.quick:
            small = {"data.crop": 64, "train.report": "numbers", "model.channels": 16, "model.head_depth": 1}
            print(measure(640, 1, Path(name), "dp=1", small))
            return
        row = measure(options.side, options.steps, Path(name), "dp=2", {})
    print(row)
    facts = {"torch": torch.__version__, "python": platform.python_version(), "processor": processor_name()}
    (FOLDER / "results.json").write_text(json.dumps(facts | row, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

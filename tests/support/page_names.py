"""What the names of the pages' examples stand for: a user's files, and what a piece of Python finds before it."""

from __future__ import annotations

import json
import runpy
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from support.georeferenced import GROUNDS, write_orchard, write_scene
from support.pages import ROOT
from support.slides import write_slides
from ziggurat.config import RunConfig, override
from ziggurat.parallel.collectives.workers import Workers

SIDE = 64


def write_files(folder: Path) -> None:
    """Write the files that the pages speak of, each as small as can be, into the folder where commands are run."""
    random = np.random.default_rng(0)
    for name in ("my_data", "trees"):
        _write_boxes(folder / name, random)
    _write_table(folder / "crowns", random)
    _write_classes(folder / "flowers", random)
    _write_masks(folder / "cells", random)
    for name in (
        "aerial/north.tif",
        "aerial/south.tif",
        "harbour.png",
        "market.jpg",
        "photo.jpg",
        "slide.tif",
    ):
        _picture(folder / name, random, SIDE + 20)
    write_scene(folder / "ortho.tif", GROUNDS["north"])
    write_orchard(folder / "orchard")
    write_slides(folder / "slides")
    cut = runpy.run_path(str(ROOT / "examples" / "qupath_tiles.py"))["cut"]
    for name, split in (("a", "train"), ("b", "val")):  # as examples/slide.md does
        slide = folder / "slides" / f"{name}.svs"
        cut(slide, slide.with_suffix(".geojson"), folder / "glands", split, ["gland", "tumour"], 128)


def _picture(path: Path, random: np.random.Generator, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)


def _write_boxes(folder: Path, random: np.random.Generator) -> None:
    """Write a data set as COCO has it, with two classes."""
    for split, count in (("train", 8), ("val", 3)):
        images, annotations = [], []
        for number in range(count):
            _picture(folder / split / f"{number}.png", random)
            images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
            for place in range(2):
                box = [5 + 25 * place, 8, 20, 30]
                row = {"id": len(annotations), "image_id": number, "category_id": 1 + place, "bbox": box}
                annotations.append(row | {"area": 600, "iscrowd": 0})
        categories = [{"id": 1, "name": "oak"}, {"id": 2, "name": "pine"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))


def _write_table(folder: Path, random: np.random.Generator) -> None:
    """Write boxes as CSV, beside the images."""
    for split, count in (("train", 8), ("val", 3)):
        rows = ["image_path,xmin,ymin,xmax,ymax,label"]
        for number in range(count):
            _picture(folder / f"{split}_{number}.tif", random)
            rows += [f"{split}_{number}.tif,5,8,25,38,Tree", f"{split}_{number}.tif,30,8,50,38,Tree"]
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")


def _write_classes(folder: Path, random: np.random.Generator) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for name in ("aster", "rose"):
            for number in range(count):
                _picture(folder / split / name / f"{number}.png", random)


def _write_masks(folder: Path, random: np.random.Generator) -> None:
    for split, count in (("train", 8), ("val", 3)):
        for number in range(count):
            _picture(folder / "images" / split / f"{number}.png", random)
            mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
            mask[10:40, 20:50] = 1
            path = folder / "masks" / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(path)
    (folder / "classes.txt").write_text("background\ncell\n")


@contextmanager
def names(given: str | None, workers: Workers) -> Any:
    """Yield what a piece of Python finds: by ``given``, with these workers."""
    if given is None:
        yield {}
    elif given == "torch.nn":
        yield {"nn": nn}
    elif given == "images":
        yield {"images": torch.zeros(1, 3, SIDE, SIDE)}
    elif given == "a model and a batch":
        torch.manual_seed(0)
        model = nn.Conv2d(3, 2, 3, padding=1)
        images, masks = torch.randn(2, 3, SIDE, SIDE), torch.randint(0, 2, (2, SIDE, SIDE))
        yield {"model": model, "images": images, "masks": masks, "criterion": nn.CrossEntropyLoss()}
    elif given == "examples/own_loop.py":
        yield _own_loop(workers)
    else:
        assert given == "examples/own_loop.py in its mesh", f"nothing is known that is given as {given}"
        found = _own_loop(workers)
        with found["make_mesh"](workers, "dp=1") as mesh:
            microbatches = [
                found["make_microbatch"](0, number) for number in range(found["num_microbatches"])
            ]
            setting = found["Setting"](found["spec_of"](found["images"]), found["config"], 4, nullcontext)
            optimizer = torch.optim.AdamW(found["model"].parameters(), lr=1e-2)
            feed = found["Feed"](mesh)
            yield found | {
                "mesh": mesh, "setting": setting, "optimizer": optimizer, "feed": feed, "microbatches": microbatches,
            }  # fmt: skip


def _own_loop(workers: Workers) -> dict[str, Any]:
    """Return the names of the example's loop, and what its steps are made of."""
    found = runpy.run_path(str(ROOT / "examples" / "own_loop.py"))
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2)),
    )
    images, _ = found["make_microbatch"](0, 0)
    return found | {
        "workers": workers, "model": model, "images": images, "config": override(RunConfig(), {"tensor.min_width": 8}),
        "loss": found["BrightOrDark"](), "num_steps": 2, "num_microbatches": 4,
    }  # fmt: skip


def tiny() -> nn.Module:
    """Return a network that is verified in no time, in the place of those that pages name."""
    return nn.Sequential(
        *(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )

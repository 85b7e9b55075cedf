"""Slides as scanners write them, and annotations of them as QuPath does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tifffile

APERIO = "Aperio Image Library v11\n{} (256x256) |MPP = 0.499|AppMag = 20"


def write_slide(path: Path, extent: tuple[int, int], factors: tuple[int, ...]) -> Path:
    """Write a slide as Aperio's scanners do."""
    pixels = np.random.default_rng(1).integers(0, 256, (*extent, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as file:
        for factor in factors:
            level = np.ascontiguousarray(pixels[::factor, ::factor])
            file.write(
                level, tile=(256, 256), photometric="rgb", description=APERIO.format(extent), metadata=None
            )
    return path


def write_annotations(path: Path, areas: list[tuple[str, list[tuple[int, int]]]]) -> Path:
    """Write polygons, each with its class and its corners (x, y), as QuPath exports them."""
    features = [
        {
            "type": "Feature",
            "id": f"id-{number}",
            "geometry": {"type": "Polygon", "coordinates": [[*corners, corners[0]]]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": [200, 0, 0]},
            },
        }
        for number, (name, corners) in enumerate(areas)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def rectangle(left: int, top: int, right: int, bottom: int) -> list[tuple[int, int]]:
    """Return corners."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def write_slides(folder: Path) -> None:
    """Write three slides, of which two are annotated."""
    folder.mkdir()
    for name in "abc":
        write_slide(folder / f"{name}.svs", (256, 384), (1, 4))
    for name in "ab":
        write_annotations(
            folder / f"{name}.geojson",
            [("gland", rectangle(20, 30, 200, 220)), ("tumour", rectangle(60, 70, 100, 120))],
        )

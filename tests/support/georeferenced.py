"""Georeferenced images with bright squares, which `fake_detector` finds: five ways in which pixels lie on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import shapely
from PIL import Image
from pyogrio.raw import write
from rasterio.transform import Affine

from support.fake_detector import BrightSquares, FindSquares, Squares
from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.inference.predict import predict_files
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh

CONFIG = RunConfig(
    dtype="fp32", data=DataConfig(crop=64, tile_overlap=0.5), decode=DecodeConfig(max_detections=200)
)
SCENES = Squares([(90, 120), (64, 64)])
TURN = Affine.rotation(33) @ Affine.shear(4)


@dataclass(frozen=True)
class Ground:
    """How an image lies on the ground."""

    crs: str
    transform: Affine


GROUNDS = {
    "north": Ground("EPSG:32632", Affine(0.1, 0, 500123.4, 0, -0.1, 5650000.7)),
    "south": Ground("EPSG:32719", Affine(0.5, 0, 300000, 0, -0.5, 6200000)),
    "degrees": Ground("EPSG:4326", Affine(1e-6, 0, 11.5, 0, -1e-6, 48.1)),
    "turned": Ground("EPSG:25833", Affine.translation(400000, 5800000) @ TURN @ Affine.scale(0.2, -0.2)),
    "south_up": Ground("EPSG:3857", Affine(0.6, 0, 1300000, 0, 0.6, 6100000)),
}


def write_scene(path: Path, ground: Ground | None, scene: int = 0) -> Path:
    """Write an image of squares as GeoTIFF."""
    pixels = SCENES.image(scene).numpy()
    if ground is None:
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
        return path
    place = {"crs": ground.crs, "transform": ground.transform}
    shape = {"count": 3, "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(path, "w", driver="GTiff", dtype="uint8", photometric="rgb", **shape, **place) as file:
        file.write(pixels)
    return path


def write_orchard(folder: Path) -> None:
    """Write a data set of polygons over georeferenced images: two splits in one folder, and an image of none."""
    folder.mkdir()
    for name, ground in (("north", "north"), ("south", "south"), ("west", "turned")):
        write_scene(folder / f"{name}.tif", GROUNDS[ground])
    for split, ground in (("train", GROUNDS["north"]), ("val", GROUNDS["south"])):
        crowns = [shapely.Point(x, y).buffer(9) for x, y in ((20, 20), (60, 40), (95, 70))]
        shapes = shapely.transform(
            crowns, lambda pixels, ground=ground: np.array([ground.transform @ tuple(one) for one in pixels])
        )
        labels = np.array(["oak", "pine", "oak"], dtype=object)
        write(
            folder / f"{split}.gpkg", shapely.to_wkb(shapes), [labels], np.array(["label"], dtype=object), layer="crowns",
            geometry_type="Polygon", crs=ground.crs,
        )  # fmt: skip


def planted(scene: int = 0) -> set[tuple[float, ...]]:
    """Return the boxes of a scene, left, top, right, bottom in pixels, and the label of each."""
    objects = SCENES.objects(scene)
    return {
        (*box, label) for box, label in zip(objects.boxes_xyxy.tolist(), objects.labels.tolist(), strict=True)
    }


def predict(
    paths: list[Path],
    out: Path,
    formats: tuple[str, ...],
    workers: Workers | None = None,
    config: RunConfig = CONFIG,
    **options: object,
) -> dict[str, object]:
    """Find the squares, and write them in some formats."""
    mesh = make_mesh(workers or Workers())
    predictor = Predictor.of_model(BrightSquares(), config, mesh, SCENES.classes, FindSquares(config))
    return predict_files(predictor, SCENES.category_ids, paths, out, formats=formats, **options)


def corners(pixels: np.ndarray) -> tuple[float, ...]:
    """Return left, top, right and bottom of corners, shape ``(N, 2)``."""
    return (*pixels.min(axis=0), *pixels.max(axis=0))

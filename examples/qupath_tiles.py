"""Tiles and masks to train on, from a slide and its annotations: python examples/qupath_tiles.py slide.svs slide.geojson glands train --classes gland,tumour.

The annotations are GeoJSON as QuPath writes it (File, Export objects as GeoJSON), in pixels of full resolution. Each becomes its class in the mask, the
smaller over the larger. Annotations of QuPath's class ``Region*`` say where everything is annotated: tiles are then taken there, and their pixels
outside take no part in training. Without any, tiles that an annotation touches are taken whole. Memory is that of a tile.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from rasterio.features import rasterize

from ziggurat import UserError
from ziggurat.data.extents import Region
from ziggurat.data.readers.registry import open_image_file

BACKGROUND, REGION, IGNORED = "background", "Region*", 255


def annotations_of(path: Path) -> list[tuple[str, shapely.Geometry]]:
    """Return the class and the shape of each annotation, the largest first."""
    content = json.loads(path.read_text(encoding="utf-8"))
    features = content.get("features", [content]) if isinstance(content, dict) else content
    found = []
    for feature in features:
        name = (feature["properties"].get("classification") or {}).get("name")
        shape = shapely.make_valid(shapely.geometry.shape(feature["geometry"]))
        if name and shape.area:
            found.append((name, shape))
    return sorted(found, key=lambda one: -one[1].area)


def cut(slide: Path, annotations: Path, out: Path, split: str, classes: list[str], side: int) -> int:
    """Write the tiles of a slide and their masks into ``images/SPLIT`` and ``masks/SPLIT``, and return how many there are."""
    found = annotations_of(annotations)
    unknown = sorted({name for name, _ in found} - {*classes, REGION})
    if unknown:
        raise UserError(f"{annotations} has classes that are not among --classes: {', '.join(unknown)}")
    regions = [shape for name, shape in found if name == REGION]
    drawn = [(shape, 1 + classes.index(name)) for name, shape in found if name != REGION]
    wanted = regions or [shape for shape, _ in drawn]
    tree = shapely.STRtree([shape for shape, _ in drawn])
    folders = [out / kind / split for kind in ("images", "masks")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    (out / "classes.txt").write_text("\n".join([BACKGROUND, *classes]) + "\n", encoding="utf-8")
    number = 0
    with open_image_file(slide) as image:
        rows, columns = image.info.extent
        for top in range(0, rows, side):
            for left in range(0, columns, side):
                size = (min(side, rows - top), min(side, columns - left))
                box = shapely.box(left, top, left + size[1], top + size[0])
                if not any(shape.intersects(box) and not shape.touches(box) for shape in wanted):
                    continue
                place = (1, 0, left, 0, 1, top)
                near = [drawn[index] for index in sorted(tree.query(box))]
                mask = (
                    rasterize(near, size, transform=place, dtype="uint8")
                    if near
                    else np.zeros(size, np.uint8)
                )
                if regions:
                    mask[rasterize(regions, size, transform=place, dtype="uint8") == 0] = IGNORED
                pixels = image.read(Region((top, left), size))[:3]
                name = f"{slide.stem}_{left}_{top}.png"
                Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(folders[0] / name)
                Image.fromarray(mask).save(folders[1] / name)
                number += 1
    return number


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path)
    parser.add_argument("annotations", type=Path, help="GeoJSON of QuPath")
    parser.add_argument("out", type=Path, help="folder of the data set")
    parser.add_argument("split", choices=("train", "val", "test"))
    parser.add_argument("--classes", required=True, help="names, in the order of their values from 1 on")
    parser.add_argument("--side", type=int, default=1024, help="of a tile, in pixels (default: 1024)")
    given = parser.parse_args()
    try:
        number = cut(
            given.slide, given.annotations, given.out, given.split, given.classes.split(","), given.side
        )
    except (UserError, OSError, ValueError, KeyError) as error:
        raise SystemExit(f"qupath_tiles: {given.slide}, {given.annotations}: {error}") from None
    print(f"{number} tiles in {given.out / 'images' / given.split}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

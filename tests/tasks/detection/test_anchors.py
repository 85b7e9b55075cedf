from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from ziggurat.models.levels import Level
from ziggurat.tasks.detection.anchors import anchors_at, base_anchors, make_grids

LEVELS = {f"p{k}": Level(8, 2**k) for k in range(3, 8)}
CPU = torch.device("cpu")


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
@pytest.mark.parametrize(("height", "width"), [(256, 256), (160, 416), (800, 1088)])
def test_anchors_are_torchvisions(kind: str, height: int, width: int) -> None:
    sizes = {name: (-(-height // v.stride), -(-width // v.stride)) for name, v in LEVELS.items()}
    squares = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    generator = squares if kind == "fcos" else _default_anchorgen()
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    (expected,) = generator(images, [torch.zeros(1, 1, *size) for size in sizes.values()])

    ours = []
    for grid in make_grids(LEVELS, sizes, height, width):
        base = base_anchors(kind, grid.stride, CPU)
        parts = torch.cartesian_prod(*map(torch.arange, (grid.rows, grid.columns, len(base))))
        ours.append(anchors_at(grid, base, *parts.unbind(1)))
    assert torch.equal(torch.cat(ours), expected)


def test_the_step_of_a_coarse_level_may_be_smaller_than_its_stride() -> None:
    (grid,) = make_grids({"p7": Level(8, 128)}, {"p7": (2, 3)}, 160, 288)
    assert (grid.row_step, grid.column_step, grid.stride) == (80, 96, 128)

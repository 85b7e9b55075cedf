"""From a detector's outputs to boxes.

Shapes: ``B`` images, ``P`` predictions of one level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections
from ziggurat.data.extents import Extent
from ziggurat.models.detector import Detector
from ziggurat.parallel.spatial import SpatialTensor
from ziggurat.tasks.detection.anchors import Grid, anchors_at, level_grids
from ziggurat.tasks.detection.assignment import Places, gather, places_from_index
from ziggurat.tasks.detection.candidates import Candidates, Level, best_scores, join_candidates, joined_cut
from ziggurat.tasks.detection.heads import HEADS
from ziggurat.tasks.detection.suppression import suppress
from ziggurat.tasks.own import own_block, own_part


class Decoder:
    """Decodes the outputs of a detector with any of the heads.

    Args:
        model: Gives the facts: levels, head and classes; its weights are not used.
        decode: How outputs become boxes.

    Attributes:
        labels: Of classes that count; empty if all do.
    """

    def __init__(self, model: Detector, decode: DecodeConfig) -> None:
        head = HEADS[model.head_kind]
        self._model, self._decode = model, decode
        self._assigner, self._coder = head.assigner, head.coder
        self.labels: tuple[int, ...] = ()

    @torch.no_grad()
    def detections(self, outputs: dict[str, dict[str, Tensor]], sizes: Sequence[Extent]) -> list[Detections]:
        """Return the objects found in each image, in pixels of the model's input.

        Args:
            outputs: The model's.
            sizes: Rows and columns of each image before padding; boxes are clipped to them.

        Communication:
            Where several workers share each image: one gather of the candidates along each axis.
        """
        finest, level = next(iter(self._model.levels.items()))
        rows, columns = outputs[finest]["boxes"].shape[-2:]
        device = outputs[finest]["boxes"].device
        with torch.autocast(device.type, enabled=False):
            found = [
                self._candidates(outputs[grid.name], grid)
                for grid in level_grids(self._model, rows * level.stride, columns * level.stride)
            ]
            boxes_of_finest = outputs[finest]["boxes"]
            if isinstance(boxes_of_finest, SpatialTensor):
                found = join_candidates(found, self._decode.candidates, boxes_of_finest.mesh)
            image, boxes, scores, labels = (
                torch.cat([getattr(level.candidates, name) for level in found])
                for name in ("image", "boxes_xyxy", "scores", "labels")
            )
            bounds = torch.tensor(sizes, device=device, dtype=boxes.dtype).flip(1).repeat(1, 2)
            boxes = torch.minimum(boxes.clamp(min=0), bounds[image])
        results = []
        for number in range(len(sizes)):
            of_image = (image == number).nonzero().squeeze(1)
            num_cut, best_cut = joined_cut(level.cut[number] for level in found)
            one = Detections(boxes[of_image], scores[of_image], labels[of_image], num_cut, best_cut, num_cut)
            results.append(suppress(one, self._decode.nms_threshold, self._decode.max_detections))
        return results

    def _candidates(self, terms: dict[str, Tensor], grid: Grid) -> Level:
        """Return a level's candidates among the positions that this worker answers for."""
        num_anchors, num_classes = self._assigner.num_anchors, self._model.num_classes
        block = own_block(terms["boxes"])
        terms = {name: own_part(t) for name, t in terms.items()}
        terms = {name: t.to(torch.promote_types(t.dtype, torch.float32)) for name, t in terms.items()}
        scores_BP = self._coder.scores(terms).permute(0, 2, 3, 1).flatten(1)  # a view of channels-last maps
        if self.labels:
            counts = torch.zeros(num_classes, dtype=torch.bool, device=scores_BP.device)
            counts[list(self.labels)] = True
            # a class follows the other in each prediction; below any threshold there is none
            scores_BP = scores_BP.unflatten(1, (-1, num_classes)).where(counts, -1.0).flatten(1)
        best = [best_scores(one, self._decode.score_threshold, self._decode.candidates) for one in scores_BP]
        indices, cut = [index for index, _ in best], [cut for _, cut in best]
        image = torch.arange(len(indices)).repeat_interleave(torch.tensor([len(one) for one in indices]))
        image, index = image.to(scores_BP.device), torch.cat(indices)
        prediction = torch.div(index, num_classes, rounding_mode="floor")
        here = places_from_index(image, prediction, block.width, num_anchors)
        places = Places(image, here.row + block.rows[0], here.column + block.columns[0], here.anchor)
        base = self._assigner.base_anchors(grid.stride, index.device)
        anchors = anchors_at(grid, base, places.row, places.column, places.anchor)
        boxes = self._coder.decode(gather(terms["boxes"], here, num_anchors), anchors)
        labels = index % num_classes
        in_level = (places.row * grid.columns + places.column) * num_anchors + places.anchor
        found = Candidates(image, in_level * num_classes + labels, boxes, scores_BP[image, index], labels)
        return Level(found, cut)

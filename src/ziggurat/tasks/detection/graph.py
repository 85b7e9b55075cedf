"""Decoding as part of a graph: the same boxes as `Decoder` finds, in tensors of fixed extents.

What `Decoder` drops is marked here, and moved behind what remains. Of equal scores the one of smaller index comes first, as there:

- The best of a level: neither PyTorch's TopK nor OpenVINO's promises that order; both are given keys no two of which are equal.
- Suppression is given ranks in the place of scores, no two of which are equal either.

Shapes: ``B`` images, ``P`` predictions of a level, ``K`` classes, ``C`` candidates of a level, ``N`` candidates of all levels, ``D`` detections.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

from ziggurat.config import DecodeConfig
from ziggurat.data.detections import Detections
from ziggurat.errors import UserError
from ziggurat.models.detector import Detector
from ziggurat.tasks.detection.anchors import Grid, anchors_at
from ziggurat.tasks.detection.heads import HEADS
from ziggurat.tasks.graph import Dialect, Difference, GraphDecoder, GraphOutput

MOST_CANDIDATES = 20_000  # of a level: a graph pads to them
MOST_KEYS = 46_340  # whose squares are whole numbers of 32 bits
NOTHING = -1.0  # a score below any threshold
SAME_SCORE, SAME_PIXELS = 1e-4, 0.05  # differences of two detections that are the same one


class GraphBoxes(GraphDecoder):
    """Decodes the outputs of a detector.

    Args:
        model: Gives the facts: levels, head and classes; its weights are not used.
        decode: How outputs become boxes.
        dialect: Of the graph.

    Raises:
        UserError: If there are more candidates than a graph is padded to, or can put in order.
    """

    def __init__(self, model: Detector, decode: DecodeConfig, dialect: Dialect) -> None:
        super().__init__()
        if decode.candidates > MOST_CANDIDATES:
            raise UserError(
                f"decode.candidates is at most {MOST_CANDIDATES} in a graph, which is padded to them: got {decode.candidates}; "
                f"set decode.candidates={MOST_CANDIDATES} or fewer"
            )
        most = MOST_KEYS // len(model.levels)
        if dialect == "onnx" and decode.candidates > most:
            raise UserError(
                f"decode.candidates is at most {most} in a graph of ONNX or OpenVINO over {len(model.levels)} levels, whose candidates are put in "
                f"order by numbers of 32 bits: got {decode.candidates}; set decode.candidates={most} or fewer, or export to pt2"
            )
        head = HEADS[model.head_kind]
        self._assigner, self._coder = head.assigner, head.coder
        self._levels, self._num_classes = model.levels, model.num_classes
        self._decode, self._dialect = decode, dialect
        # made here: tracing would leave tensors without values in the cache
        self._bases = {
            name: head.assigner.base_anchors(level.stride, torch.device("cpu"))
            for name, level in model.levels.items()
        }
        self._num_detections = min(decode.max_detections, decode.candidates * len(model.levels))
        most = self._num_detections
        self.outputs = (
            GraphOutput("boxes_xyxy", ("batch", most, 4), "left, top, right, bottom in pixels; zeros behind count"),
            GraphOutput("scores", ("batch", most), "from 0 to 1, falling; zeros behind count"),
            GraphOutput("labels", ("batch", most), "index into the classes; -1 behind count"),
            GraphOutput("count", ("batch",), "detections of each image"),
            GraphOutput("cut", ("batch", 2), "detections that decode.candidates has cut off, and that any limit has"),
            GraphOutput("best_cut", ("batch",), "the best score of them; 0 if there are none"),
        )  # fmt: skip

    def forward(self, outputs: dict[str, dict[str, Tensor]], sizes_B2: Tensor) -> dict[str, Tensor]:
        """Return the boxes of each image, the best first, padded; see `outputs`."""
        finest, level = next(iter(self._levels.items()))
        rows, columns = outputs[finest]["boxes"].shape[-2:]
        extent = rows * level.stride, columns * level.stride
        found = [self._candidates(outputs[name], name, extent) for name in self._levels]
        boxes_BN4, scores_BN, labels_BN = (
            torch.cat([part[index] for part in found], dim=1) for index in range(3)
        )
        early_B = torch.stack([part[3] for part in found]).sum(dim=0)
        best_early_B = torch.stack([part[4] for part in found]).amax(dim=0)
        bounds_B14 = sizes_B2.flip(1).repeat(1, 2).to(boxes_BN4.dtype)[:, None]
        boxes_BN4 = torch.minimum(boxes_BN4.clamp(min=0), bounds_B14)

        scores_BN, order_BN = self._best(scores_BN, scores_BN.shape[1])
        boxes_BN4, labels_BN = _rows(boxes_BN4, order_BN), labels_BN.gather(1, order_BN)
        rank_BN = torch.arange(scores_BN.shape[1], 0, -1, device=scores_BN.device).expand_as(scores_BN)
        rank_BN = torch.where(scores_BN > self._decode.score_threshold, rank_BN, 0).to(torch.float32)
        suppress = torch.ops.ziggurat.keep_apart if self._dialect == "onnx" else keep_apart
        apart_BN = suppress(boxes_BN4, rank_BN, labels_BN, self._num_classes, self._decode.nms_threshold)

        most = self._num_detections
        kept_B = apart_BN.sum(dim=1)
        place_BD = torch.where(apart_BN, rank_BN, 0.0).topk(most, dim=1).indices
        count_B = kept_B.clamp(max=most)
        real_BD = torch.arange(most, device=count_B.device) < count_B[:, None]
        # the best that the limit has cut off is the first behind the last one
        after_BN = torch.where(apart_BN & (apart_BN.cumsum(dim=1) > most), scores_BN, 0.0)
        cut_B = early_B + kept_B - count_B
        return {
            "boxes_xyxy": torch.where(real_BD[..., None], _rows(boxes_BN4, place_BD), 0.0),
            "scores": torch.where(real_BD, scores_BN.gather(1, place_BD), 0.0),
            "labels": torch.where(real_BD, labels_BN.gather(1, place_BD), -1),
            "count": count_B,
            "cut": torch.stack([early_B, cut_B], dim=1),
            "best_cut": torch.maximum(best_early_B, after_BN.amax(dim=1)),
        }

    def _candidates(
        self, terms: dict[str, Tensor], name: str, extent: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels of a level's best, how many others there are, and the best score of them."""
        terms = {key: term.float() for key, term in terms.items()}
        num_anchors, count = self._assigner.num_anchors, self._decode.candidates
        rows, columns = terms["boxes"].shape[-2:]
        grid = Grid(name, rows, columns, extent[0] // rows, extent[1] // columns, self._levels[name].stride)
        scores_BP = self._coder.scores(terms).permute(0, 2, 3, 1).flatten(1)
        above_BP = scores_BP > self._decode.score_threshold
        # one more than are kept: it says what is cut off; padded, as a small level has fewer
        padding = scores_BP.new_full((scores_BP.shape[0], count + 1), NOTHING)
        padded_BP = torch.cat([torch.where(above_BP, scores_BP, NOTHING), padding], dim=1)
        best_BC, index_BC = self._best(padded_BP, count + 1)
        num_cut_B = (above_BP.sum(dim=1) - count).clamp(min=0)
        best_cut_B = best_BC[:, count].clamp(min=0)
        scores_BC = best_BC[:, :count]
        index_BC = torch.where(scores_BC > self._decode.score_threshold, index_BC[:, :count], 0)

        prediction_BC = torch.div(index_BC, self._num_classes, rounding_mode="floor")
        place_BC = torch.div(prediction_BC, num_anchors, rounding_mode="floor")
        row_BC = torch.div(place_BC, columns, rounding_mode="floor")
        column_BC = place_BC - row_BC * columns
        deltas_BP4 = terms["boxes"].unflatten(1, (num_anchors, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        anchor_BC = prediction_BC % num_anchors
        anchors = anchors_at(
            grid, self._bases[name], row_BC.flatten(), column_BC.flatten(), anchor_BC.flatten()
        )
        boxes = self._coder.decode(_rows(deltas_BP4, prediction_BC).flatten(0, 1), anchors)
        return (
            boxes.unflatten(0, (-1, count)),
            scores_BC,
            index_BC % self._num_classes,
            num_cut_B,
            best_cut_B,
        )

    def _best(self, scores_BP: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the best scores and their indices, by falling score, of equal ones the earlier first."""
        if self._dialect == "onnx":
            return best_by_keys(scores_BP, count)
        # the bits of positive floats are ordered as the floats are; NOTHING is the one negative, and goes below
        bits_BP = torch.where(scores_BP >= 0, scores_BP, 0.0).view(torch.int32).to(torch.int64) + (
            scores_BP >= 0
        ).to(torch.int64)
        last = scores_BP.shape[1] - 1
        key_BP = (bits_BP << 32) + (last - torch.arange(scores_BP.shape[1], device=scores_BP.device))
        index_BC = key_BP.topk(count, dim=1).indices
        return scores_BP.gather(1, index_BC), index_BC


def best_by_keys(scores_BP: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the best scores and their indices, by falling score, of equal ones the earlier first, whatever `topk` does with equal ones.

    OpenVINO's TopK has them in any order, or takes 0.16 s for 1,000 of 40,000 if it is told to keep theirs; without, 0.4 ms. So it is
    asked for values, and for the order of whole numbers no two of which are equal:

    1. The value of the last one tells what is surely among the best; of those that equal it, the first ones are taken.
    2. Each of these gets a key: its place among the values that differ, then its index.

    Args:
        scores_BP: Shape ``(B, P)``.
        count: At most `P`.
    """
    places_P = torch.arange(scores_BP.shape[1], 0, -1, dtype=torch.int32, device=scores_BP.device)
    best_BC = scores_BP.topk(count, dim=1).values
    last_B1 = best_BC[:, count - 1 :]
    above_BP, equal_BP = scores_BP > last_B1, scores_BP == last_B1
    missing_B1 = count - above_BP.to(torch.int32).sum(dim=1, keepdim=True)
    taken_BP = above_BP | (equal_BP & (equal_BP.to(torch.int32).cumsum(dim=1) <= missing_B1))
    index_BC = torch.where(taken_BP, places_P, 0).topk(count, dim=1).indices  # rising

    found_BC, order_BC = scores_BP.gather(1, index_BC).topk(count, dim=1)
    differs_BC = torch.cat([found_BC[:, :1] != found_BC[:, :1], found_BC[:, 1:] != found_BC[:, :-1]], dim=1)
    rank_BC = differs_BC.to(torch.int32).cumsum(dim=1).to(torch.int32)
    key_BC = -(rank_BC * count + order_BC.to(torch.int32))
    order_BC = order_BC.gather(1, key_BC.topk(count, dim=1).indices)
    return found_BC, index_BC.gather(1, order_BC)


def keep_apart(
    boxes_BN4: Tensor, rank_BN: Tensor, labels_BN: Tensor, num_classes: int, threshold: float
) -> Tensor:
    """Return which candidates overlap no better one of their image and class too far, bool, shape ``(B, N)``.

    Args:
        boxes_BN4: Corners.
        rank_BN: The better the larger, no two equal; what is 0 is no candidate.
        labels_BN: Their classes.
        num_classes: Classes.
        threshold: Largest IoU of two that both remain.
    """
    candidate = (rank_BN > 0).flatten().nonzero().squeeze(1)
    boxes = boxes_BN4.flatten(0, 1)[candidate].to(torch.float64)
    # each class of each image is moved to a place of its own; exact enough in float64
    image_BN = torch.arange(boxes_BN4.shape[0], device=boxes_BN4.device)[:, None]
    group = (labels_BN + image_BN * num_classes).flatten()[candidate]
    extent = boxes_BN4.amax().to(torch.float64) + 1  # boxes begin at 0
    keep = nms(boxes + (group * extent)[:, None], rank_BN.flatten()[candidate].to(torch.float64), threshold)
    apart = torch.zeros_like(rank_BN, dtype=torch.bool).flatten()
    return apart.index_fill(0, candidate[keep], True).view_as(rank_BN)


# an operation of its own in graphs that are translated to ONNX, which suppresses by image and class itself
@torch.library.custom_op("ziggurat::keep_apart", mutates_args=())
def _keep_apart(
    boxes_BN4: Tensor, rank_BN: Tensor, labels_BN: Tensor, num_classes: int, threshold: float
) -> Tensor:
    return keep_apart(boxes_BN4, rank_BN, labels_BN, num_classes, threshold)


@_keep_apart.register_fake
def _(boxes_BN4: Tensor, rank_BN: Tensor, labels_BN: Tensor, num_classes: int, threshold: float) -> Tensor:
    return torch.empty_like(rank_BN, dtype=torch.bool)


def _rows(values_BP4: Tensor, index_BN: Tensor) -> Tensor:
    """Return some rows of each image, shape ``(B, N, 4)``."""
    return values_BP4.gather(1, index_BN[..., None].expand(-1, -1, values_BP4.shape[2]))


def padded_detections(graph: dict[str, Tensor]) -> list[Detections]:
    """Return the detections of each image from the outputs of a graph."""
    names = ("boxes_xyxy", "scores", "labels", "count", "cut", "best_cut")
    return [
        Detections(
            boxes[:count], scores[:count], labels[:count].long(), int(cut[1]), float(best), int(cut[0])
        )
        for boxes, scores, labels, count, cut, best in zip(*(graph[name] for name in names), strict=True)
    ]


def compare_detections(ours: Detections, theirs: Detections) -> Difference:
    """Return whether two lists hold the same detections.

    Each of one is paired with one of the other of its class whose score differs by at most `SAME_SCORE`, and whose sides by at most
    `SAME_PIXELS`.
    """
    score = (ours.scores[:, None] - theirs.scores).abs()
    pixels = (ours.boxes_xyxy[:, None] - theirs.boxes_xyxy).abs().amax(dim=2)
    fits = (ours.labels[:, None] == theirs.labels) & (score <= SAME_SCORE) & (pixels <= SAME_PIXELS)
    error = box_error = 0.0
    lost, added = [], set(range(len(theirs)))
    for mine in range(len(ours)):
        free = fits[mine].nonzero().flatten()
        if not len(free):
            lost.append(mine)
            continue
        chosen = int(free[pixels[mine, free].argmin()])
        fits[:, chosen] = False
        added.remove(chosen)
        error, box_error = max(error, float(score[mine, chosen])), max(box_error, float(pixels[mine, chosen]))
    said = [f"lost: {_said(ours, mine)}" for mine in lost[:1]]
    said += [f"added: {_said(theirs, one)}" for one in sorted(added)[:1]]
    return Difference(error, box_error, not said, "; ".join(said))


def _said(found: Detections, index: int) -> str:
    box = ", ".join(f"{side:.2f}" for side in found.boxes_xyxy[index].tolist())
    return f"class {int(found.labels[index])}, score {float(found.scores[index]):.5f}, box {box}"

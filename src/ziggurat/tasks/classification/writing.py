"""What `predict` writes of a classified image: its best classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ziggurat.tasks.base import Place, ResultTable

TOP = 5  # classes of an image that are written


def class_row(probabilities_K: Tensor, place: Place) -> dict[str, Any]:
    """Return the best class of an image, and under ``top`` the best few."""
    best = probabilities_K[None].topk(min(TOP, len(place.classes)), dim=1)
    top = [
        {"category_id": place.category_ids[label], "category": place.classes[label], "score": score}
        for score, label in zip(best.values[0].tolist(), best.indices[0].tolist(), strict=True)
    ]
    return place.facts | top[0] | {"top": top}


def class_table(rows: Sequence[dict[str, Any]]) -> ResultTable:
    """Return the best class of each image, in the columns of our CSV of labels, and its score."""
    lines = ([row["file_name"], row["category"], row["score"]] for row in rows)
    return ResultTable(("image_path", "label", "score"), lines)

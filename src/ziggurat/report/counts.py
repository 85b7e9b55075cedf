"""The counts of each image as a table: ``counts.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from ziggurat.metrics.counts import Counts


def counts_table(counts: Counts, classes: Sequence[str], name_of: Callable[[int], str]) -> str:
    """Return a line for each image and each class that it has, or that was found in it; for others one of zeros.

    Args:
        counts: Of each image.
        classes: The name of each class.
        name_of: From the number of an image to its name.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", "annotated", "found"])
    for index, (annotated, found) in enumerate(
        zip(counts.annotated.tolist(), counts.found.tolist(), strict=True)
    ):
        rows = [row for row in zip(classes, annotated, found, strict=True) if row[1] or row[2]]
        writer.writerows([name_of(index), *row] for row in rows or [("", 0, 0)])
    return text.getvalue()

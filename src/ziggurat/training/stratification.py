"""Parts of a data set in each of which every class is as frequent as in the whole, as nearly as whole images allow.

Images are dealt out class by class, the rarest first: each goes to the part that lacks its class the most. An image may have several
classes, or none.

References:
    Sechidis, Tsoumakas and Vlahavas, On the Stratification of Multi-Label Data, 2011, algorithm 1.
    https://doi.org/10.1007/978-3-642-23808-6_10
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np


def stratified_parts(
    order: Sequence[int] | np.ndarray, classes: Sequence[Collection[int]], num_parts: int
) -> list[list[int]]:
    """Return the images in parts, whose sizes differ by one at most: the larger ones first.

    Args:
        order: Every image once: in which order those of a class are dealt out.
        classes: The labels that each image has.
        num_parts: How many parts there are.

    Example:
        >>> stratified_parts(range(6), [[0], [0], [0], [0], [1], [1]], 2)
        [[4, 0, 2], [5, 1, 3]]
    """
    room = [len(part) for part in np.array_split(np.asarray(order), num_parts)]
    in_all = Counter(label for labels in classes for label in labels)
    # how much of a class a part lacks, times the number of parts: whole numbers
    lacks = {label: [count] * num_parts for label, count in in_all.items()}
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    left = [int(image) for image in order]

    def deal(image: int, label: int | None) -> None:
        able = [part for part in range(num_parts) if room[part]]
        part = max(able, key=lambda one: (0 if label is None else lacks[label][one], room[one], -one))
        parts[part].append(image)
        room[part] -= 1
        for other in classes[image]:
            lacks[other][part] -= num_parts

    while rest := Counter(label for image in left for label in classes[image]):
        rarest = min(rest, key=lambda label: (rest[label], label))
        for image in left:
            if rarest in classes[image]:
                deal(image, rarest)
        left = [image for image in left if rarest not in classes[image]]
    for image in left:
        deal(image, None)
    return parts

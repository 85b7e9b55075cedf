"""Which images of a data set cannot be decoded, found before a sample is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ziggurat.data.dataset import Dataset, try_decoding
from ziggurat.errors import UserError

AT_ONCE = 1024  # images that are asked for at once: there may be millions


class SpoiledImages(UserError):  # noqa: N818 - reads as what there is
    """Images that cannot be decoded, or whose annotations cannot.

    Args:
        by_index: From the index of each in its data set to what is wrong with it.
    """

    def __init__(self, by_index: Mapping[int, str]) -> None:
        self.by_index = {index: by_index[index] for index in sorted(by_index)}
        super().__init__(self.by_index.values())


def spoiled_images(
    dataset: Dataset,
    indices: Sequence[int],
    read: Callable[[Dataset, int], Any],
    num_threads: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[int, str]:
    """Decode images and what is to be predicted of them, and return what is wrong with each that cannot be.

    Args:
        dataset: Holds the images.
        indices: Those that are decoded.
        read: Reads what is to be predicted of one.
        num_threads: Images that are decoded at once.
        progress: Called after each image with how many are done.
    """

    def fault_of(index: int) -> str:
        try:
            try_decoding(dataset, index)
            read(dataset, index)
        except UserError as error:
            return "; ".join(error.faults)
        return ""

    spoiled = {}
    with ThreadPoolExecutor(max(1, num_threads), thread_name_prefix="decode") as threads:
        for start in range(0, len(indices), AT_ONCE):
            some = indices[start : start + AT_ONCE]
            for done, (index, fault) in enumerate(
                zip(some, threads.map(fault_of, some), strict=True), start + 1
            ):
                progress(done)
                if fault:
                    spoiled[index] = fault
    return spoiled

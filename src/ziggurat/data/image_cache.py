"""Images that were decoded last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor


class ImageCache:
    """Keeps the images that were used last, within a number of bytes; each process has its own.

    Args:
        load: Makes the image of an index.
        max_bytes: Most bytes that are kept; 0 keeps nothing.
    """

    def __init__(self, load: Callable[[int], Tensor], max_bytes: int) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._images: OrderedDict[int, Tensor] = OrderedDict()
        self.bytes = 0

    def __getitem__(self, index: int) -> Tensor:
        """Return image `index`; it is shared and must not be written to."""
        if index in self._images:
            self._images.move_to_end(index)
            return self._images[index]
        image = self._load(index)
        if image.nbytes <= self._max_bytes:
            self._images[index] = image
            self.bytes += image.nbytes
        while self.bytes > self._max_bytes:
            self.bytes -= self._images.popitem(last=False)[1].nbytes
        return image

"""The user's classification data sets: an image file and a label each."""

from __future__ import annotations

import numpy as np

from ziggurat.data.file_dataset import FileImages, FileList


class LabelDataset(FileImages):
    """A classification data set of files.

    Args:
        classes: Name of each label.
        category_ids: A number for each label, from 1.
        files: The images.
        labels: The label of each image, int64, shape ``(images,)``.
    """

    def __init__(
        self, classes: tuple[str, ...], category_ids: tuple[int, ...], files: FileList, labels: np.ndarray
    ) -> None:
        super().__init__(classes, category_ids, files)
        self._labels = labels

    def label(self, index: int) -> int:
        """Return the label of image `index`."""
        return int(self._labels[self._place[index]])

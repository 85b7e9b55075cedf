"""Some images of a data set, in an order of their own, perhaps several times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ziggurat.data.dataset import CanLeaveOut, Dataset, left_out_of, notes_of, spelling_of

# What data sets may be asked of an image, by its index: each has some of them.
OF_AN_IMAGE = (
    "record", "image", "objects", "label", "mask", "path", "levels", "window", "mask_window", "blank", "try_decoding", "all_objects",
    "crowd", "areas",
)  # fmt: skip


class SelectedImages:
    """Some images of a data set; it can do what that can.

    Args:
        dataset: Of all images.
        chosen: The index of each image in it.
        note: What there is to say of the choice; empty for nothing.

    Example:
        >>> from ziggurat.config import DigitsConfig
        >>> from ziggurat.data.digits import DigitLabels
        >>> some = SelectedImages(DigitLabels(DigitsConfig(), "val"), [7, 7, 3])
        >>> len(some), some.record(2).name
        (3, 'val-000003')
    """

    def __init__(self, dataset: Any, chosen: Sequence[int] | np.ndarray, note: str = "") -> None:
        self._dataset, self._note = dataset, note
        self._chosen = np.asarray(chosen, dtype=np.int64)
        for name in _asked(dataset):  # attributes, as who asks looks for them
            setattr(self, name, partial(_of_image, getattr(dataset, name), self._chosen))
        if isinstance(dataset, CanLeaveOut):
            self.without = self._without

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label."""
        classes: tuple[str, ...] = self._dataset.classes
        return classes

    @property
    def category_ids(self) -> tuple[int, ...]:
        """COCO category id of each label."""
        ids: tuple[int, ...] = self._dataset.category_ids
        return ids

    @property
    def notes(self) -> tuple[str, ...]:
        """What was guessed, mended or left out, and what was chosen."""
        return (*notes_of(self._dataset), *([self._note] if self._note else []))

    @property
    def left_out(self) -> Any:
        """The faults of annotations and images that were left out of the data set."""
        return left_out_of(self._dataset)

    @property
    def spelled(self) -> Any:
        """How the annotations write ids."""
        return spelling_of(self._dataset)

    def __len__(self) -> int:
        return len(self._chosen)

    def _without(self, spoiled: Mapping[int, str]) -> SelectedImages:
        """Return the images without some, from their indices to what is wrong with each."""
        of_all = {int(self._chosen[index]): why for index, why in spoiled.items()}
        rest = np.setdiff1d(np.arange(len(self._dataset)), list(of_all))
        kept = self._chosen[~np.isin(self._chosen, list(of_all))]
        return SelectedImages(self._dataset.without(of_all), np.searchsorted(rest, kept), self._note)


def _asked(dataset: Dataset) -> Iterator[str]:
    return (name for name in OF_AN_IMAGE if hasattr(dataset, name))


def _of_image(ask: Callable[..., Any], chosen: np.ndarray, index: int, *more: Any, **named: Any) -> Any:
    return ask(int(chosen[index]), *more, **named)

"""Which images each of several models is trained on, and evaluated on: pure functions of a seed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, cast

import numpy as np

from ziggurat.config import MembersConfig, RunConfig, override
from ziggurat.data.balance import CountsClasses
from ziggurat.data.dataset import Dataset
from ziggurat.data.randomness import Purpose, keyed_generator
from ziggurat.data.selected import SelectedImages
from ziggurat.errors import UserError
from ziggurat.training.grouping import grouped_parts, groups_of
from ziggurat.training.stratification import stratified_parts

_PARTS, _SAMPLE, _SEED = range(3)  # what random numbers of members are for
DIVIDING = ("disjoint", "folds")
Classes = Sequence[Collection[int]]


class Known(NamedTuple):
    """What images are divided by.

    Attributes:
        classes: The labels that each image has, where parts are stratified by them.
        groups: The group of each image, where these stay together.
    """

    classes: Classes | None = None
    groups: Sequence[str] | None = None


NOTHING = Known()


def config_of_member(config: RunConfig, member: int) -> RunConfig:
    """Return the config of a member's run: with a seed of its own, and the one that all have in common.

    Args:
        config: Of all members, whose ``members.seed`` is open or decided.
        member: Its number.
    """
    common = config.seed if config.members.key is None else config.members.key
    own = int(keyed_generator(common, Purpose.MEMBERS, _SEED, member).integers(0, 1 << 31))
    return override(config, {"members.member": str(member), "members.seed": str(common), "seed": own})


def training_images(num_images: int, members: MembersConfig, known: Known = NOTHING) -> np.ndarray:
    """Return the index of each image that a member is trained on, rising; an index may occur several times.

    Args:
        num_images: Of the training data.
        members: Says which member, and of what kind.
        known: What images are divided by.

    Example:
        >>> [training_images(5, MembersConfig(2, "disjoint", member=member, seed="0")).tolist() for member in "01"]
        [[1, 3, 4], [0, 2]]
        >>> training_images(5, MembersConfig(2, "bootstrap", member="0", seed="0")).tolist()
        [0, 2, 3, 3, 4]
    """
    if members.data == "all":
        return np.arange(num_images)
    if members.data == "bootstrap":
        generator = keyed_generator(members.key or 0, Purpose.MEMBERS, _SAMPLE, members.number)
        return np.sort(generator.integers(0, num_images, num_images))
    parts = _parts(num_images, members, known)
    if members.data == "disjoint":
        return parts[members.number]
    return np.sort(np.concatenate([part for number, part in enumerate(parts) if number != members.number]))


def fold_images(num_images: int, members: MembersConfig, known: Known = NOTHING) -> np.ndarray:
    """Return the index of each image that a member of a cross-validation is evaluated on, rising."""
    return _parts(num_images, members, known)[members.number]


def _parts(num_images: int, members: MembersConfig, known: Known) -> list[np.ndarray]:
    """Return the images in as many parts as there are members; their sizes differ by one at most, but for groups that stay together."""
    order = keyed_generator(members.key or 0, Purpose.MEMBERS, _PARTS).permutation(num_images)
    if known.groups is not None:
        parts = grouped_parts(order, known.groups, members.count, known.classes)
        return [np.sort(np.array(part)) for part in parts]
    if known.classes is None:
        return [np.sort(part) for part in np.array_split(order, members.count)]
    return [np.sort(np.array(part)) for part in stratified_parts(order, known.classes, members.count)]


def _known_of(dataset: Dataset, members: MembersConfig, kind: object) -> Known:
    """Return what the images are divided by.

    Raises:
        UserError: If classes or groups are asked for and not known.
    """
    if members.data not in DIVIDING:
        return NOTHING
    groups = groups_of(dataset, members)
    return Known(_classes_of(dataset, members, kind), groups)


def _classes_of(dataset: Dataset, members: MembersConfig, kind: object) -> Classes | None:
    """Return the labels that each image has, where parts are stratified by them.

    Raises:
        UserError: If an annotation cannot be read, or targets have no classes to count.
    """
    if members.stratify == "none":
        return None
    if not isinstance(kind, CountsClasses):
        raise UserError(
            "members.stratify=classes needs targets whose classes can be counted (`count_classes`): those of this task cannot; leave it out"
        )
    return [frozenset(kind.count_classes(dataset, index)) for index in range(len(dataset))]


def is_divided(members: MembersConfig) -> bool:
    """Whether a run is of a member that does not see all images once."""
    return members.count > 1 and members.number >= 0 and members.data != "all"


def of_member(dataset: Dataset, members: MembersConfig, kind: object = None) -> Dataset:
    """Return what a member is trained on; of a run that is none, or sees all images, the data set itself.

    Args:
        dataset: The training data.
        members: Says which member, and of what kind.
        kind: Of the targets: one that counts classes, where parts are stratified by them.

    Raises:
        UserError: If there are fewer images or groups than members, or their classes or groups are not known.
    """
    if not is_divided(members):
        return dataset
    count, known = _enough(dataset, members), _known_of(dataset, members, kind)
    return _chosen(dataset, training_images(count, members, known), members, "trained on")


def fold_of_member(dataset: Dataset, members: MembersConfig, kind: object = None) -> Dataset:
    """Return what a member of a cross-validation is evaluated on; see `of_member`.

    Raises:
        UserError: If there are fewer images or groups than members, or their classes or groups are not known.
    """
    count, known = _enough(dataset, members), _known_of(dataset, members, kind)
    return _chosen(dataset, fold_images(count, members, known), members, "evaluated on")


def has_fold(members: MembersConfig) -> bool:
    """Whether a run is evaluated on a fold of the training data."""
    return is_divided(members) and members.data == "folds"


def _enough(dataset: Dataset, members: MembersConfig) -> int:
    if len(dataset) < members.count:
        raise UserError(
            f"members.data={members.data} needs an image for each member: got {len(dataset)} images and members.count={members.count}; "
            "give fewer members, or members.data=all or bootstrap"
        )
    return len(dataset)


def _chosen(dataset: Dataset, images: np.ndarray, members: MembersConfig, what: str) -> Dataset:
    different = len(np.unique(images))
    again = f", {len(images) - different} of them again" if different < len(images) else ""
    how = f"members.data={members.data}"
    if members.data in DIVIDING:
        how += f", stratified by {members.stratify}" if members.stratify != "none" else ""
        how += f", in groups by {members.groups}" if members.groups else ""
    note = f"member {members.number} of {members.count} is {what} {len(images)} of {len(dataset)} images{again} ({how})"
    return cast(Dataset, SelectedImages(dataset, images, note))  # it can what the data set can

"""Which images each of several models is trained on, and evaluated on: pure functions of a seed."""

from __future__ import annotations

from typing import cast

import numpy as np

from ziggurat.config import MembersConfig, RunConfig, override
from ziggurat.data.dataset import Dataset
from ziggurat.data.randomness import Purpose, keyed_generator
from ziggurat.data.selected import SelectedImages
from ziggurat.errors import UserError

_PARTS, _SAMPLE, _SEED = range(3)  # what random numbers of members are for


def config_of_member(config: RunConfig, member: int) -> RunConfig:
    """Return the config of a member's run: with a seed of its own, and the one that all have in common.

    Args:
        config: Of all members, whose ``members.seed`` is open or decided.
        member: Its number.
    """
    common = config.seed if config.members.key is None else config.members.key
    own = int(keyed_generator(common, Purpose.MEMBERS, _SEED, member).integers(0, 1 << 31))
    return override(config, {"members.member": str(member), "members.seed": str(common), "seed": own})


def training_images(num_images: int, members: MembersConfig) -> np.ndarray:
    """Return the index of each image that a member is trained on, rising; an index may occur several times.

    Args:
        num_images: Of the training data.
        members: Says which member, and of what kind.

    Example:
        >>> [training_images(5, MembersConfig(2, "disjoint", member, "0")).tolist() for member in "01"]
        [[1, 3, 4], [0, 2]]
        >>> training_images(5, MembersConfig(2, "bootstrap", "0", "0")).tolist()
        [0, 2, 3, 3, 4]
    """
    if members.data == "all":
        return np.arange(num_images)
    if members.data == "bootstrap":
        generator = keyed_generator(members.key or 0, Purpose.MEMBERS, _SAMPLE, members.number)
        return np.sort(generator.integers(0, num_images, num_images))
    parts = _parts(num_images, members)
    if members.data == "disjoint":
        return parts[members.number]
    return np.sort(np.concatenate([part for number, part in enumerate(parts) if number != members.number]))


def fold_images(num_images: int, members: MembersConfig) -> np.ndarray:
    """Return the index of each image that a member of a cross-validation is evaluated on, rising."""
    return _parts(num_images, members)[members.number]


def _parts(num_images: int, members: MembersConfig) -> list[np.ndarray]:
    """Return the images in as many parts as there are members; their sizes differ by one at most."""
    order = keyed_generator(members.key or 0, Purpose.MEMBERS, _PARTS).permutation(num_images)
    return [np.sort(part) for part in np.array_split(order, members.count)]


def is_divided(members: MembersConfig) -> bool:
    """Whether a run is of a member that does not see all images once."""
    return members.count > 1 and members.number >= 0 and members.data != "all"


def of_member(dataset: Dataset, members: MembersConfig) -> Dataset:
    """Return what a member is trained on; of a run that is none, or sees all images, the data set itself.

    Raises:
        UserError: If there are fewer images than members.
    """
    if not is_divided(members):
        return dataset
    return _chosen(dataset, training_images(_enough(dataset, members), members), members, "trained on")


def fold_of_member(dataset: Dataset, members: MembersConfig) -> Dataset:
    """Return what a member of a cross-validation is evaluated on.

    Raises:
        UserError: If there are fewer images than members.
    """
    return _chosen(dataset, fold_images(_enough(dataset, members), members), members, "evaluated on")


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
    note = f"member {members.number} of {members.count} is {what} {len(images)} of {len(dataset)} images{again} (members.data={members.data})"
    return cast(Dataset, SelectedImages(dataset, images, note))  # it can what the data set can

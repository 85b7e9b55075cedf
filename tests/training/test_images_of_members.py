"""What several models are trained on: parts, samples and folds of the images."""

import dataclasses
import importlib
import inspect
import pkgutil
import typing

import numpy as np
import pytest
import torch
from PIL import Image

import ziggurat.data
from support.small_runs import SCENES
from ziggurat.config import DataConfig, DigitsConfig, MembersConfig, RunConfig, override
from ziggurat.data.dataset import CanLeaveOut, Dataset, DecodesInParts, KnowsCrowds
from ziggurat.data.digits import DigitLabels, DigitScenes
from ziggurat.data.readers.images import KnowsBlanks, ReadsLevels, ReadsWindows
from ziggurat.data.selected import OF_AN_IMAGE, SelectedImages
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import find_task
from ziggurat.training.members import (
    Known,
    config_of_member,
    fold_images,
    fold_of_member,
    of_member,
    training_images,
)


def members(how, member, count=3, seed=5):
    return MembersConfig(count, how, "all" if member < 0 else str(member), str(seed))


@pytest.mark.parametrize("num_images", [3, 10, 101])
def test_parts_are_disjoint_and_folds_are_what_is_left(num_images):
    parts = [training_images(num_images, members("disjoint", member)) for member in range(3)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for member in range(3):
        kept, held = (
            choose(num_images, members("folds", member)) for choose in (training_images, fold_images)
        )
        assert held.tolist() == parts[member].tolist()
        assert sorted([*kept, *held]) == list(range(num_images))


@pytest.mark.parametrize("seed", range(3))
def test_stratified_parts_have_each_class_as_often_as_the_whole(seed):
    """Of 40, 12, 6 and 3 images of four classes each of three parts has a third, and one image more at most; by chance it has not."""
    labels = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2, 3], [40, 12, 6, 3])).tolist()
    classes = [{label} for label in labels]
    by_chance, stratified = (
        [training_images(61, members("disjoint", member, seed=seed), given) for member in range(3)]
        for given in (Known(), Known(classes))
    )
    assert sorted(np.concatenate(stratified).tolist()) == list(range(61))
    assert sorted(map(len, stratified)) == [20, 20, 21]

    def counts(parts):
        return np.array([np.bincount([labels[image] for image in part], minlength=4) for part in parts])

    assert np.ptp(counts(stratified), axis=0).max() <= 1
    assert np.ptp(counts(by_chance), axis=0).max() > 1
    other = training_images(61, members("disjoint", 0, seed=seed + 9), Known(classes))
    assert other.tolist() != stratified[0].tolist(), "keyed"
    held = fold_images(61, members("folds", 0, seed=seed), Known(classes))
    assert held.tolist() == stratified[0].tolist()


def test_images_with_several_classes_or_none_are_dealt_out_by_the_rarest():
    """Two classes occur together only: no part can do without what the other needs."""
    classes = [{0, 1}, {0, 1}, {0}, {0}, {0}, {0}, set(), set()]
    parts = [
        training_images(8, members("disjoint", member, count=2), Known(classes)).tolist()
        for member in range(2)
    ]
    assert [len(part) for part in parts] == [4, 4]
    for part in parts:
        assert [sum(label in classes[image] for image in part) for label in (0, 1)] == [3, 1]


def test_members_of_every_task_know_their_classes():
    for task, boxes in (("classify", 1), ("detect", 2), ("segment", 2)):
        scenes = override(
            RunConfig(),
            {
                "digits.count_min": boxes,
                "digits.count_max": boxes,
                "digits.size": 64,
                "digits.train_scenes": 12,
            },
        )
        dataset = open_dataset("digits", "train", task, scenes.data, scenes.digits)
        kind = find_task(task).targets
        parts = [
            of_member(dataset, dataclasses.replace(members("disjoint", n, count=2), stratify="classes"), kind)
            for n in range(2)
        ]
        assert [len(part) for part in parts] == [6, 6]
        assert "(members.data=disjoint, stratified by classes)" in parts[0].notes[-1]
    with pytest.raises(
        UserError, match=r"members\.stratify=classes needs targets whose classes can be counted"
    ):
        of_member(dataset, dataclasses.replace(members("disjoint", 0), stratify="classes"), None)


def test_a_bootstrap_sample_is_as_large_as_the_data_and_has_two_thirds_of_them():
    samples = [training_images(3000, members("bootstrap", member)) for member in range(3)]
    for sample in samples:
        assert len(sample) == 3000
        assert len(np.unique(sample)) / 3000 == pytest.approx(1 - np.exp(-1), abs=0.02)
    assert not (samples[0] == samples[1]).all()


def test_each_member_has_a_seed_of_its_own_and_one_in_common():
    config = override(RunConfig(), {"seed": 3, "members.count": 3})
    own = [config_of_member(config, member) for member in range(3)]
    assert {one.members.key for one in own} == {3}
    assert len({3, *(one.seed for one in own)}) == 4
    other = config_of_member(override(config, {"seed": 4}), 0)
    assert other.seed not in {one.seed for one in own}


def protocols_of_data():
    for info in pkgutil.walk_packages(ziggurat.data.__path__, "ziggurat.data."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, type) and typing.Protocol in value.__bases__:
                yield value


def test_all_that_a_data_set_may_be_asked_of_an_image_is_passed_on():
    asked = {
        name
        for protocol in protocols_of_data()
        for name, method in vars(protocol).items()
        if inspect.isfunction(method) and list(inspect.signature(method).parameters)[:2] == ["self", "index"]
    }
    assert {"record", "window", "mask", "crowd", "blank"} <= asked
    assert asked <= set(OF_AN_IMAGE)


def test_selected_images_are_those_of_the_data_set(tmp_path):
    for number in range(5):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("RGB", (8 + number, 9), (number, 0, 0)).save(tmp_path / "a" / f"{number}.png")
    (tmp_path / "b").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / "9.png")
    whole = open_dataset(str(tmp_path), "train", "classify", DataConfig(), DigitsConfig())
    some = SelectedImages(whole, [4, 1, 1, 5])
    for protocol in (CanLeaveOut, ReadsWindows, ReadsLevels, KnowsBlanks, DecodesInParts):
        assert isinstance(some, protocol) == isinstance(whole, protocol), protocol
    assert not isinstance(some, KnowsCrowds)
    assert [some.record(index).name for index in range(4)] == [
        whole.record(index).name for index in (4, 1, 1, 5)
    ]
    assert torch.equal(some.image(1), whole.image(1))
    assert [some.label(index) for index in range(4)] == [0, 0, 0, 1]
    rest = some.without({1: "broken"})
    assert [rest.record(index).name for index in range(len(rest))] == [
        whole.record(index).name for index in (4, 5)
    ]
    assert len(rest.left_out) == 1
    assert "broken" in rest.left_out[0].fault


def test_the_data_of_members_are_parts_of_the_data():
    data = DigitLabels(SCENES, "train")
    whole: Dataset = of_member(data, members("all", 1))
    assert whole is data
    assert of_member(data, members("disjoint", -1)) is data
    names = [
        {dataset.record(index).name for index in range(len(dataset))}
        for member in range(3)
        for dataset in (
            of_member(data, members("folds", member)),
            fold_of_member(data, members("folds", member)),
        )
    ]
    for kept, held in zip(names[::2], names[1::2], strict=True):
        assert not kept & held
        assert len(kept | held) == len(data)
    assert "is trained on 8 of 8 images" in of_member(data, members("bootstrap", 0)).notes[0]
    with pytest.raises(UserError, match=r"an image for each member: got 8 images and members\.count=9"):
        of_member(DigitScenes(SCENES, "train"), members("disjoint", 0, count=9))

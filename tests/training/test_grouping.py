"""Groups of images that no two parts share: by property, against scikit-learn, and as users name them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from support.small_runs import SCENES
from ziggurat.config import DataConfig, DigitsConfig, MembersConfig, RunConfig, override, range_faults
from ziggurat.data.digits import DigitLabels
from ziggurat.errors import UserError
from ziggurat.tasks.opening import open_dataset
from ziggurat.training.grouping import grouped_parts, groups_of, read_table
from ziggurat.training.members import Known, fold_images, of_member, training_images


def members(member=0, count=3, groups="folder", **more):
    return MembersConfig(count, "folds", str(member), "5", groups=groups, **more)


@st.composite
def grouped(draw):
    groups = draw(st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=40))
    count = (
        draw(st.integers(2, 6).filter(lambda parts: parts <= len(set(groups)))) if len(set(groups)) > 1 else 1
    )
    labels = st.sets(st.integers(0, 3), max_size=2)
    classes = draw(st.none() | st.lists(labels, min_size=len(groups), max_size=len(groups)))
    return groups, count, classes


@given(grouped(), st.integers(0, 1 << 32))
def test_a_group_is_never_divided_and_no_part_is_empty(case, seed):
    groups, count, classes = case
    order = np.random.default_rng(seed).permutation(len(groups))
    parts = grouped_parts(order, groups, count, classes)
    assert sorted(image for part in parts for image in part) == list(range(len(groups)))
    assert all(parts)
    of_parts = [{groups[image] for image in part} for part in parts]
    assert sum(map(len, of_parts)) == len(set(groups))
    known = Known(classes, groups)
    for member in range(count if count > 1 else 0):
        config = MembersConfig(count, "folds", str(member), str(seed))
        kept, held = (
            choose(len(groups), config, known).tolist() for choose in (training_images, fold_images)
        )
        assert sorted(kept + held) == list(range(len(groups)))
        assert not {groups[image] for image in kept} & {groups[image] for image in held}


def by_sklearn(splitter, labels, groups):
    return [held.tolist() for _, held in splitter.split(np.zeros(len(labels)), labels, groups)]


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_as_even_as_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 30, 25)
    groups = np.repeat([f"{number:02d}" for number in range(25)], sizes)
    ours = grouped_parts(range(len(groups)), groups.tolist(), 5)
    theirs = by_sklearn(GroupKFold(5), groups, groups)
    assert sorted(map(len, ours)) == sorted(map(len, theirs))


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_as_even_as_those_of_scikit_learn(seed):
    """Groups have tastes of their own; how far a class's share of a part is from its share of the whole, over all of both."""
    generator = np.random.default_rng(seed)
    groups = np.repeat([f"{number:02d}" for number in range(40)], generator.integers(2, 15, 40))
    tastes = {group: generator.dirichlet([0.5, 0.3, 0.1]) for group in np.unique(groups)}
    labels = np.array([generator.choice(3, p=tastes[group]) for group in groups])

    def unevenness(parts):
        counts = np.array([np.bincount(labels[part], minlength=3) for part in parts])
        return float(np.std(counts / counts.sum(0), axis=0).mean())

    ours = grouped_parts(
        generator.permutation(len(groups)), groups.tolist(), 5, [{label} for label in labels.tolist()]
    )
    plain = grouped_parts(range(len(groups)), groups.tolist(), 5)
    theirs = by_sklearn(StratifiedGroupKFold(5), labels, groups)
    assert unevenness(ours) < unevenness(plain)
    assert unevenness(ours) < 1.5 * unevenness(theirs)
    assert max(map(len, ours)) < 1.3 * len(groups) / 5


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """Four flights of three images each, of two classes."""
    folder = tmp_path_factory.mktemp("flights")
    for number in range(12):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(place / f"flight{number // 3}_{number}.png")
    return folder


def opened(folder):
    return open_dataset(str(folder), "train", "classify", DataConfig(), DigitsConfig())


def test_groups_are_named_by_a_pattern_a_folder_or_a_column(flights, tmp_path):
    dataset = opened(flights)
    names = [dataset.record(index).name for index in range(12)]
    by_pattern = groups_of(dataset, members(groups="regex:(flight[0-9])_"))
    assert by_pattern == [name.rpartition("/")[2].partition("_")[0] for name in names]
    assert groups_of(dataset, members(groups="regex:flight[0-9]")) == by_pattern
    assert groups_of(dataset, members(count=2)) == [str((flights / name).parent) for name in names]
    table = tmp_path / "flights.csv"
    rows = [f"{name.rpartition('/')[2]};{group};x" for name, group in zip(names, by_pattern, strict=True)]
    table.write_text("\n".join(["\ufefffile_name;Flight;more", *rows]))
    assert groups_of(dataset, members(groups=f"{table}:Flight")) == by_pattern
    assert groups_of(dataset, members(groups="")) is None
    held = of_member(dataset, members(0, groups=f"{table}:Flight"))
    assert f"(members.data=folds, in groups by {table}:Flight)" in held.notes[-1]


def test_what_cannot_be_grouped_is_one_sentence(flights, tmp_path):
    dataset = opened(flights)
    table = tmp_path / "t.csv"
    table.write_text("image,flight\nflight0_0.png,a\nflight0_0.png,b\n")
    (tmp_path / "broken").write_bytes(b"\xff\xfe\x00")
    for groups, fault in {
        "regex:flight0": r"must give each image a group: it has none for .*, .*, .* and 6 more; change it",
        "regex:flight": r"a group for each member at least: got 1 of 12 images and members\.count=3",
        "folder": "got 2 of 12 images",
        f"{table}:flight": "must have each image in one group: flight0_0.png is in a and in b; mend the table",
        f"{table}:flights": r"must name a table with a column flights: it has image, flight; did you mean 'flight'\?",
        f"{tmp_path}/none.csv:flight": "names a table that cannot be read: No such file",
        f"{tmp_path}/broken:flight": "names a table that cannot be read: it is not UTF-8",
        f"{tmp_path}:flight": "names a table that cannot be read: Is a directory",
    }.items():
        with pytest.raises(UserError, match=fault) as caught:
            groups_of(dataset, members(groups=groups))
        assert len(caught.value.faults) == 1
    table.write_text("picture,flight\na,b\n")
    with pytest.raises(UserError, match="a column of images, such as image_path: it has picture, flight"):
        read_table(table, "flight")
    with pytest.raises(UserError, match="got 1 of 8 images"):
        groups_of(DigitLabels(SCENES, "train"), members())


@pytest.mark.parametrize(
    "groups", ["regex:", "regex:(", "regex:" + "(" * 2000, "folders", ":a", "a.csv:", " : "]
)
def test_a_bad_setting_is_refused_by_its_rule(groups):
    config = override(RunConfig(), {"members.count": 3, "members.data": "folds"})
    config = dataclasses.replace(config, members=dataclasses.replace(config.members, groups=groups))
    (fault,) = range_faults(config)
    assert fault.startswith("members.groups must be empty, folder, regex:PATTERN")

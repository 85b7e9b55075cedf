"""Metrics by how frequent classes are: LVIS's bounds, thirds of few classes, and what `check` and `evaluate` say."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from support.commands import run_here, sets
from ziggurat.cli.main import main
from ziggurat.commands.check import check
from ziggurat.config import DataConfig
from ziggurat.errors import UserError
from ziggurat.metrics.frequency import by_frequency, frequency_groups
from ziggurat.runs.folder import load_run

SHORT = [
    "--task", "classify", "--model", "pnn", "--threads", 1, "--batch-size", 4, "--steps", 2,
    *sets({
        "train.warmup": 0, "train.report": "numbers", "data.crop": 32, "data.resize": 32, "data.workers": 0, "device": "cpu",
        "model.pnn.channels": 4, "digits.size": 32, "digits.height_max": 28, "digits.count_max": 1, "digits.count_min": 1,
        "digits.train_scenes": 12, "digits.val_scenes": 12, "digits.imbalance": 50, "data.count_classes": "always",
    }),
]  # fmt: skip


def test_lvis_bounds_from_a_hundred_classes_on():
    images = [10, 11, 100, 101] * 25
    groups = frequency_groups(images)
    assert [images[label] for label in groups["rare"]] == [10] * 25
    assert {images[label] for label in groups["common"]} == {11, 100}
    assert [images[label] for label in groups["frequent"]] == [101] * 25
    assert frequency_groups([5] * 100) == {"rare": tuple(range(100)), "common": (), "frequent": ()}


def test_thirds_of_few_classes():
    assert frequency_groups([50, 3, 1, 7, 1, 90, 8, 2, 6, 60]) == {
        "rare": (2, 4, 7), "common": (1, 3, 6, 8), "frequent": (0, 5, 9),
    }  # fmt: skip


@pytest.mark.parametrize("images", [[], [0, 0, 0], [1, 900], [100, 21, 50], [5, 5, 5, 5]])
def test_nothing_is_rare(images):
    assert frequency_groups(images) == {}


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=3, max_size=130))
def test_each_class_is_in_one_group_and_rare_ones_have_the_fewest_images(images):
    groups = frequency_groups(images)
    if groups:
        assert sorted(label for labels in groups.values() for label in labels) == list(range(len(images)))
        ordered = [[images[label] for label in groups[name]] for name in ("rare", "common", "frequent")]
        for fewer, more in itertools.pairwise(ordered):
            assert max(fewer, default=0) <= min(more, default=1000)


def test_means_leave_out_what_has_no_number():
    metrics = {"map": 0.3, "map_per_class": {"a": 0.5, "b": 0.25, "c": None}}
    found = by_frequency(metrics, {"map": "map_per_class"}, ("a", "b", "c"), [50, 9, 3])
    assert found == {"map_rare": None, "map_common": 0.25, "map_frequent": 0.5}
    assert by_frequency(metrics, {"map": "map_per_class"}, ("a", "b", "c"), ()) == {}


def test_a_run_tells_them_and_an_evaluation_of_its_folder_too(tmp_path):
    out = tmp_path / "run"
    trained = run_here("train", "digits", *SHORT, "--out", out)["metrics"]
    per_class, images = trained["per_class"], json.loads((out / "class_counts.json").read_text())["images"]
    assert sum(images) == 12
    assert load_run(out).frequency == tuple(images)
    rarest = sorted(range(10), key=lambda label: (images[label], label))[:3]
    known = [per_class[str(label)] for label in rarest if str(label) in per_class]
    assert trained["class_accuracy_rare"] == pytest.approx(sum(known) / len(known) if known else None)
    evaluated = run_here("evaluate", out, "digits", "--threads", 1)["metrics"]
    assert evaluated == trained
    assert "class_accuracy_rare" in json.loads((out / "report" / "metrics.json").read_text())["metrics"]
    (out / "class_counts.json").write_text('{"images": [1, 2]}')
    with pytest.raises(UserError, match=r"class_counts\.json must hold the images of each of 10 classes"):
        load_run(out)


def test_check_counts_boxes_and_masks_where_it_is_asked(tmp_path):
    rows = ["image_path,xmin,ymin,xmax,ymax,label"]
    for number in range(6):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,2,2,{10 + number},12,oak")
    rows += ["0.png,20,20,30,30,oak", "5.png,20,20,30,30,yew"]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    found = check(str(tmp_path / "train.csv"), DataConfig())
    assert found["ok"], found["faults"]
    assert found["balance"] == {
        "unit": "objects",
        "classes": {"oak": {"images": 6, "instances": 7}, "yew": {"images": 1, "instances": 1}},
        "ratio": 6.0,
        "is_unequal": True,
    }


def test_check_says_it(tmp_path, capfd):
    for name, count in (("oak", 5), ("yew", 1)):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(folder / f"{number}.png")
    main(["check", str(tmp_path)])
    said = capfd.readouterr().out
    assert "training images of each class: oak 5, yew 1\n" in said
    assert (
        "the most frequent class is in 5.0 times as many images as the rarest that occurs: docs/balance.md"
        in said
    )

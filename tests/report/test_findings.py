"""What an evaluation says, against its own metrics."""

import pytest

from support.faked import FAKES
from ziggurat.metrics.findings import BACKGROUND
from ziggurat.report.findings import numbers


@pytest.mark.parametrize(
    ("task", "unit", "name", "key"),
    [
        ("detect", "objects", "AP at IoU 0.5", "map50_per_class"),
        ("detect", "objects", "AP", "map_per_class"),
        ("classify", "images", "recall", "per_class"),
        ("segment", "pixels", "IoU", "per_class_iou"),
    ],
)
def test_per_class_numbers_are_those_of_the_metrics(task, unit, name, key):
    dataset, evaluation, *_ = FAKES[task](12)
    found = numbers(evaluation.metric.findings(evaluation.metrics))
    assert set(found["classes"]) == set(dataset.classes)
    for label, value in evaluation.metrics[key].items():
        assert found["classes"][label][name] == (None if value is None else pytest.approx(value, abs=1e-12))
    total = sum(row[unit] for row in found["classes"].values())
    images = range(len(dataset))
    assert (
        total
        == {
            "detect": lambda: sum(len(dataset.objects(index)) for index in images),
            "classify": lambda: 12,
            "segment": lambda: 12 * 128 * 128,
        }[task]()
    )
    assert not any(isinstance(value, dict) for value in found["metrics"].values())


@pytest.mark.parametrize("task", FAKES)
def test_what_is_confused_most_comes_first(task):
    _, evaluation, *_ = FAKES[task](12)
    findings = evaluation.metric.findings(evaluation.metrics)
    rows = numbers(findings)["confused"]
    counts = [row[findings.unit] for row in rows]
    assert counts == sorted(counts, reverse=True)
    assert all(row["true"] != row["predicted"] for row in rows)
    wrong = findings.confusion.sum() - findings.confusion.trace()
    assert 0 < sum(counts) <= wrong
    assert sum(counts) == wrong or len(rows) == 50
    assert (BACKGROUND in findings.labels) == (task == "detect")


def test_richness_is_what_there_is_on_an_image():
    for task, expected in (("detect", 4), ("classify", 1), ("segment", 5)):
        _, evaluation, *_ = FAKES[task](4)
        richness = [evaluation.metric.findings(evaluation.metrics).richness(index) for index in range(4)]
        assert max(richness) >= expected - 1
        assert min(richness) >= 1

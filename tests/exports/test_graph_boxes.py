"""Decoding in tensors of fixed extents finds what `Decoder` finds, without any export."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ziggurat.config import DecodeConfig, ModelConfig, RunConfig
from ziggurat.data.detections import Detections
from ziggurat.errors import UserError
from ziggurat.models.build import build_model
from ziggurat.tasks.detection.graph import GraphBoxes, best_by_keys, compare_detections, padded_detections
from ziggurat.tasks.registry import make_task

HEADS = ("fcos", "retinanet", "atss")


@pytest.fixture(scope="module")
def networks():
    config = {"channels": 16, "levels": "p3-p5", "head_depth": 1}
    return {
        head: build_model(ModelConfig(name=f"{head}-test_resnet-fpn", **config), 3).eval() for head in HEADS
    }


def outputs_of(model, rows, columns, seed, steps):
    """Return outputs of a head, of a few values each: scores are often equal."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(channels, size):
        return torch.randint(-steps, steps + 1, (2, channels, *size), generator=generator) / max(1, steps) * 3

    terms = {
        "classes": 3 * model.num_anchors,
        "boxes": 4 * model.num_anchors,
        "centerness": model.num_anchors,
    }
    if model.head_kind == "retinanet":
        del terms["centerness"]
    return {
        name: {
            term: drawn(channels, size).abs() if term == "boxes" and model.head_kind == "fcos" else drawn(channels, size)
            for term, channels in terms.items()
        }
        for name, size in model.level_sizes(rows, columns).items()
    }  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(number=st.integers(1, 90), share=st.floats(0, 1), steps=st.integers(1, 40), seed=st.integers(0, 999))
def test_the_best_by_keys_are_those_of_a_stable_sort(number, share, steps, seed):
    count = max(1, round(share * number))
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-1, steps, (3, number), generator=generator).float() / steps
    values, index = best_by_keys(scores, count)
    sorted_values, order = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, sorted_values[:, :count])
    assert torch.equal(index, order[:, :count])


def test_more_candidates_than_can_be_ordered_are_refused(networks):
    decode = DecodeConfig(candidates=16_000)
    with pytest.raises(UserError, match=r"at most 15446 .* over 3 levels.*or export to pt2"):
        GraphBoxes(networks["fcos"], decode, "onnx")
    GraphBoxes(networks["fcos"], decode, "torch")


@pytest.mark.parametrize("head", HEADS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), seed=st.integers(0, 999), steps=st.sampled_from([0, 1, 3, 1000]),
    candidates=st.sampled_from([1, 7, 60]), most=st.sampled_from([1, 5, 300]), threshold=st.sampled_from([0.0, 0.3, 0.95]),
    overlap=st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
def test_the_same_boxes_in_the_same_order(
    networks, head, rows, columns, seed, steps, candidates, most, threshold, overlap
):
    model = networks[head]
    decode = DecodeConfig(threshold, overlap, candidates, most)
    rows, columns = 32 * rows, 32 * columns
    outputs = outputs_of(model, rows, columns, seed, steps)
    sizes = [(rows, columns), (rows - 31, columns - 5)]
    expected = make_task(model, RunConfig(decode=decode)).decode(outputs, sizes)
    found = padded_detections(GraphBoxes(model, decode, "torch")(outputs, torch.tensor(sizes)))
    for ours, theirs in zip(expected, found, strict=True):
        for name in ("boxes_xyxy", "scores", "labels"):
            torch.testing.assert_close(getattr(theirs, name), getattr(ours, name), rtol=0, atol=0)
        assert (theirs.num_cut, theirs.candidates_cut) == (ours.num_cut, ours.candidates_cut)
        assert theirs.best_cut == pytest.approx(ours.best_cut)


def test_what_lies_behind_the_count_is_nothing(networks):
    model = networks["fcos"]
    outputs = outputs_of(model, 64, 64, 0, 1000)
    graph = GraphBoxes(model, DecodeConfig(score_threshold=0.7), "torch")(
        outputs, torch.tensor([[64, 64]] * 2)
    )
    count = int(graph["count"][0])
    assert 0 < count < graph["labels"].shape[1]
    assert set(graph["labels"][0, count:].tolist()) == {-1}
    assert not graph["boxes_xyxy"][0, count:].any()
    assert not graph["scores"][0, count:].any()


def test_more_candidates_than_a_graph_is_padded_to_are_refused(networks):
    with pytest.raises(UserError, match=r"decode\.candidates is at most 20000"):
        GraphBoxes(networks["fcos"], DecodeConfig(candidates=20_001), "torch")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"scores": torch.tensor([0.90009, 0.5])}, True),
        ({"scores": torch.tensor([0.90011, 0.5])}, False),
        ({"boxes_xyxy": torch.tensor([[0.0, 0, 10.04, 10], [5, 5, 9, 9]])}, True),
        ({"boxes_xyxy": torch.tensor([[0.0, 0, 10.06, 10], [5, 5, 9, 9]])}, False),
        ({"labels": torch.tensor([1, 3])}, False),
    ],
)
def test_when_two_lists_are_the_same(change, same):
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 5, 9, 9]])
    facts = {"boxes_xyxy": boxes, "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([1, 2])}
    ours, theirs = Detections(**facts), Detections(**(facts | change))
    for one, other in ((ours, theirs), (theirs, ours)):
        assert compare_detections(one, other).same == same


def test_one_that_is_lost_or_added_is_said():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    two = Detections(boxes, torch.tensor([0.9, 0.9]), torch.tensor([1, 1]))
    one = Detections(boxes[:1], two.scores[:1], two.labels[:1])
    assert compare_detections(two, one).said.startswith("lost: class 1, score 0.90000")
    assert compare_detections(one, two).said.startswith("added: class 1, score 0.90000")

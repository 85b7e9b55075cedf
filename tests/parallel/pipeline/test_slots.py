"""Messages in slots: no circle of workers that wait for each other is possible, and the bits are those of messages as they come."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.local_stages import Skips, weighted_sum
from support.ranks import run_ranks
from support.streams import Op, batches_of, stuck
from ziggurat.parallel.branches.branches import Branches, cut_to_pieces, timetable_of
from ziggurat.parallel.branches.placement import Placement
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.costs import CallCost, call_names
from ziggurat.parallel.graph.stages import Stage
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.pipeline.crossings import Crossings
from ziggurat.parallel.pipeline.pipeline import Pipeline, Work
from ziggurat.parallel.pipeline.schedules import forward_only, make_schedule, num_stages
from ziggurat.parallel.pipeline.slots import slots_of

SCHEDULES = ("gpipe", "1f1b", "interleaved")


def chain(count, skips=()):
    """Return stages of which each sends to the next, and some over several."""
    stages = [Stage(number, number) for number in range(count)]
    for source, target in sorted({*itertools.pairwise(range(count)), *skips}):
        stages[source].sends[target] = stages[target].receives[source] = [(source, 0)]
    return stages


@pytest.mark.parametrize("schedule", [*SCHEDULES, "inference"])
@pytest.mark.parametrize(("workers", "count"), list(itertools.product(range(2, 6), range(1, 10))))
def test_every_schedule_ends_on_one_stream_in_order(schedule, workers, count):
    stages = num_stages("interleaved" if schedule == "inference" else schedule, workers)
    crossings = Crossings([chain(stages)] * count, workers)
    inference = schedule == "inference"
    orders = forward_only(workers, stages, count) if inference else make_schedule(schedule, workers, count)
    tables = crossings.timetable(orders)
    assert not stuck(batches_of(tables))
    assert [[slot.action for slot in table if slot.action is not None] for table in tables] == orders


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_skips_that_differ_from_microbatch_to_microbatch(data):
    workers, count = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 6))
    schedule = data.draw(st.sampled_from(SCHEDULES))
    total = num_stages(schedule, workers)
    pairs = st.sampled_from(list(itertools.combinations(range(total), 2)))
    stages = [chain(total, data.draw(st.sets(pairs, max_size=6))) for _ in range(count)]
    tables = Crossings(stages, workers).timetable(make_schedule(schedule, workers, count))
    assert not stuck(batches_of(tables, is_long=lambda name: hash(name) % 3 == 0))


@pytest.fixture(scope="module")
def graph():
    return Tracer(Skips().double()).trace(spec_of(torch.zeros(2, 3, 6, 8, dtype=torch.float64)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_placement_of_branches_ends(graph, data):
    workers = data.draw(st.integers(2, 4))
    others = data.draw(
        st.lists(st.integers(0, workers - 1), min_size=len(graph.calls) - 1, max_size=len(graph.calls) - 1)
    )
    pieces = cut_to_pieces(graph, Placement((0, *others), (0.0,) * workers, 0.0))
    for backward in (False, True):
        tables = timetable_of(pieces, workers, backward)
        assert not stuck(batches_of(tables))
        done = sorted(slot.action for table in tables for slot in table if slot.action is not None)
        assert done == list(range(len(pieces.pieces)))


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved"])
def test_one_by_one_they_would_wait_for_each_other_for_ever(schedule):
    """What the slots are for: each send and each receive of its own, on one stream, as the actions come."""
    workers, count = 3, 6
    crossings = Crossings([chain(num_stages(schedule, workers))] * count, workers)
    streams = []
    for worker, order in enumerate(make_schedule(schedule, workers, count)):
        streams.append([])
        for action in order:
            for need in crossings.needs(action):
                received = [name for target, name in crossings.messages(need) if target == worker]
                streams[-1] += [
                    [Op("receive", crossings.worker(need.stage), name)]
                    for name in received
                    if name[1][2] == action.stage
                ]
            streams[-1] += [[Op("send", target, name)] for target, name in crossings.messages(action)]
    assert stuck(streams)


def test_orders_that_wait_for_each_other_are_named():
    with pytest.raises(ValueError, match="the orders never end: a, b wait for each other"):
        slots_of([["a"], ["b"]], {"a": "b", "b": "a"}.get)


def pipelined(workers, schedule, images, cut, in_slots):
    torch.manual_seed(0)
    model = Skips().double().train()
    pipeline = Pipeline(model, Tracer(model), cut, workers, schedule, in_slots=in_slots)
    work = Work(len(images), images.__getitem__, lambda o, i: weighted_sum(o), lambda i: torch.manual_seed(i))
    for _ in range(2):
        _, losses = pipeline.step(work)
    found = pipeline.infer(Work(len(images), images.__getitem__))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    outputs = {index: one.joined if hasattr(one, "joined") else one[0] for index, one in found.items()}
    return losses, gradients, outputs, pipeline.channel.bytes_sent


def branched(workers, images, in_slots):
    torch.manual_seed(0)
    model = Skips().double().train()
    tracer = Tracer(model)
    costs = {name: CallCost(1.0) for one in images for name in call_names(tracer.trace(spec_of(one)))}
    branches = Branches(model, tracer, costs, workers, in_slots=in_slots)
    work = Work(len(images), images.__getitem__, lambda o, i: weighted_sum(o), lambda i: torch.manual_seed(i))
    _, losses = branches.step(work)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, {}, branches.channel.bytes_sent


def images_of(count):
    generator = torch.Generator().manual_seed(5)
    sizes = [(2, 3, 6, 8 + index % 2) for index in range(count)]
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def assert_same_bits(one, other):
    for mine, theirs in zip(one, other, strict=True):
        assert mine[3] == theirs[3], "as many bytes"
        for named, wanted in zip(mine[:3], theirs[:3], strict=True):
            assert named.keys() == wanted.keys()
            assert all(torch.equal(named[key], wanted[key]) for key in named)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("schedule", "workers", "cut"),
    [
        ("gpipe", 2, ["down"]),
        ("1f1b", 3, ["down", "tied"]),
        ("interleaved", 2, ["shared", "down", "tied"]),
    ],
)
def test_in_slots_the_bits_are_the_same(schedule, workers, cut):
    as_they_come, in_slots = (
        run_ranks(pipelined, workers, (schedule, images_of(5), cut, slotted)) for slotted in (False, True)
    )
    assert_same_bits(in_slots, as_they_come)


def test_in_slots_branches_have_the_same_bits():
    as_they_come, in_slots = (run_ranks(branched, 2, (images_of(3), slotted)) for slotted in (False, True))
    assert_same_bits(in_slots, as_they_come)


def test_one_worker_has_slots_without_messages():
    images = images_of(2)
    one, other = (pipelined(Workers(), "gpipe", images, [], slotted) for slotted in (False, True))
    assert_same_bits([one], [other])

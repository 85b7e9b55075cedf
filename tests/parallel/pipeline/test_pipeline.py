"""The pipeline on several workers, against the same microbatches on one."""

import copy
import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import nn

from support.local_stages import Skips, weighted_sum
from support.ranks import run_ranks
from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.stages import find_places, make_stages, state_names
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.parallel.pipeline.messages import Channel, Message
from ziggurat.parallel.pipeline.pipeline import Pipeline, Work
from ziggurat.parallel.pipeline.schedules import make_schedule, num_stages
from ziggurat.parallel.pipeline.simulation import peak_alive
from ziggurat.verification.memory import PeakBytes

CUTS = {
    2: ["down"],
    3: ["down", "tied"],
    4: ["shared", "down", "tied"],
    6: ["stem.1", "act", "shared", "down", "tied"],
}


def batches(count, uneven=True, sizes=(8, 9)):
    """Return microbatches of changing sizes, the last one smaller."""
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(
            1 if uneven and index == count - 1 else 2, 3, 6, sizes[index % len(sizes)],
            generator=generator, dtype=torch.float64,
        )
        for index in range(count)
    ]  # fmt: skip


def make_model():
    torch.manual_seed(0)
    return Skips().double().train()


def single_step(model, images):
    """Return loss and gradients of each microbatch, one after the other."""
    losses, leaves = [], []
    for index, one in enumerate(images):
        torch.manual_seed(100 + index)
        loss = weighted_sum(model(one))
        loss.backward()
        losses.append(float(loss.detach()))
        leaves.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        model.zero_grad(set_to_none=True)
    return losses, leaves


def pipeline_step(workers, schedule, images, cut, repeats=1):
    """Return losses, gradients of each microbatch and stage, and what was alive."""
    model = make_model()
    pipeline = Pipeline(model, Tracer(model), cut, workers, schedule)
    leaves = {}

    @contextmanager
    def leaf(stage, index):
        yield
        leaves[stage, index] = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)

    work = Work(
        count=len(images),
        images=images.__getitem__,
        loss=lambda outputs, index: weighted_sum(outputs),
        begin=lambda index: torch.manual_seed(100 + index),
        leaf=leaf,
    )
    for _ in range(repeats):
        _, losses = pipeline.step(work)
    losses = {index: float(loss) for index, loss in losses.items()}
    return losses, leaves, pipeline.peak_alive, len(pipeline.channel.sending)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
@pytest.mark.parametrize(("workers", "count"), [(2, 1), (2, 5), (3, 2), (3, 4), (4, 8)])
def test_every_schedule_gives_the_numbers_of_one_worker(schedule, workers, count):
    stages = num_stages(schedule, workers)
    if stages not in CUTS:
        pytest.skip(f"the network of this test is not cut into {stages}")
    images = batches(count)
    losses, leaves = single_step(make_model(), images)
    results = run_ranks(pipeline_step, workers, (schedule, images, CUTS[stages]))
    assert results[(stages - 1) % workers][0] == dict(enumerate(losses))
    for index, wanted in enumerate(leaves):
        got = {}
        for _, of_stages, _, _ in results:
            for stage in range(stages):
                for name, gradient in of_stages.get((stage, index), {}).items():
                    got[name] = got[name] + gradient if name in got else gradient
        assert got.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(got[name], gradient, rtol=1e-12, atol=1e-13)
    orders = make_schedule(schedule, workers, count)
    assert [alive for _, _, alive, _ in results] == [peak_alive(order) for order in orders]
    assert all(pending == 0 for *_, pending in results)


def changed_buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "shift" not in name}


def step_with_buffers(workers, schedule, images, cut, recompute):
    model = make_model()
    pipeline = Pipeline(model, Tracer(model), cut, workers, schedule, recompute=recompute)
    work = Work(
        len(images),
        images.__getitem__,
        lambda outputs, index: weighted_sum(outputs),
        lambda index: torch.manual_seed(100 + index),
    )
    _, losses = pipeline.step(work)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {i: float(loss) for i, loss in losses.items()}, gradients, changed_buffers(model)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
def test_what_is_computed_again_has_the_same_bits(schedule):
    """Dropout, a map that is overwritten in place, and batch norms, whose statistics see each microbatch once."""
    images, cut = batches(5), CUTS[num_stages(schedule, 2)]
    kept, again = (
        run_ranks(step_with_buffers, 2, (schedule, images, cut, recompute)) for recompute in (False, True)
    )
    alone = make_model()
    single_step(alone, images)
    for (losses, gradients, buffers), (other_losses, other_gradients, other_buffers) in zip(
        kept, again, strict=True
    ):
        assert losses == other_losses
        assert gradients.keys() == other_gradients.keys()
        assert all(torch.equal(gradients[name], other_gradients[name]) for name in gradients)
        assert all(torch.equal(buffers[name], other_buffers[name]) for name in buffers)
    for name, buffer in changed_buffers(alone).items():
        assert torch.equal(again[0][2][name], buffer), "the first worker has the batch norm"
    assert int(again[0][2]["stem.1.num_batches_tracked"]) == 5


def peak(recompute, count):
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()) for _ in range(10)))
    pipeline = Pipeline(model, Tracer(model), [], Workers(), "gpipe", recompute=recompute)
    images = [torch.randn(1, 4, 32, 32) for _ in range(count)]
    with PeakBytes(images) as memory:
        pipeline.step(Work(count, images.__getitem__, lambda outputs, index: outputs.sum()))
    return memory.peak


def test_what_is_computed_again_is_not_kept():
    """Of ten layers, each of which keeps a map: of 8 microbatches all of them, or one's and what the others end with."""
    one_map = 4 * 32 * 32 * 4
    assert peak(False, 8) > 8 * 10 * one_map
    assert (
        peak(True, 8) < (8 + 8 + 10 + 6) * one_map
    )  # images, outputs, the maps of one, gradients on their way


def test_the_last_stage_alone_has_losses_and_steps_repeat():
    images = batches(3)
    once, twice = (run_ranks(pipeline_step, 2, ("1f1b", images, ["down"], n)) for n in (1, 2))
    assert once[0][0] == {}
    assert len(once[1][0]) == 3
    for key, leaf in once[1][1].items():  # batch norm's running statistics do not matter in training
        assert all(torch.equal(leaf[name], twice[1][1][key][name]) for name in leaf)


def infer(workers, images):
    model = make_model().eval()
    pipeline = Pipeline(model, Tracer(model), ["down", "tied"], workers, "1f1b")
    outputs = pipeline.infer(Work(len(images), images.__getitem__))
    return {index: one.fine for index, one in outputs.items()}


def test_inference():
    images = batches(3)
    results = run_ranks(infer, 3, (images,))
    assert results[0] == results[1] == {}
    for index, one in enumerate(images):
        assert torch.equal(results[2][index], make_model().eval()(one).fine)


def without_weights(workers, images):
    """Be a worker that has the weights of its own stage only."""
    model = make_model()
    tracer = Tracer(model)
    graph = tracer.trace(spec_of(images[0]))
    stages = make_stages(graph, find_places(graph, ["down"]))
    own = state_names(stages, model)[workers.rank]
    for name, parameter in list(model.named_parameters()):
        if name not in own:
            owner, _, key = name.rpartition(".")
            setattr(model.get_submodule(owner), key, nn.Parameter(parameter.detach().to("meta")))
    pipeline = Pipeline(model, tracer, ["down"], workers)
    _, losses = pipeline.step(
        Work(
            len(images),
            images.__getitem__,
            lambda o, i: weighted_sum(o),
            lambda i: torch.manual_seed(100 + i),
        )
    )
    return {index: float(loss) for index, loss in losses.items()}


def test_a_worker_needs_the_weights_of_its_stages_only():
    images = batches(2)
    losses, _ = single_step(make_model(), images)
    assert run_ranks(without_weights, 2, (images,))[1] == dict(enumerate(losses))


def talk(workers, layout):
    channel = Channel(workers)
    tensors = {
        "maps": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last).requires_grad_(),
        "view": torch.arange(24).view(4, 6)[1:3, ::2],
        "wide": torch.ones(2, 1, dtype=torch.bool).expand(2, 3),
        "none": None,
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(3.5, dtype=torch.bfloat16),
    }  # fmt: skip
    note = "x" * layout
    if workers.rank == 0:
        channel.send(Message(tensors, note), 1)
        channel.flush()
        return True
    got = channel.receive(0)
    assert got.note == note
    assert list(got.tensors) == list(tensors)
    for name, tensor in tensors.items():
        if tensor is None:
            assert got.tensors[name] is None
            continue
        assert torch.equal(got.tensors[name], tensor)
        assert (got.tensors[name].dtype, got.tensors[name].requires_grad) == (
            tensor.dtype,
            tensor.requires_grad,
        )
    assert got.tensors["maps"].is_contiguous(memory_format=torch.channels_last)
    return True


@pytest.mark.parametrize("note", [3, 100_000])
def test_messages_carry_every_layout(note):
    assert run_ranks(talk, 2, (note,)) == [True, True]


def meet_a_death(workers, images, when):
    """The second worker ends in its first forward, or in its first backward."""
    model = make_model()
    pipeline = Pipeline(model, Tracer(model), ["down", "tied"], workers)

    def die(*numbers):
        if workers.rank == 1:
            raise InterruptedError("this worker ends")

    @contextmanager
    def leaf(stage, index):
        if when == "backward":
            die()
        yield

    begin = die if when == "forward" else (lambda index: None)
    work = Work(
        len(images), images.__getitem__, lambda outputs, index: weighted_sum(outputs), begin, leaf=leaf
    )
    try:
        pipeline.step(work)
    except InterruptedError:
        torch.distributed.destroy_process_group()  # closes its connections, as the end of a process does
        return "ended"
    except CollectiveFailed as error:
        return time.monotonic(), str(error)
    return "done"


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_dead_worker_is_named_by_the_others(when):
    first, second, third = run_ranks(partial(meet_a_death), 3, (batches(4), when))
    assert second == "ended"
    _, message = min(
        first, third
    )  # the other's may speak of the end of the one that spoke first, as a consequence
    assert message.startswith("worker 1 (number 1 of its axis) did not answer worker")
    assert {first[1].split(" (")[0], third[1].split(" (")[0]} <= {"worker 0", "worker 1", "worker 2"}


def test_a_cut_of_another_number_of_stages():
    model = make_model()
    with pytest.raises(ValueError, match="1 stages need 0 cuts: got 1"):
        Pipeline(model, Tracer(model), ["down"], Workers())


def test_one_worker_needs_no_process_group():
    images = batches(2)
    losses, _ = single_step(make_model(), images)
    model = copy.deepcopy(make_model())
    pipeline = Pipeline(model, Tracer(model), ["down"], Workers(), "interleaved")
    _, found = pipeline.step(
        Work(2, images.__getitem__, lambda o, i: weighted_sum(o), lambda i: torch.manual_seed(100 + i))
    )
    assert {index: float(loss) for index, loss in found.items()} == dict(enumerate(losses))

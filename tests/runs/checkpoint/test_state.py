"""What is written of a state is what comes back, in the same bits and the same memory format."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from support.ranks import run_ranks
from support.states import checkpoints_of, chunks_of, make_state
from ziggurat.config import TrainConfig
from ziggurat.errors import UserError
from ziggurat.runs.checkpoint import Progress, load_state
from ziggurat.runs.checkpoint.tensors import read_tensors, stored_tensors, write_tensors
from ziggurat.strategies.layout import Chunk
from ziggurat.strategies.state import TrainState
from ziggurat.training.optimization import make_optimizer


def written(folder, state):
    checkpoints = checkpoints_of(folder)
    checkpoints.save(Progress(3), chunks_of(state))
    checkpoints.wait()
    return folder / "step-3"


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("decay", [0.9, 0])
def test_the_state_comes_back_in_the_same_bits(tmp_path, name, decay):
    saved, loaded = make_state(name, 3, decay), make_state(name, 0, decay)
    load_state(written(tmp_path, saved), Progress(3, counters={"skipped_steps": 2}), loaded)
    expected, found = saved.tensors(), loaded.tensors()
    assert (loaded.step, loaded.counters) == (3, {"skipped_steps": 2})
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert all(expected[key].stride() == found[key].stride() for key in expected)
    assert all(expected[key].dtype == found[key].dtype for key in expected)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_next_step_has_the_same_bits(tmp_path, name):
    """The moments must have the layout of their weights: fused optimizers walk through both side by side."""
    saved, loaded = make_state(name, 3), make_state(name)
    load_state(written(tmp_path, saved), Progress(3), loaded)
    for state in (saved, loaded):
        torch.manual_seed(9)
        state.model(torch.randn(2, 3, 5, 5)).square().sum().backward()
        state.optimizer.step()
    assert all(map(torch.equal, saved.model.state_dict().values(), loaded.model.state_dict().values()))


def test_a_state_before_the_first_step_has_no_moments(tmp_path):
    loaded = make_state("adamw", 2)
    load_state(written(tmp_path, make_state("adamw")), Progress(0), loaded)
    assert not loaded.optimizer.state


def test_another_model_is_refused_and_left_as_it_is(tmp_path):
    folder = written(tmp_path, make_state("sgd", 1))
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    before = net[0].weight.clone()
    with pytest.raises(UserError, match=r"is of another model: it has average.0.bias besides"):
        load_state(folder, Progress(1), TrainState.start(net, make_optimizer(net, TrainConfig())))
    assert torch.equal(before, net[0].weight)


def test_what_is_no_tensor_is_refused():
    state = make_state("sgd", 1)
    state.optimizer.state[state.model[0].weight]["history"] = [1, 2]
    with pytest.raises(TypeError, match=r"0.weight has a list, history"):
        state.tensors()


def whole(part):
    """Return what a worker writes of tensors that it has whole."""
    return {name: Chunk.whole(tensor) for name, tensor in part.items()}


PARTS = [
    {"model.a": torch.arange(6.0).reshape(2, 3), "optimizer.a.step": torch.tensor(4.0)},
    {},
    {"model.b": torch.ones(0, 2)},
]


def test_each_worker_writes_its_part_and_any_reader_finds_all(tmp_path):
    files = [write_tensors(tmp_path, whole(part), rank) for rank, part in enumerate(PARTS)]
    assert [len(part) for part in files] == [2, 0, 1]
    assert all(file.suffix == ".safetensors" for file in tmp_path.iterdir()), "no pickle"
    every = {name: value for part in PARTS for name, value in part.items()}
    assert stored_tensors(tmp_path).keys() == every.keys()
    found = {name: torch.full_like(value, -1) for name, value in every.items()}
    read_tensors(tmp_path, found)
    assert all(torch.equal(found[name], value) for name, value in every.items())


@st.composite
def boxes(draw):
    """A shape, and boxes that cover it, as cuts along each dim leave them."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    cuts = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    ranges = [list(itertools.pairwise(cut)) for cut in cuts]
    return tuple(shape), list(itertools.product(*ranges))


@given(boxes())
@settings(max_examples=20, deadline=None)
def test_boxes_of_several_workers_become_one_tensor(tmp_path_factory, drawn):
    shape, cut = drawn
    folder = tmp_path_factory.mktemp("boxes")
    weight = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    bias, step = torch.tensor([7.0]), torch.tensor(3.0)
    for rank, box in enumerate(reversed(cut)):
        part = {"model.w": Chunk(weight[tuple(slice(*r) for r in box)], tuple(first for first, _ in box))}
        write_tensors(
            folder, part | (whole({"model.b": bias, "optimizer.w.step": step}) if not rank else {}), rank
        )
    facts = stored_tensors(folder)
    assert {name: one.shape for name, one in facts.items()} == {
        "model.w": shape, "model.b": (1,), "optimizer.w.step": (),
    }  # fmt: skip
    found = {name: torch.full(one.shape, -1.0) for name, one in facts.items()}
    read_tensors(folder, found)
    assert torch.equal(found["model.w"], weight)
    assert (found["model.b"], found["optimizer.w.step"]) == (bias, step)


def save_parts(workers, folder):
    """The first worker writes `shared`; each writes a tensor of its own."""
    checkpoints = checkpoints_of(folder, workers)
    own = {f"model.own{workers.rank}": torch.full((2, 2), float(workers.rank))}
    for step in (1, 2):
        checkpoints.save(
            Progress(step), whole(own | ({} if workers.rank else {"model.shared": torch.ones(3)}))
        )
    checkpoints.wait()
    return checkpoints.find().step


def test_several_workers_write_one_checkpoint(tmp_path):
    assert run_ranks(save_parts, 3, (tmp_path,)) == [2, 2, 2]
    for step in (1, 2):
        found = {"model.shared": torch.zeros(3)} | {
            f"model.own{rank}": torch.zeros(2, 2) for rank in range(3)
        }
        read_tensors(tmp_path / f"step-{step}", found)
        assert found["model.shared"].tolist() == [1, 1, 1]
        assert [int(found[f"model.own{rank}"][1, 1]) for rank in range(3)] == [0, 1, 2]

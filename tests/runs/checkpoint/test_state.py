"""What is written of a state is what comes back, in the same bits and the same memory format."""

import pytest
import torch
from torch import nn

from support.ranks import run_ranks
from support.states import checkpoints_of, make_state
from ziggurat.config import TrainConfig
from ziggurat.errors import UserError
from ziggurat.runs.checkpoint import Progress, load_training_state, training_state
from ziggurat.runs.checkpoint.tensors import Rows, read_tensors, stored_tensors, write_tensors
from ziggurat.training.optimization import make_optimizer


def written(folder, state):
    checkpoints = checkpoints_of(folder)
    checkpoints.save(Progress(3), training_state(*state))
    checkpoints.wait()
    return folder / "step-3"


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("decay", [0.9, 0])
def test_the_state_comes_back_in_the_same_bits(tmp_path, name, decay):
    saved, loaded = make_state(name, 3, decay), make_state(name, 0, decay)
    load_training_state(written(tmp_path, saved), *loaded)
    expected, found = training_state(*saved), training_state(*loaded)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert all(expected[key].stride() == found[key].stride() for key in expected)
    assert all(expected[key].dtype == found[key].dtype for key in expected)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_next_step_has_the_same_bits(tmp_path, name):
    """The moments must have the layout of their weights: fused optimizers walk through both side by side."""
    saved, loaded = make_state(name, 3), make_state(name)
    load_training_state(written(tmp_path, saved), *loaded)
    for net, _, optimizer in (saved, loaded):
        torch.manual_seed(9)
        net(torch.randn(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()
    assert all(map(torch.equal, saved[0].state_dict().values(), loaded[0].state_dict().values()))


def test_a_state_before_the_first_step_has_no_moments(tmp_path):
    loaded = make_state("adamw", 2)
    load_training_state(written(tmp_path, make_state("adamw")), *loaded)
    assert not loaded[2].state


def test_another_model_is_refused_and_left_as_it_is(tmp_path):
    folder = written(tmp_path, make_state("sgd", 1))
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU())
    before = net[0].weight.clone()
    with pytest.raises(UserError, match=r"is of another model: it has average.0.bias besides"):
        load_training_state(folder, net, net, make_optimizer(net, TrainConfig()))
    assert torch.equal(before, net[0].weight)


def test_what_is_no_tensor_is_refused():
    net, average, optimizer = make_state("sgd", 1)
    optimizer.state[net[0].weight]["history"] = [1, 2]
    with pytest.raises(TypeError, match=r"0.weight has a list, history"):
        training_state(net, average, optimizer)


PARTS = [
    {"model.a": torch.arange(6.0).reshape(2, 3), "optimizer.a.step": torch.tensor(4.0)},
    {},
    {"model.b": torch.ones(0, 2)},
]


def test_each_worker_writes_its_part_and_any_reader_finds_all(tmp_path):
    files = [write_tensors(tmp_path, part, rank) for rank, part in enumerate(PARTS)]
    assert [len(part) for part in files] == [2, 0, 1]
    assert all(file.suffix == ".safetensors" for file in tmp_path.iterdir()), "no pickle"
    every = {name: value for part in PARTS for name, value in part.items()}
    assert stored_tensors(tmp_path).keys() == every.keys()
    found = {name: torch.full_like(value, -1) for name, value in every.items()}
    read_tensors(tmp_path, found)
    assert all(torch.equal(found[name], value) for name, value in every.items())


def test_rows_of_several_workers_become_one_tensor(tmp_path):
    weight, bias, step = torch.arange(10.0).reshape(5, 2), torch.tensor([7.0]), torch.tensor(3.0)
    write_tensors(tmp_path, {"model.w": Rows(weight[3:], 3)}, 1)
    write_tensors(
        tmp_path, {"model.w": Rows(weight[:3], 0), "model.b": Rows(bias, 0), "optimizer.w.step": step}, 0
    )
    facts = stored_tensors(tmp_path)
    assert {name: one.shape for name, one in facts.items()} == {
        "model.w": (5, 2), "model.b": (1,), "optimizer.w.step": (),
    }  # fmt: skip
    found = {name: torch.full(one.shape, -1.0) for name, one in facts.items()}
    read_tensors(tmp_path, found)
    assert torch.equal(found["model.w"], weight)
    assert (found["model.b"], found["optimizer.w.step"]) == (bias, step)


def save_parts(workers, folder):
    """Every worker has `shared`; each has a tensor of its own."""
    checkpoints = checkpoints_of(folder, workers)
    own = torch.full((2, 2), float(workers.rank))
    for step in (1, 2):
        checkpoints.save(Progress(step), {"model.shared": torch.ones(3), f"model.own{workers.rank}": own})
    checkpoints.wait()
    return checkpoints.find().step, sorted(checkpoints._copies)


def test_several_workers_write_one_checkpoint(tmp_path):
    results = run_ranks(save_parts, 3, (tmp_path,))
    assert results == [(2, ["model.own0", "model.shared"]), (2, ["model.own1"]), (2, ["model.own2"])]
    for step in (1, 2):
        found = {"model.shared": torch.zeros(3)} | {
            f"model.own{rank}": torch.zeros(2, 2) for rank in range(3)
        }
        read_tensors(tmp_path / f"step-{step}", found)
        assert found["model.shared"].tolist() == [1, 1, 1]
        assert [int(found[f"model.own{rank}"][1, 1]) for rank in range(3)] == [0, 1, 2]

"""Checkpoints: what is written is what comes back, and a half-written one is never loaded."""

import pytest
import torch
from torch import nn

from ziggurat.checkpoint import KEEP, load_checkpoint, newest_step, save_checkpoint
from ziggurat.config import TrainConfig
from ziggurat.errors import UserError
from ziggurat.optimization import WeightAverage, make_optimizer


def make_state(name, steps=0):
    torch.manual_seed(steps)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(net, TrainConfig(optimizer=name))
    average = WeightAverage(net, 0.9)
    for step in range(steps):
        net(torch.randn(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
    return net, average.model, optimizer


def tensors(net, average, optimizer):
    state = optimizer.state_dict()["state"]
    moments = {f"{k}.{n}": v for k, values in state.items() for n, v in values.items() if v is not None}
    return {**net.state_dict(), **{f"ema.{n}": v for n, v in average.state_dict().items()}, **moments}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_state_comes_back_in_the_same_bits(tmp_path, name):
    saved = make_state(name, steps=3)
    save_checkpoint(tmp_path, 3, *saved)
    loaded = make_state(name)
    load_checkpoint(tmp_path, newest_step(tmp_path), *loaded)
    expected, found = tensors(*saved), tensors(*loaded)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert all(expected[key].stride() == found[key].stride() for key in expected)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_next_step_has_the_same_bits(tmp_path, name):
    """The moments must have the layout of their weights: fused optimizers walk through both side by side."""
    saved = make_state(name, steps=3)
    save_checkpoint(tmp_path, 3, *saved)
    loaded = make_state(name)
    load_checkpoint(tmp_path, 3, *loaded)
    for net, _, optimizer in (saved, loaded):
        torch.manual_seed(9)
        net(torch.randn(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()
    assert all(map(torch.equal, saved[0].state_dict().values(), loaded[0].state_dict().values()))


def test_the_newest_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (2, 9, 10, 11):
        save_checkpoint(tmp_path, step, *make_state("sgd", steps=1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-10", "step-11"]
    assert KEEP == 2
    assert newest_step(tmp_path) == 11


def test_a_half_written_checkpoint_is_never_loaded(tmp_path):
    save_checkpoint(tmp_path, 1, *make_state("sgd", steps=1))
    (tmp_path / ".step-2.partial").mkdir()
    (tmp_path / ".step-2.partial" / "state.json").write_text("{")
    assert newest_step(tmp_path) == 1


def test_nothing_to_resume(tmp_path):
    assert newest_step(tmp_path / "checkpoints") is None


@pytest.mark.parametrize(
    ("name", "damage"), [("state.json", b"{"), ("state.safetensors", b""), ("state.json", None)]
)
def test_a_damaged_checkpoint_is_named(tmp_path, name, damage):
    path = save_checkpoint(tmp_path, 1, *make_state("sgd", steps=1)) / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(UserError, match="step-1 cannot be read"):
        load_checkpoint(tmp_path, 1, *make_state("sgd"))


def test_another_model_is_refused(tmp_path):
    save_checkpoint(tmp_path, 1, *make_state("sgd", steps=1))
    net = nn.Linear(1, 1)
    with pytest.raises(UserError, match="is of another model"):
        load_checkpoint(tmp_path, 1, net, net, make_optimizer(net, TrainConfig()))

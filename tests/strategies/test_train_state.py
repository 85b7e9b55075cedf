"""A run's state: one owner, one naming."""

import pytest
import torch
from torch import nn

from ziggurat.strategies.state import TrainState, names_of, owner_of
from ziggurat.strategies.whole import give_states


def state_of(net, decay=0.0):
    return TrainState.start(net, torch.optim.AdamW(net.parameters()), decay)


def test_the_average_forgets_the_start_and_then_decays():
    net = nn.BatchNorm1d(1)
    state = state_of(net, decay=0.5)
    net.weight.data.fill_(11.0)
    net.num_batches_tracked.fill_(4)
    state.update_average()  # decay 0.1
    assert state.average.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 11)
    assert state.average.num_batches_tracked.item() == 4
    state.step = 1000
    state.update_average()  # decay 0.5
    assert state.average.weight.item() == pytest.approx(0.5 * 10 + 0.5 * 11)
    assert not state.average.weight.requires_grad


def test_without_decay_the_average_is_the_model():
    net = nn.Linear(1, 1)
    state = state_of(net)
    state.update_average()
    assert state.average is net
    assert state.models == (net,)


def test_every_tensor_has_one_name():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    state = state_of(net, decay=0.9)
    net(torch.ones(3, 2)).sum().backward()
    state.optimizer.step()
    kinds = {kind: set() for kind in ("model", "average", "optimizer")}
    for name, tensor in state.tensors().items():
        kinds[name.partition(".")[0]].add(owner_of(name))
        assert tensor.numel()
    assert kinds["model"] == kinds["average"] == net.state_dict().keys()
    assert kinds["optimizer"] == dict(net.named_parameters()).keys()


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_state_goes_on_with_the_tensors_of_another(decay):
    """Nothing is copied; buffers that are not saved are those of the network that is built, in the average as well."""

    def network():
        net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
        net[2].weight = net[0].weight  # a tie
        net[1].register_buffer("scale", torch.tensor([2.0]), persistent=False)
        return net

    before = state_of(network(), decay)
    before.model(torch.ones(3, 2)).sum().backward()
    before.optimizer.step()
    before.update_average()
    tensors = {name: tensor.detach() for name, tensor in before.tensors().items()}
    net = network()
    view = net[2].bias.data  # who looks into a memory sees what comes
    give_states(net, names_of(tensors, "model"))
    state = TrainState.go_on(net, torch.optim.AdamW(net.parameters()), decay, tensors)
    found = state.tensors()
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
        assert (found[name].data_ptr() == tensor.data_ptr()) == (name != "model.2.bias"), name
    assert torch.equal(view, tensors["model.2.bias"])
    assert state.model[2].weight is state.model[0].weight
    assert state.average[2].weight is state.average[0].weight
    assert [float(one[1].scale) for one in state.models] == [2.0] * len(state.models)
    assert all(parameter.requires_grad for parameter in state.model.parameters())
    assert (state.average is state.model) == (not decay)
    with pytest.raises(ValueError, match=r"0\.weight is"):
        give_states(net, {"0.weight": torch.zeros(3)})


def test_what_a_step_counts_is_counted_when_it_is_done():
    state = state_of(nn.Linear(1, 1))
    state.pending["skipped_steps"] += 1
    assert (state.counted("skipped_steps"), state.counters["skipped_steps"], state.step) == (1, 0, 0)
    state.complete()
    assert (state.counted("skipped_steps"), state.counters["skipped_steps"], state.step) == (1, 1, 1)

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from ziggurat.models.norm import FrozenBatchNorm, num_groups, replace_norms


def trained(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Return the norm with numbers that are not those of a new one."""
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3),
        trained(nn.BatchNorm2d(12, eps=1e-3)),
        nn.Sequential(nn.Conv2d(12, 8, 1), trained(BatchNormAct2d(8, act_layer=nn.SiLU))),
    )


def test_a_frozen_norm_is_the_batch_norm_in_evaluation() -> None:
    reference = network().eval()
    frozen = replace_norms(copy.deepcopy(reference), "frozen").train()
    x = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(frozen(x), reference(x))
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    frozen(100 * x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert [name for name, _ in frozen.named_parameters()] == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]


def test_a_frozen_norm_has_gradients_for_its_input() -> None:
    frozen = FrozenBatchNorm(trained(nn.BatchNorm2d(4))).double()
    x = torch.rand(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(frozen, x)


def test_frozen_and_batch_norms_load_each_others_state() -> None:
    batch, frozen = network(), replace_norms(network(), "frozen")
    frozen.load_state_dict(batch.state_dict())  # tolerates the counter
    x = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(frozen(x), batch.eval()(x))
    missing, unexpected = network().load_state_dict(frozen.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def test_a_frozen_norm_keeps_the_type_and_memory_format_of_its_input() -> None:
    frozen = FrozenBatchNorm(nn.BatchNorm2d(4))
    x = torch.rand(2, 4, 3, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    assert frozen(x).dtype is torch.bfloat16
    assert frozen(x).is_contiguous(memory_format=torch.channels_last)


def test_group_norms_take_the_place_the_activation_and_the_weights() -> None:
    reference, group = network(), replace_norms(network(), "group")
    group.load_state_dict(reference.state_dict(), strict=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in group.modules())
    x = torch.rand(2, 3, 9, 9)
    middle = nn.functional.group_norm(
        reference[0](x), num_groups(12), reference[1].weight, reference[1].bias, 1e-3
    )
    fused = reference[2][1]
    expected = nn.functional.silu(
        nn.functional.group_norm(reference[2][0](middle), num_groups(8), fused.weight, fused.bias)
    )
    torch.testing.assert_close(group(x), expected)


def test_batch_norms_stay_where_they_are_wanted() -> None:
    reference = network()
    assert replace_norms(reference, "batch") is reference
    assert isinstance(replace_norms(nn.BatchNorm2d(4), "group"), nn.GroupNorm)


@pytest.mark.parametrize("channels", [1, 2, 7, 12, 24, 40, 64, 100, 255, 256, 2048])
def test_groups_divide_the_channels(channels: int) -> None:
    groups = num_groups(channels)
    assert channels % groups == 0
    assert 1 <= groups <= 32
    assert channels == 1 or channels // groups >= 2
    assert num_groups(256) == num_groups(2048) == 32

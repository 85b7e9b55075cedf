"""Replacing the batch norms of a backbone by frozen ones or by group norms.

Batch norms that timm has fused with an activation (`BatchNormAct2d`) keep that activation.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.layers import BatchNormAct2d, GroupNormAct
from torch import Tensor, nn
from torch.nn import functional


class FrozenBatchNorm(nn.Module):
    """A batch norm that always normalizes by its running statistics, and never changes.

    Its weight and bias are buffers, so that no optimizer sees them. The names are those of a batch norm, so that
    either loads the state of the other. One fused operation on an input of any type: unlike a scale and a shift
    in float32, it does not widen bf16 activations under autocast.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        ones, zeros = torch.ones(norm.num_features), torch.zeros(norm.num_features)
        self.register_buffer("weight", ones if norm.weight is None else norm.weight.detach().clone())
        self.register_buffer("bias", zeros if norm.bias is None else norm.bias.detach().clone())
        self.register_buffer(
            "running_mean", zeros.clone() if norm.running_mean is None else norm.running_mean
        )
        self.register_buffer("running_var", ones.clone() if norm.running_var is None else norm.running_var)
        self.eps = norm.eps
        self.drop, self.act = _fused_parts(norm)
        self.register_load_state_dict_pre_hook(_forget_counter)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalize; the shape, type and memory format stay."""
        x_BCHW = functional.batch_norm(
            x_BCHW, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
        result: Tensor = self.act(self.drop(x_BCHW))
        return result

    def extra_repr(self) -> str:
        """Name the number of channels and eps."""
        return f"{len(self.weight)}, eps={self.eps}"


def _forget_counter(module: nn.Module, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Take a batch norm's counter out of what is loaded: a frozen one tracks nothing."""
    state_dict.pop(prefix + "num_batches_tracked", None)


def _fused_parts(norm: nn.BatchNorm2d) -> tuple[nn.Module, nn.Module]:
    """Return the dropout and the activation that timm has fused with the norm, or two identities."""
    if not isinstance(norm, BatchNormAct2d):
        return nn.Identity(), nn.Identity()
    drop: Any = norm.drop
    act: Any = norm.act
    return drop, act


def num_groups(channels: int) -> int:
    """Return the largest number of groups, at most 32, that divides the channels into groups of two or more.

    A group of one channel would be zero wherever a map has one position only, as the coarsest levels may.

    Example:
        >>> num_groups(256), num_groups(40), num_groups(16)
        (32, 20, 8)
    """
    return max(groups for groups in range(1, 33) if channels % groups == 0 and 2 * groups <= max(2, channels))


def replace_norms(module: nn.Module, norm: Literal["batch", "frozen", "group"]) -> nn.Module:
    """Replace every batch norm of a module, in place.

    Args:
        module: Any module; other norms stay as they are.
        norm: ``batch`` leaves everything; ``frozen`` and ``group`` as `ModelConfig.norm` says. A group norm starts
            with the weight and bias of the batch norm that it replaces.

    Returns:
        The module, or what replaces it if it is a batch norm itself.
    """
    if norm == "batch":
        return module
    if isinstance(module, nn.BatchNorm2d):
        return FrozenBatchNorm(module) if norm == "frozen" else _group_norm(module)
    for name, child in module.named_children():
        replaced = replace_norms(child, norm)
        if replaced is not child:
            module.add_module(name, replaced)
    return module


def _group_norm(norm: nn.BatchNorm2d) -> nn.GroupNorm:
    groups = num_groups(norm.num_features)
    if isinstance(norm, BatchNormAct2d):
        group_norm: nn.GroupNorm = GroupNormAct(norm.num_features, groups, eps=norm.eps, affine=norm.affine)
        group_norm.drop, group_norm.act = _fused_parts(norm)
    else:
        group_norm = nn.GroupNorm(groups, norm.num_features, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        group_norm.load_state_dict({"weight": norm.weight.detach(), "bias": norm.bias.detach()}, strict=False)
    return group_norm

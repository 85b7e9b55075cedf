"""Running a network's own code as one worker alone would: it finds no other processes, and none of PyTorch's faults."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from ziggurat.errors import UserError
from ziggurat.parallel.spatial import custom_functions_seen
from ziggurat.torch_internals.convolutions import right_convolution_gradients
from ziggurat.torch_internals.default_group import default_group_hidden
from ziggurat.torch_internals.norms import right_norm_gradients
from ziggurat.torch_internals.sharding import held_groups, talks_by_itself


@contextmanager
def as_alone(device: torch.device) -> Iterator[None]:
    """Let a block compute a network, forward and backward, as on one worker.

    - ``torch.distributed`` looks as if nobody had initialized it: a network that looks (to add up statistics over processes,
      say) does what it does alone, on every worker and under every plan. What this program sends goes through groups that it names.
    - Custom autograd functions are computed on bands, if they are declared.
    - Batch norms and instance norms on the CPU are given gradients in an order that PyTorch reads right; convolutions of the smallest
      maps are not computed in bfloat16 there.

    Args:
        device: Where the network computes.
    """
    with ExitStack() as block:
        block.enter_context(default_group_hidden())
        if device.type == "cpu":
            block.enter_context(right_convolution_gradients())
            if torch.is_grad_enabled():
                block.enter_context(right_norm_gradients())
        block.enter_context(custom_functions_seen())
        yield


def refuse_own_groups(model: nn.Module) -> None:
    """Refuse layers that talk to other processes by themselves: these compute something else at that time, or nothing.

    Raises:
        UserError: Naming each such layer.
    """
    faults = []
    for name, module in model.named_modules():
        layer = (
            f"the layer '{name}' ({type(module).__name__})"
            if name
            else f"the network {type(module).__name__}"
        )
        if talks_by_itself(module):
            faults.append(
                f"{layer} spreads what it wraps over processes itself: give Ziggurat the network that is inside (its .module), "
                "and a plan"
            )
        elif held := held_groups(module):
            faults.append(
                f"{layer} holds a process group ({', '.join(held)}), over which it would talk to workers that compute something "
                "else: make it without one (process_group=None); statistics are those of the whole microbatch under every plan"
            )
    if faults:
        raise UserError(faults)

"""Plain tensors that are changed in place by spread ones: they become spread themselves.

    out = torch.zeros(2, 8, 64, 48)     plain: every worker has all of it
    out[:, :, :32] = x                  x is spread: so is ``out`` from here on, under the same Python name

A plain tensor must not stay plain then. What is computed from plain tensors alone is the whole's on every worker, with the
whole's gradient; of what has come from a spread tensor each worker has a part of the gradient.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from ziggurat.parallel.runtime.frames import layers_on_stack
from ziggurat.parallel.spatial.layout import Dims, plain
from ziggurat.parallel.spatial.table import Call
from ziggurat.parallel.spatial.tensor import SpatialTensor, slice_local
from ziggurat.torch_internals.tensors import is_view, num_users

REMEDY = (
    "make it with x.new_zeros(...) or torch.zeros_like(x), where x is a tensor that the images go through"
)


def adopt(call: Call, tensor: Tensor, dims: Dims | None = None) -> SpatialTensor:
    """Make a plain tensor a spread one, for whoever holds it, before it is changed in place.

    Args:
        call: What changes it.
        tensor: Whole on every worker; spread afterwards.
        dims: How it is cut; by default it stays whole on every worker.

    Raises:
        UnsupportedOperation: If it shares its memory with another tensor, which would not follow.
    """
    if is_view(tensor) or num_users(tensor) > 1:
        raise call.unsupported(
            "a plain tensor that shares its memory with others is changed by one that is spread over workers",
            REMEDY,
        )
    own = tensor.clone() if tensor.requires_grad else tensor.detach()
    layout = dims or tuple(plain(size) for size in tensor.shape)
    spread = SpatialTensor(slice_local(own, layout, call.mesh), layout, call.mesh)
    try:
        torch.utils.swap_tensors(tensor, spread)
    except (
        RuntimeError
    ) as error:  # somebody holds on to the plain one: a graph that has saved it, a weak reference
        raise call.unsupported(
            f"a plain tensor that is in use elsewhere is changed by one that is spread over workers ({error})",
            REMEDY,
        ) from error
    assert isinstance(tensor, SpatialTensor)
    return tensor


def belongs_to_network(tensor: Tensor) -> bool:
    """Whether a plain tensor is a parameter or a buffer of a network that is being computed: it stays plain."""
    if isinstance(tensor, nn.Parameter):
        return True
    layers = list(layers_on_stack(sys._getframe()))
    return any(buffer is tensor for layer in layers[:1] + layers[-1:] for buffer in layer.buffers())

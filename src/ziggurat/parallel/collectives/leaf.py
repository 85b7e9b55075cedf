"""One leaf of the gradient: what backward of a microbatch has left in some parameters, where it has left it.

The tensors that autograd has made are kept and added as they are; they are joined into one flat tensor only where their
sum travels. With many microbatches a step, copying each leaf would cost as much as adding it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ziggurat.torch_internals.tensors import add_each_


@dataclass
class Leaf:
    """A gradient of each of some parameters, or the sum of several.

    Attributes:
        tensors: In the layouts of the parameters; nobody else has their memory.
        joined: The flat tensor whose views they are, where there is one.
    """

    tensors: list[Tensor]
    joined: Tensor | None = None

    def add_(self, other: Leaf) -> Leaf:
        """Add another leaf to this one.

        Example:
            >>> Leaf([torch.ones(2)]).add_(Leaf([torch.ones(2)])).tensors
            [tensor([2., 2.])]
        """
        if self.joined is not None and other.joined is not None:
            self.joined.add_(other.joined)
        else:
            add_each_(self.tensors, other.tensors)
        return self

    def flat(self) -> Tensor:
        """Return the elements of all tensors one after the other, each in the order of its memory; those of `joined` as they are."""
        if self.joined is not None:
            return self.joined
        joined = self.tensors[0].new_empty(sum(tensor.numel() for tensor in self.tensors))
        start = 0
        for tensor in self.tensors:
            joined.as_strided(tensor.shape, tensor.stride(), start).copy_(tensor)
            start += tensor.numel()
        return joined


def owned(gradient: Tensor, strides: Sequence[int], memories: set[int]) -> Tensor:
    """Return a gradient with some strides and memory that nobody else has: itself, where it is so already.

    Args:
        gradient: As autograd has made it; it may be a view of a larger tensor, or of another parameter's gradient.
        strides: Of a tensor without gaps.
        memories: Addresses of what was returned before, which this one is added to.
    """
    storage = gradient.untyped_storage()
    alike = all(
        size == 1 or one == other
        for size, one, other in zip(gradient.shape, gradient.stride(), strides, strict=True)
    )
    if not alike or storage.nbytes() != gradient.nbytes or storage.data_ptr() in memories:
        gradient = torch.empty_strided(
            gradient.shape, strides, dtype=gradient.dtype, device=gradient.device
        ).copy_(gradient)
    memories.add(gradient.untyped_storage().data_ptr())
    return gradient.as_strided(gradient.shape, strides)

"""Layers: bases without a public name, their hooks, and what a layer holds itself."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

# Why: the only names under which batch norms and instance norms of every number of dims, and those that libraries derive
# from them, are known.
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a layer is a batch norm of any number of dims, or derived from one. Why: as `NORMS`."""
    return isinstance(module, NORMS[0])


# Why: likewise of convolutions, transposed ones among them.
CONVOLUTION = nn.modules.conv._ConvNd


def has_forward_hooks(module: nn.Module) -> bool:
    """Whether a layer has hooks of its own around its forward. Why: hooks can be added and removed, but not asked for."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def own_states(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what a layer holds itself, parameters and then buffers, each under every name that it has there.

    What is yielded may be replaced by `replace_state` meanwhile.
    """
    # by documented means: lists, as these change while they are walked through otherwise
    yield from list(module.named_parameters(recurse=False, remove_duplicate=False))
    yield from list(module.named_buffers(recurse=False, remove_duplicate=False))


def replace_state(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a tensor in the place of a layer's own parameter or buffer.

    Why not `setattr`: a layer's class may have a property of the name, or an opinion of its own on what is set; and a buffer
    that is not saved must stay one.
    """
    places = module._parameters if name in module._parameters else module._buffers
    places[name] = tensor  # type: ignore[assignment]  # a parameter in the place of one


def replace_layer(parent: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of another. Why not `setattr`: as `replace_state`."""
    parent._modules[name] = layer

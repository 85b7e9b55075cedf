"""The names of parameters and buffers, which a tracer's copy of a network says by itself."""

from __future__ import annotations

from torch import Tensor, nn


def names_of_states(meta_model: nn.Module) -> tuple[str, ...]:
    """Return the names of a layer's parameters and buffers; of what layers share, the first name."""
    return tuple(state_name(t) for t in (*meta_model.parameters(), *meta_model.buffers()))


def named(tensor: Tensor, name: str) -> Tensor:
    """Return a parameter or buffer of a tracer, which says its name; a copy of it that the network makes does not."""
    tensor.state_name = name, id(tensor)  # type: ignore[attr-defined]  # the recorder asks for it
    return tensor


def state_name(tensor: Tensor) -> str:
    """Return the name of a parameter or buffer of a tracer; empty for other tensors."""
    name, own = getattr(tensor, "state_name", ("", 0))
    return name if own == id(tensor) else ""

"""Recurrent layers: a sequence is gathered, sequences stay with the workers that have them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ziggurat.parallel.spatial.layout import Dim, plain
from ziggurat.parallel.spatial.operations.gathering import own_part, spread
from ziggurat.parallel.spatial.operations.pointwise import local_part
from ziggurat.parallel.spatial.table import Call, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, gather


@operation("gather", "lstm", "gru", "rnn_tanh", "rnn_relu")
def _recurrent(call: Call) -> Any:
    """Run over the first dim of ``(sequence, batch, channels)``, or the second of ``(batch, sequence, channels)``.

    Placement:
        The batch may be cut, such as rows of maps; the sequence is whole while it is run over, and cut again.
    """
    if isinstance(call.args[1], Tensor) and not call.args[1].is_floating_point():
        raise call.unsupported("it is given a packed sequence", "give sequences of one length, padded")
    x, state, weights, _, _, dropout, training, _, batch_first = call.args
    x, (batch, steps) = spread(x, call.mesh), (0, 1) if batch_first else (1, 0)
    before = x
    # what is dropped between layers is drawn for all sequences
    x = gather(x, call.name, only=range(3) if dropout and training else (steps, 2))
    local = _local_state(call, state, x.dims[batch])
    outputs, *last = call.func(
        x.local, local, [call.weight(w) for w in weights], *call.args[3:], **call.named
    )
    dims = [*before.dims[:2], plain(outputs.shape[2])]
    changed = [d for d in (0, 1) if dims[d] != x.dims[d]]
    spread_state = [
        SpatialTensor(t, (plain(t.shape[0]), x.dims[batch], plain(t.shape[2])), call.mesh) for t in last
    ]
    return own_part(outputs, dims, call.mesh, changed), *spread_state


@operation("pointwise", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", order="contiguous")
def _cell(call: Call) -> Any:
    """Take one step, each sequence of ``(batch, channels)`` for itself."""
    x, state, *weights = call.args
    x = gather(spread(x, call.mesh), call.name, only=[1])
    found = call.func(x.local, _local_state(call, state, x.dims[0]), *map(call.weight, weights), **call.named)

    def laid_out(t: Tensor) -> SpatialTensor:
        return SpatialTensor(t, (x.dims[0], plain(t.shape[1])), call.mesh)

    return laid_out(found) if isinstance(found, Tensor) else tuple(map(laid_out, found))


def _local_state(call: Call, state: Any, batch: Dim) -> Any:
    """Return this worker's part of a state, or of each of several: its last dim but one is the batch."""
    if not isinstance(state, Tensor):
        return tuple(_local_state(call, one, batch) for one in state)
    dims = [plain(size) for size in state.shape]
    dims[-2] = batch
    return local_part(state, tuple(dims), call.mesh, call.name).contiguous()

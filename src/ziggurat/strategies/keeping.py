"""What a network keeps from call to call: under every plan as on one worker, or it is refused by name."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

from ziggurat.errors import UserError
from ziggurat.parallel.graph.cannot_cut import CannotCut
from ziggurat.parallel.graph.faults import KINDS
from ziggurat.parallel.spatial import SpatialMesh, SpatialTensor
from ziggurat.parallel.spatial.tensor import cut_axes
from ziggurat.torch_internals.modules import own_states, replace_state

if TYPE_CHECKING:
    from ziggurat.strategies.base import Setting
    from ziggurat.strategies.mesh import Mesh


def join_buffers(model: nn.Module, mesh: SpatialMesh) -> None:
    """Let buffers that forward has assigned be plain tensors again, where images are cut: they are a run's state.

    Raises:
        UnsupportedOperation: If a buffer is cut: it would have other rows on each worker.
    """
    for module in model.modules():
        for name, buffer in own_states(module):
            if not isinstance(buffer, SpatialTensor):
                continue
            if cut_axes(buffer):
                raise mesh.unsupported(
                    f"the buffer '{name}'",
                    "forward assigns a map to it, of which each worker has other rows",
                    "keep a number of each channel (x.mean((0, 2, 3))), or use an attribute that is no buffer; or run the model without sp",
                )
            replace_state(module, name, buffer.local)


def refuse_own_history(model: nn.Module, mesh: Mesh, setting: Setting) -> None:
    """Refuse a network whose workers would each have a history of their own, where they take other microbatches.

    It is traced twice, without weights; once for a run, whatever its plans are. Of a network that cannot be traced nothing is known.

    Raises:
        UserError: Saying what it keeps from one call to the next.
    """
    if setting.has_no_history or (mesh.data.size == 1 and not setting.config.local_sgd.replicas):
        return
    try:
        with warnings.catch_warnings(), setting.alone():
            warnings.simplefilter("ignore")  # the network's own
            faults = setting.tracer(model).trace(setting.spec, KINDS).faults
    except CannotCut:
        setting.has_no_history = True  # as far as can be known
        return
    if found := faults.get("state") or faults.get("outer"):
        raise UserError(
            f"what {type(model).__name__} computes depends on its calls before, of which under dp and fsdp each worker has others (of local "
            f"SGD each replica): {found}; return what is to be kept, and keep it outside of the network; or run it without dp, fsdp and replicas"
        )
    setting.has_no_history = True

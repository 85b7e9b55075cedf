"""Facts about a tensor: those of the whole."""

from __future__ import annotations

from typing import Any

import torch

from ziggurat.parallel.spatial.layout import cuts, shape_of, size_of
from ziggurat.parallel.spatial.memory import make_meta, put
from ziggurat.parallel.spatial.table import Call, as_meta, operation
from ziggurat.parallel.spatial.tensor import SpatialTensor, as_whole

# answered by the local tensor: they are the same for the whole
LOCAL_FACTS = [
    "dtype",
    "device",
    "requires_grad",
    "is_leaf",
    "layout",
    "is_cuda",
    "is_sparse",
    "is_quantized",
    "is_meta",
    "is_cpu",
    "itemsize",
    "is_nested",
    "is_mps",
    "is_xpu",
    "is_mkldnn",
    "names",
    "is_sparse_csr",
    "is_xla",
    "is_ipu",
    "is_vulkan",
    "is_mtia",
    "is_maia",
    "is_hpu",
    "is_ort",
    "retains_grad",
    "_backward_hooks",
    "output_nr",
    "_version",
    "volatile",
]


@operation("question", *(f"get {name}" for name in LOCAL_FACTS))
def _fact(call: Call) -> Any:
    return call.func(call.args[0].local)


@operation("question", "get shape", "size")
def _size(call: Call) -> Any:
    shape = torch.Size(shape_of(call.args[0].dims))
    if len(call.args) == 1 and not call.named:
        return shape
    bound = call.bind("self dim")
    return shape if bound.get("dim") is None else shape[bound["dim"]]


@operation("question", "get ndim", "dim", "ndimension")
def _dim(call: Call) -> int:
    return len(call.args[0].dims)


@operation("question", "numel", "nelement")
def _numel(call: Call) -> int:
    count = 1
    for dim in call.args[0].dims:
        count *= size_of(dim)
    return count


@operation("question", "len")
def _len(call: Call) -> int:
    return size_of(call.args[0].dims[0])


@operation(
    "question", "is_floating_point", "is_complex", "get_device", "element_size", "is_inference", "is_conj", "is_neg",
    "is_signed", "is_pinned", "is_tensor",
)  # fmt: skip
def _local_answer(call: Call) -> Any:
    return call.func(call.args[0].local, *call.args[1:], **call.named)


@operation(
    "question", "is_contiguous", "stride", "storage_offset", "dim_order", "is_set_to", "is_same_size", "result_type", "get nbytes",
)  # fmt: skip
def _answer_of_the_whole(call: Call) -> Any:
    """Say how the whole lies in memory."""
    return call.func(*as_meta(call.args), **as_meta(call.named))


@operation("question", "item", "as bool", "as float", "as int", "as index", "tolist", "numpy")
def _value(call: Call) -> Any:
    x = call.args[0]
    if cuts(x.dims):
        raise call.unsupported("no worker has all of its values")
    return call.func(x.local, *call.args[1:], **call.named)


@operation("layout", "get data")
def _data(call: Call) -> Any:
    x = call.args[0]
    return SpatialTensor(x.local.detach(), x.dims, x.mesh)


@operation("question", "backward")
def _backward(call: Call) -> None:
    """Start backward from a scalar that every worker has: each worker contributes one part of its gradient."""
    bound = call.bind("self gradient retain_graph create_graph inputs", retain_graph=None, create_graph=False)
    x = bound["self"]
    if bound.get("gradient") is not None or x.local.numel() != 1 or cuts(x.dims):
        raise call.unsupported(
            "backward starts from one number that every worker has: call sum() or mean() first"
        )
    if bound.get("inputs") is not None or bound["create_graph"]:
        reason = "it gives all tensors their gradients, once (without inputs, without create_graph)"
        raise call.unsupported(reason, "call backward() alone, or run the model without sp")
    x.mesh.start_backward(x.local, bound["retain_graph"])


@operation("question", "iter")
def _iter(call: Call) -> Any:
    return iter(call.args[0].unbind(0))


@operation("question", "repr", "str")
def _text(call: Call) -> str:
    x = call.args[0]
    return str(x.local.item()) if not x.dims else SpatialTensor.__repr__(x)


@operation("question", "format")
def _format(call: Call) -> str:
    x, how = call.args
    return format(SpatialTensor.__repr__(x) if x.dims else x.local.item(), how)


@operation("question", "set data")
def _set_data(call: Call) -> Any:
    """Let a plain tensor have the values of one that every worker has whole."""
    x, value = call.args
    if isinstance(x, SpatialTensor) or cuts(value.dims):
        raise call.unsupported("the data of a tensor that is spread over workers is replaced: use copy_()")
    return call.func(x, value.local)


@operation("question", "deepcopy")
def _deepcopy(call: Call) -> Any:
    x = call.args[0]
    copied = as_whole(x.local.detach().clone(), x.mesh, x.dims)
    put(copied, make_meta(tuple(x.shape), x.meta.stride(), x.dtype))
    return copied

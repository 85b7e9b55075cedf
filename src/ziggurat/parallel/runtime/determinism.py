"""The same bits on a GPU: what PyTorch must be told, and what it says where it cannot keep to it.

By default a GPU adds up in whatever order its threads come (backward of a bilinear resize, of an adaptive pooling, of an
index), tries algorithms and takes the fastest, and multiplies float32 as TF32, with ten bits of its mantissa. None of that can
give one result on any number of workers, so all of it is switched off; an operation that has no deterministic form raises.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ziggurat.errors import UserError
from ziggurat.parallel.runtime.frames import innermost_layer

# cuBLAS reads it when CUDA starts: workspaces of a fixed size, which it does not share between streams
WORKSPACE, WORKSPACES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")
_REFUSED = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Let a device compute the same bits whenever it computes the same, while a block runs.

    Args:
        device: ``cpu``, which does so by itself, or ``cuda``; then CUDA must not have started yet in this process, or the
            environment must have held ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` when it did.
    """
    if device != "cuda":
        yield
        return
    cudnn: Any = torch.backends.cudnn  # (its stubs know less than it has)
    memory: Any = torch.utils.deterministic
    multipliers: list[Any] = [cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul]
    workspace = os.environ.get(WORKSPACE)
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill, chosen = memory.fill_uninitialized_memory, (cudnn.deterministic, cudnn.benchmark)
    precisions = [one.fp32_precision for one in multipliers]
    if workspace not in WORKSPACES:
        os.environ[WORKSPACE] = WORKSPACES[0]
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # it is for finding bugs, and takes time
    cudnn.deterministic, cudnn.benchmark = True, False
    # no TF32; said in the older way, since whoever reads the older setting fails where convolutions are set in the newer one
    cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        if workspace is None:
            del os.environ[WORKSPACE]
        else:
            os.environ[WORKSPACE] = workspace
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        cudnn.deterministic, cudnn.benchmark = chosen
        cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = (p == "tf32" for p in precisions[1:])
        for one, precision in zip(multipliers, precisions, strict=True):
            if one.fp32_precision != precision:
                one.fp32_precision = precision


def explain_nondeterminism(error: RuntimeError) -> UserError | None:
    """Return what a user can do where PyTorch refuses an operation for its lack of a deterministic form.

    Args:
        error: Raised by a forward or backward pass; its traceback names the layer.

    Returns:
        None if the error is another one.

    Example:
        >>> error = RuntimeError("adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but ...")
        >>> print(explain_nondeterminism(error))
        adaptive_avg_pool2d_backward_cuda in a backward pass has no deterministic form on this device, and a run must give \
the same bits on any number of workers: replace the layer that uses it, or train on the CPU (--set device=cpu)
        >>> explain_nondeterminism(RuntimeError("out of range")) is None
        True
    """
    found = _REFUSED.search(str(error))
    if found is None:
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    layer = innermost_layer(trace.tb_frame) if trace is not None else ""
    place = (
        f"in the layer '{layer}'" if layer else "in a backward pass"
    )  # autograd calls it without the layer
    return UserError(
        f"{found[1]} {place} has no deterministic form on this device, and a run must give the same bits on any number of "
        "workers: replace the layer that uses it, or train on the CPU (--set device=cpu)"
    )

"""AdamW and SGD by PyTorch's fused kernels, with bits that do not depend on where in a tensor an element lies.

On a CPU a fused kernel takes a tensor's elements by vectors, and what is left at its end one by one, with other instructions: these round
otherwise. Of a tensor in rows on several workers other elements are at an end. So whole vectors are updated where they are, and what
is left over in vectors of their own, which zeros fill up:

    a parameter of 37:   [ 16 elements ][ 16 elements ][ 5 ]        all that are left over:   [ 5 | zeros ]
    rows of it, 19:      [ 16 elements ][ 3 ]                                                 [ 3 | zeros ]

On a GPU each element is updated by the same instructions, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from ziggurat.strategies.whole import local
from ziggurat.torch_internals.tensors import copy_each_, count_each_

VECTOR_BYTES = 64  # of the widest vectors that PyTorch is built for


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, fused; sharded parameters, too.

    Args:
        params: As PyTorch's.
        lr: Learning rate.
        betas: Decay of both moments.
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure, so no loss
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            slots = [self._slots(p) for p in parameters]
            moments = [[slot[name] for slot in slots] for name in ("exp_avg", "exp_avg_sq")]
            steps = [slot["step"] for slot in slots]
            for places, (weights, gradients, means, squares) in _by_vectors(parameters, moments):
                counted = torch.stack([steps[place] for place in places]).unbind()  # the kernel counts them
                adamw(
                    weights, gradients, means, squares, [], [*counted], fused=True, amsgrad=False,
                    beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
                    weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
                )  # fmt: skip
            count_each_(steps)

    def _slots(self, parameter: Tensor) -> dict[str, Tensor]:
        slots: dict[str, Tensor] = self.state[parameter]
        if not slots:
            slots["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            slots["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
            slots["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
        return slots


class SGD(torch.optim.SGD):
    """`torch.optim.SGD`, fused; sharded parameters, too.

    Args:
        params: As PyTorch's.
        lr: Learning rate.
        momentum: Of the past; 0 keeps none.
    """

    def __init__(self, params: Any, lr: float, momentum: float) -> None:
        super().__init__(params, lr=lr, momentum=momentum, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure, so no loss
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            buffers = [[self._buffer(p) for p in parameters]] if group["momentum"] else []
            for places, (weights, gradients, *found) in _by_vectors(parameters, buffers):
                sgd(
                    weights, gradients, [*found[0]] if found else [None] * len(places), fused=True,
                    weight_decay=group["weight_decay"], momentum=group["momentum"], lr=group["lr"],
                    dampening=0.0, nesterov=False, maximize=False,
                )  # fmt: skip

    def _buffer(self, parameter: Tensor) -> Tensor:
        slots: dict[str, Tensor] = self.state[parameter]
        if slots.get("momentum_buffer") is None:
            slots["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return slots["momentum_buffer"]


def _by_vectors(
    parameters: Sequence[Tensor], slots: Sequence[Sequence[Tensor]]
) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
    """Yield parameters, their gradients and slots as a kernel takes them; what it writes is there when the next ones are asked for.

    Yields:
        Which of the parameters these are parts of, and the lists.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    lists = [[local(tensor) for tensor in one] for one in (parameters, gradients, *slots)]
    full = [place for place, parameter in enumerate(lists[0]) if parameter.numel()]
    if full and lists[0][full[0]].device.type != "cpu":
        yield full, [[one[place] for place in full] for one in lists]
        return
    for dtype in dict.fromkeys(lists[0][place].dtype for place in full):
        places = [place for place in full if lists[0][place].dtype == dtype]
        dense = {place: _dense(lists[0][place]) for place in places}
        flat = [[_flat(one[place], dense[place]) for one in lists] for place in places]
        yield from _split(places, flat, VECTOR_BYTES // dtype.itemsize)
        for place, changed in zip(places, flat, strict=True):
            for one, value in zip((lists[0], *lists[2:]), (changed[0], *changed[2:]), strict=True):
                if not _has(one[place], dense[place]):
                    one[place].copy_(value.as_strided(one[place].shape, dense[place]))


def _split(
    places: list[int], flat: list[list[Tensor]], unit: int
) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
    """Yield all whole vectors of flat tensors where they are, and with them what is left over of each as a vector."""
    whole = [tensors[0].numel() // unit * unit for tensors in flat]
    bodies = [number for number, length in enumerate(whole) if length]
    ends = [number for number, length in enumerate(whole) if length < flat[number][0].numel()]
    lists = []
    rooms, rests = [], []
    for kind in range(len(flat[0])):
        vectors = flat[0][kind].new_zeros((len(ends), unit)).unbind() if ends else ()
        rest = [flat[number][kind][whole[number] :] for number in ends]
        room = [vector[: part.numel()] for vector, part in zip(vectors, rest, strict=True)]
        copy_each_(room, rest)
        lists.append([*(flat[number][kind][: whole[number]] for number in bodies), *vectors])
        rooms.append(room)
        rests.append(rest)
    yield [places[number] for number in (*bodies, *ends)], lists
    for kind in (0, *range(2, len(flat[0]))):  # a gradient stays
        copy_each_(rests[kind], rooms[kind])


def _flat(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return a tensor as a flat one in the order of some strides without gaps: a view, or where it has others a copy."""
    if not _has(tensor, strides):
        copy = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
        tensor = copy.copy_(tensor)
    return tensor.as_strided((tensor.numel(),), (1,))


def _has(tensor: Tensor, strides: tuple[int, ...]) -> bool:
    """Whether a tensor has some strides, but for dims of one index."""
    return tensor.stride() == strides or all(
        size == 1 or one == other
        for size, one, other in zip(tensor.shape, tensor.stride(), strides, strict=True)
    )


def _dense(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor's memory format, without gaps."""
    return tensor.stride() if tensor.is_contiguous() else torch.empty_like(tensor, device="meta").stride()

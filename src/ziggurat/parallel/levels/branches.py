r"""Running a network whose branches lie on different workers.

    worker 0   piece 0 ------ piece 2 (finest level) ------ piece 4 (join, loss)
                     \ values                        values /
    worker 1           '----- piece 3 (coarser levels) ----'

A piece is a run of consecutive calls on one worker. Every worker computes its pieces in their order, and backward in the
reverse order; a piece needs only pieces before it, and sends never wait, so no worker can wait for one that waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ziggurat.parallel.levels.placement import Placement
from ziggurat.parallel.pipeline.graph import INPUT, Graph, Value
from ziggurat.parallel.pipeline.messages import Message, Post
from ziggurat.parallel.pipeline.runner import Held, StageRunner
from ziggurat.parallel.pipeline.stages import Stage, make_stages
from ziggurat.parallel.workers import Workers

Address = tuple[int, int]  # of a message: the piece that sends, the piece that receives


@dataclass
class Results:
    """What a step leaves, on the worker of the last piece; elsewhere None.

    Attributes:
        outputs: Of the network.
        loss: Detached.
    """

    outputs: Any = None
    loss: Tensor | None = None


@dataclass
class _Pass:
    """The state of one forward and backward pass."""

    held: dict[int, Held] = field(default_factory=dict)
    arrived: dict[Address, Message] = field(default_factory=dict)


class Branches:
    """A network whose branches are computed at the same time.

    Args:
        model: Takes one tensor; every worker has its weights.
        placement: Where each call is computed, the same on every worker.
        workers: Of the lp axis.

    Attributes:
        post: Counts what was sent.
    """

    def __init__(self, model: nn.Module, placement: Placement, workers: Workers) -> None:
        self.model, self.placement, self.workers = model, placement, workers
        self.runner, self.post = StageRunner(model), Post(workers)

    def names_of(self, graph: Graph, worker: int) -> set[str]:
        """Return the names of the parameters and buffers that a worker's calls use; unused ones are the first's."""
        pairs = list(zip(graph.calls, self.placement.worker_of, strict=True))
        names = {name for call, owner in pairs if owner == worker for name in call.states}
        if worker == 0:
            used = {name for call, _ in pairs for name in call.states}
            known = {name for name, _ in (*self.model.named_parameters(), *self.model.named_buffers())}
            names |= known - used
        return names

    def run(self, graph: Graph, images: Tensor, loss: Callable[[Any], Tensor]) -> Results:
        """Run forward and backward; parameters receive the part of this worker's own uses.

        Args:
            graph: Of the images' size.
            images: On the first piece's worker its gradient is that of the loss.
            loss: From the outputs to a number; called on the last piece's worker.

        Communication:
            Every tensor that another worker's piece uses, and as many bytes back.
        """
        owners = self.placement.worker_of
        bounds = [n for n in range(1, len(owners)) if owners[n] != owners[n - 1]]
        pieces = make_stages(graph, bounds)
        self.owners = [owners[piece.first] for piece in pieces]
        mine = [piece for piece in pieces if self.owners[piece.number] == self.workers.rank]
        state, results = _Pass(), Results()
        for piece in mine:
            self._forward(state, graph, piece, images, loss if piece is pieces[-1] else None, results)
        for piece in reversed(mine):
            self._backward(state, piece)
        self.post.flush()
        return results

    def _forward(
        self,
        state: _Pass,
        graph: Graph,
        piece: Stage,
        images: Tensor,
        loss: Callable[[Any], Tensor] | None,
        results: Results,
    ) -> None:
        received: dict[Value, Tensor] = {}
        for source in sorted(piece.receives):
            tensors = self._receive(state, (source, piece.number)).tensors
            received |= {value: tensor for value, tensor in tensors.items() if tensor is not None}
        if piece.number == 0:
            received[Value(INPUT, 0)] = images
        held = self.runner.forward(piece, graph, dict(sorted(received.items())))
        if loss is not None:
            results.outputs, held.loss = held.outputs, loss(held.outputs)
            results.loss = held.loss.detach()
        for target, values in piece.sends.items():
            self._send(state, (piece.number, target), {value: held.sent[value] for value in values})
        state.held[piece.number] = held

    def _backward(self, state: _Pass, piece: Stage) -> None:
        gradients: dict[Value, Tensor] = {}
        for user in sorted(piece.sends, reverse=True):  # as autograd does: the latest use first
            for value, gradient in self._receive(state, (user, piece.number)).tensors.items():
                if gradient is not None:
                    gradients[value] = gradients[value] + gradient if value in gradients else gradient
        back = self.runner.backward(state.held.pop(piece.number), gradients)
        for source, values in piece.receives.items():
            found = {value: back[value] for value in values if value in back}
            self._send(state, (piece.number, source), found)

    def _send(self, state: _Pass, address: Address, tensors: dict[Value, Any]) -> None:
        target = self.owners[address[1]]
        if target != self.workers.rank:
            self.post.send(Message(tensors, address), target)
            return
        here = {
            name: None if tensor is None else tensor.detach().requires_grad_(tensor.requires_grad)
            for name, tensor in tensors.items()
        }
        state.arrived[address] = Message(here, address)

    def _receive(self, state: _Pass, address: Address) -> Message:
        """Return a message, after taking those that its sender has sent before."""
        while address not in state.arrived:
            message = self.post.receive(self.owners[address[0]])
            state.arrived[message.note] = message
        return state.arrived.pop(address)

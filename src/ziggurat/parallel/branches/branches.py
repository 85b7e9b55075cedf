r"""Running a network whose branches lie on different workers.

    worker 0   piece 0 ------ piece 2 (finest level) ------ piece 4 (join, loss)
                     \ values                        values /
    worker 1           '----- piece 3 (coarser levels) ----'

A piece is a run of consecutive calls on one worker. Every worker computes its pieces in their order, and backward in the
reverse order; a piece needs only pieces before it, and sends never wait, so no worker can wait for one that waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ziggurat.parallel.branches.placement import Placement, place
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.graph.costs import Costs
from ziggurat.parallel.graph.generators import noting_draws
from ziggurat.parallel.graph.graph import INPUT, Graph, Value
from ziggurat.parallel.graph.recent import Recent
from ziggurat.parallel.graph.runner import Held, StageRunner, like
from ziggurat.parallel.graph.stages import Stage, make_stages
from ziggurat.parallel.graph.trace import ImageSpec, Tracer, spec_of
from ziggurat.parallel.pipeline.messages import Channel, Message
from ziggurat.parallel.pipeline.pipeline import Work
from ziggurat.parallel.pipeline.slots import Slot, timetable
from ziggurat.parallel.spatial import SpatialMesh, band_of

Address = tuple[int, int]  # of a message: the piece that sends, the piece that receives


@dataclass(frozen=True)
class Pieces:
    """The pieces of a network, for images of one size.

    Attributes:
        graph: All calls.
        placement: Where each is computed.
        pieces: In the order of one worker.
        owners: The worker of each piece.
    """

    graph: Graph
    placement: Placement
    pieces: list[Stage]
    owners: list[int]

    def of_worker(self, worker: int) -> list[Stage]:
        """Return a worker's pieces, in order."""
        return [piece for piece, owner in zip(self.pieces, self.owners, strict=True) if owner == worker]

    def states_of(self, worker: int) -> set[str]:
        """Return the names of the parameters and buffers that a worker's calls use."""
        return {name for piece in self.of_worker(worker) for call in piece.calls for name in call.states}


def cut_to_pieces(graph: Graph, placement: Placement) -> Pieces:
    """Return the pieces of a graph whose calls are placed."""
    owners = placement.worker_of
    bounds = [n for n in range(1, len(owners)) if owners[n] != owners[n - 1]]
    pieces = make_stages(graph, bounds)
    return Pieces(graph, placement, pieces, [owners[piece.first] for piece in pieces])


def timetable_of(pieces: Pieces, num_workers: int, backward: bool) -> list[list[Slot[int, Address]]]:
    """Return the slots in which each worker computes forward, or backward, of its pieces, by their numbers."""
    orders = [[piece.number for piece in pieces.of_worker(worker)] for worker in range(num_workers)]

    def needs(number: int) -> list[int]:
        piece = pieces.pieces[number]
        return list(piece.sends if backward else piece.receives)

    def messages(number: int) -> list[tuple[int, Address]]:
        piece = pieces.pieces[number]
        targets = list(piece.receives if backward else piece.sends)
        owned = [(pieces.owners[target], (number, target)) for target in targets]
        return [(owner, address) for owner, address in owned if owner != pieces.owners[number]]

    return timetable([order[::-1] if backward else order for order in orders], needs, messages)


@dataclass
class _Pass:
    """The state of forward and backward of one microbatch."""

    pieces: Pieces
    held: dict[int, Held] = field(default_factory=dict)
    arrived: dict[Address, Message] = field(default_factory=dict)


class Branches:
    """A network whose branches are computed at the same time.

    Args:
        model: Takes one tensor; every worker has its weights.
        tracer: Of the model.
        costs: Of the calls, the same on every worker: by them each size of image is placed.
        workers: Of the lp axis.
        spatial: The workers that share each image, if they do.
        in_slots: How messages travel, see `messages`; by default as the device needs it.

    Attributes:
        channel: Counts what was sent.
        newest: The pieces of the microbatch that was computed last.
        drawn_backwards: Names of generators of which a backward pass of this worker's has drawn.
    """

    def __init__(
        self,
        model: nn.Module,
        tracer: Tracer,
        costs: Costs,
        workers: Workers,
        spatial: SpatialMesh | None = None,
        in_slots: bool | None = None,
    ) -> None:
        self.tracer, self.costs, self.workers = tracer, costs, workers
        self.runner, self.channel = StageRunner(model), Channel(workers, spatial, in_slots)
        self.known = Recent[Graph, Pieces]()
        self.newest: Pieces | None = None
        self.drawn_backwards: set[str] = set()

    def pieces_of(self, spec: ImageSpec) -> Pieces:
        """Return the pieces of images of a size."""
        graph = self.tracer.trace(spec, allow=("numbers",))
        return self.known.get(
            graph, lambda: cut_to_pieces(graph, place(graph, self.costs, self.workers.size))
        )

    def _pieces_of_microbatch(self, spec: ImageSpec, begin: Callable[[], None]) -> Pieces:
        pieces = self.pieces_of(spec)
        own = self.tracer.trace_microbatch(spec, pieces.graph, begin)
        return pieces if own is pieces.graph else cut_to_pieces(own, pieces.placement)

    def step(self, work: Work) -> tuple[dict[int, Any], dict[int, Tensor]]:
        """Run forward and backward of all microbatches, one after the other.

        Args:
            work: Its images are asked for on the first worker; the stage that it is told of is always 0.

        Returns:
            The outputs and the loss (detached) of each microbatch, on the worker of the last call; elsewhere nothing.
            Where there is a loss, nobody keeps the outputs.

        Raises:
            CollectiveFailed: If another worker has ended or is stuck.

        Placement:
            Parameters receive the part of the gradient that comes from this worker's own calls.

        Communication:
            The shapes of the images to all workers; every tensor that another worker's piece uses, and as many bytes
            back.
        """
        images = [work.images(index) for index in range(work.count)] if self.workers.is_first else []
        specs = self.workers.broadcast_object([spec_of(one) for one in images])
        outputs: dict[int, Any] = {}
        losses: dict[int, Tensor] = {}
        for index, spec in enumerate(specs):
            with work.compute():
                self.newest = self._pieces_of_microbatch(spec, partial(work.begin, index))
            state = _Pass(self.newest)
            work.begin(index)
            for piece in self._turns(state, backward=False):
                held = self._forward(state, piece, images[index] if images else None, work)
                if held.outputs is None:
                    continue
                if work.loss is None:
                    outputs[index] = held.outputs
                else:
                    held.loss = work.loss(held.outputs, index)
                    losses[index] = held.loss.detach()
                held.outputs = None
            work.after_forward(0, index)
            if torch.is_grad_enabled():
                with work.leaf(0, index), noting_draws(self.drawn_backwards, self.workers.device):
                    for piece in self._turns(state, backward=True):
                        self._backward(state, piece)
            self.channel.flush()
        return outputs, losses

    def infer(self, work: Work) -> dict[int, Any]:
        """Run forward of all microbatches; the outputs are on the worker of the last call."""
        with torch.no_grad():
            return self.step(work)[0]

    def _turns(self, state: _Pass, backward: bool) -> Iterator[Stage]:
        """Yield this worker's pieces in the order of forward or backward; what arrives in slots is taken in between."""
        pieces, rank = state.pieces, self.workers.rank
        if not self.channel.in_slots:
            mine = pieces.of_worker(rank)
            yield from reversed(mine) if backward else mine
            return
        for slot in timetable_of(pieces, self.workers.size, backward)[rank]:
            if slot.action is not None:
                yield pieces.pieces[slot.action]
            arrived = self.channel.swap([source for source, _ in slot.receives])
            state.arrived |= {address: one for (_, address), one in zip(slot.receives, arrived, strict=True)}

    def _forward(self, state: _Pass, piece: Stage, images: Tensor | None, work: Work) -> Held:
        received: dict[Value, Tensor] = {}
        for source in sorted(piece.receives):
            tensors = self._receive(state, (source, piece.number)).tensors
            received |= {value: tensor for value, tensor in tensors.items() if tensor is not None}
        if piece.number == 0:
            assert images is not None  # the first call is on the first worker
            received[Value(INPUT, 0)] = images
        with work.compute():
            held = self.runner.forward(piece, state.pieces.graph, dict(sorted(received.items())))
        for target, values in piece.sends.items():
            self._send(state, (piece.number, target), {value: held.sent[value] for value in values})
        if torch.is_grad_enabled():
            state.held[piece.number] = held
        return held

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
        target = state.pieces.owners[address[1]]
        if target == self.workers.rank:
            here = {name: None if t is None else _own_leaf(t) for name, t in tensors.items()}
            state.arrived[address] = Message(here, address)
        else:
            self.channel.send(Message(tensors, address), target)

    def _receive(self, state: _Pass, address: Address) -> Message:
        """Return a message, after taking those that its sender has sent before."""
        while not self.channel.in_slots and address not in state.arrived:
            message = self.channel.receive(state.pieces.owners[address[0]])
            state.arrived[message.note] = message
        return state.arrived.pop(address)


def _own_leaf(tensor: Tensor) -> Tensor:
    """Return a tensor as a piece on the same worker receives it: its own leaf, the same memory."""
    local = band_of(tensor)
    return like(tensor, local.detach().requires_grad_(local.requires_grad))

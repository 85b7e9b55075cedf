"""Running statistics of batch norm and instance norm, combined in canonical order.

In training a batch norm uses the statistics of its microbatch, and adds them to its running statistics. The order
of these additions is that of the microbatches, whatever worker computes which: with momentum ``m`` and the
statistics ``s_i`` of microbatch ``i``, ``r <- r + m * (s_i - r)`` for ``i = 0, 1, ...``.

While a step runs, the momentum of each layer is 1, so that a forward pass leaves the statistics of its microbatch
in the layer's own buffers (repeating the forward pass, as activation checkpointing does, changes nothing).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.parallel.collectives.canonical import gather_leaves, partition
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.torch_internals.modules import NORMS, is_batch_norm
from ziggurat.torch_internals.tensors import version_of


class RunningStatistics:
    """Keeps the running statistics of all batch norms of a model in canonical order.

    Args:
        model: Any module; the statistics of layers in evaluation mode stay as they are.
        workers: The workers of the data parallel axis.
    """

    def __init__(self, model: nn.Module, workers: Workers) -> None:
        self.workers, self.model = workers, model
        self.layers = [
            module
            for module in model.modules()
            if isinstance(module, NORMS) and module.track_running_stats and module.running_mean is not None
        ]
        self.momenta = [layer.momentum for layer in self.layers]
        # an instance norm counts no batches, and has no cumulative average: without a momentum its statistics stay
        self.weights = [
            0.0 if layer.momentum is None and not is_batch_norm(layer) else layer.momentum
            for layer in self.layers
        ]
        self.buffers = [
            buffer
            for layer in self.layers
            for buffer in (layer.running_mean, layer.running_var)
            if buffer is not None
        ]
        # a layer that tracks statistics has a counter
        self.counters = [c for layer in self.layers if (c := layer.num_batches_tracked) is not None]
        known = {id(buffer) for buffer in (*self.buffers, *self.counters)}
        self.others = {name: b for name, b in model.named_buffers() if id(b) not in known}
        self.sizes = [buffer.numel() for buffer in self.buffers]
        self.fixed: Tensor | None = (
            None  # the momentum of each statistic, once it is known on which device they are
        )

    def start(self) -> None:
        """Begin a step: keep the running statistics, and let each forward pass leave its own."""
        self.versions = {name: version_of(buffer) for name, buffer in self.others.items()}
        self.places = {name: buffer.data_ptr() for name, buffer in self.others.items() if not buffer.is_meta}
        if not self.layers:
            return
        self.before = torch.cat(self.buffers)
        self.batches = [counter.clone() for counter in self.counters]
        self.leaves: list[Tensor] = []
        for layer in self.layers:
            layer.momentum = 1.0

    def take_leaf(self) -> None:
        """Keep the statistics that the forward pass of one microbatch has left.

        Raises:
            UserError: If the pass has changed a buffer that is not a batch norm's: it would drift on each worker.
        """
        changed = [name for name, b in self.others.items() if version_of(b) != self.versions[name]]
        if self.workers.size > 1 and self.others:
            now = dict(self.model.named_buffers())
            changed += [name for name, buffer in self.others.items() if now.get(name) is not buffer]
            changed += [name for name, place in self.places.items() if self.others[name].data_ptr() != place]
        if changed:
            raise UserError(
                f"training changes the buffers {', '.join(dict.fromkeys(changed))}, which are not a batch norm's: they would differ "
                "between workers; use a model without them, or model.norm=group"
            )
        if self.layers:
            self.leaves.append(torch.cat(self.buffers))
            self._fill(self.before)  # a layer that the next microbatch skips must not show this one's

    def finish(self, num_leaves: int) -> None:
        """Combine the statistics of all `num_leaves` microbatches, and restore the layers' momenta.

        Communication: one all-gather of the statistics of all microbatches.
        """
        if not self.layers:
            return
        mine = torch.stack(self.leaves) if self.leaves else self.before.new_empty((0, len(self.before)))
        leaves = gather_leaves(mine, partition(num_leaves, self.workers.size), self.workers)
        running = self.before
        for i, leaf in enumerate(leaves):
            running = torch.lerp(running, leaf, self._weights(i, running))
        self._write(running, num_leaves)

    def abandon(self) -> None:
        """Go back to the running statistics from before the step."""
        if self.layers:
            self._write(self.before, 0)

    def _write(self, running: Tensor, num_new: int) -> None:
        self._fill(running)
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum
        for layer, counter, batches in zip(self.layers, self.counters, self.batches, strict=True):
            counter.copy_(batches + num_new * (layer.training and is_batch_norm(layer)))
        self.leaves = []

    def _fill(self, running: Tensor) -> None:
        for buffer, value in zip(self.buffers, running.split(self.sizes), strict=True):
            # `.data`: a backward pass that is still to come has kept the buffer, though in training it does not read it
            buffer.data.copy_(value)

    def _weights(self, leaf: int, like: Tensor) -> Tensor:
        """Return each statistic's weight of the new value; a momentum of None is the cumulative average.

        Nothing is read back from the device: a step of many microbatches would wait for it at each.
        """
        if self.fixed is None or (self.fixed.dtype, self.fixed.device) != (like.dtype, like.device):
            layers = [number for number in range(len(self.layers)) for _ in range(2)]
            sizes = torch.tensor(self.sizes)
            layer_of = torch.tensor(layers).repeat_interleave(sizes, output_size=sum(self.sizes))
            self.layer_of = layer_of.to(like.device)
            momenta = torch.tensor([m if m is not None else 0.0 for m in self.weights], dtype=like.dtype)
            self.fixed = momenta.to(like.device)[self.layer_of]
            is_cumulative = [m is None for m in self.weights]
            mask = torch.tensor(is_cumulative).to(like.device)[self.layer_of]
            self.cumulative = mask if any(is_cumulative) else None
        if self.cumulative is None:
            return self.fixed
        averages = 1.0 / (torch.stack(self.batches).to(like.device).double() + (leaf + 1))
        return torch.where(self.cumulative, averages.to(like.dtype)[self.layer_of], self.fixed)

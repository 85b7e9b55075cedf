"""The state of a run: all that a step changes, and the only owner of it.

One naming for its tensors: ``model.NAME`` and ``average.NAME`` are weights and buffers, ``optimizer.PARAMETER.SLOT`` what the
optimizer keeps of a parameter, ``loss.accumulated`` what the loss has summed up over steps, ``replicas.NUMBER.KIND.NAME`` and
``replicas.momentum.PARAMETER`` what `ziggurat.strategies.replicas` keeps. The settings of the optimizer are no state: the config and the step give them. It lies beside
the layout, which says where each of these tensors lies: strategies, training and checkpoints all ask both.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.meta import meta_copy
from ziggurat.strategies.alone import refuse_own_groups
from ziggurat.strategies.costs.decisions import Decisions
from ziggurat.strategies.replicas import Replicas
from ziggurat.strategies.whole import fill_states, local
from ziggurat.torch_internals.tensors import lerp_each_

Model = TypeVar("Model", bound=nn.Module)
ACCUMULATED = "loss.accumulated"


@dataclass
class TrainState(Generic[Model]):
    """What a run is made of, as this worker has it.

    Attributes:
        model: The model in training.
        optimizer: Of its parameters.
        average: An exponential moving average of its weights and floating-point buffers; the model itself where nothing is
            averaged.
        decay: Weight of the past in the average; 0 keeps none.
        step: Steps that are done.
        counters: What the run has counted in these steps: those that were skipped, samples that were replaced.
        pending: What it has counted in the step that is not done yet.
        decisions: What was measured and fixes bits: cuts, costs of branches.
        accumulated: What the loss has summed up over all steps so far, and depends on, float64, one-dimensional; the same on every
            worker.
        parts: By the parameter's name what the optimizer changes in its place: this worker's rows, in the same memory.
        replicas: Of a run by local SGD: what this worker's replicas have for themselves.
        condition: ``complete`` after a step; ``computing`` in one, which can be undone; ``changing`` while tensors change.
    """

    model: Model
    optimizer: torch.optim.Optimizer
    average: Model
    decay: float = 0.0
    step: int = 0
    counters: Counter[str] = field(default_factory=Counter)
    pending: Counter[str] = field(default_factory=Counter)
    decisions: Decisions = field(default_factory=Decisions)
    accumulated: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    parts: Mapping[str, nn.Parameter] = field(default_factory=dict)
    replicas: Replicas | None = None
    condition: Literal["complete", "computing", "changing"] = "complete"

    @classmethod
    def start(
        cls, model: Model, optimizer: torch.optim.Optimizer, decay: float = 0.0, num_accumulated: int = 0
    ) -> TrainState[Model]:
        """Return the state before the first step.

        Args:
            model: With its first weights.
            optimizer: Of its parameters.
            decay: Of the moving average; 0 keeps none.
            num_accumulated: Numbers that the loss sums up over steps.

        Raises:
            UserError: If a layer talks to other processes by itself.
        """
        refuse_own_groups(model)
        average = copy.deepcopy(model).requires_grad_(False) if decay else model
        accumulated = torch.zeros(num_accumulated, dtype=torch.float64)
        return cls(model, optimizer, average, decay, accumulated=accumulated)

    @classmethod
    def go_on(
        cls, model: Model, optimizer: torch.optim.Optimizer, decay: float, tensors: Mapping[str, Tensor]
    ) -> TrainState[Model]:
        """Return a state of which all tensors are there, by the names of `tensors`; they become its own, and nothing is copied.

        Args:
            model: It has its own of them already (`give_states`).
            optimizer: Of its parameters.
            decay: Of the moving average; 0 keeps none.
            tensors: Whole, as another state of the same run has left them.

        Raises:
            UserError: If a layer talks to other processes by itself.
        """
        refuse_own_groups(model)
        average = model
        if decay:
            others = {name: buffer.clone() for name, buffer in model.named_buffers()}  # that are not saved
            average = fill_states(meta_copy(model), others | names_of(tensors, "average"))
            average.requires_grad_(False)
        parameters = dict(model.named_parameters())
        for name in filter(lambda name: name.startswith("optimizer."), tensors):
            owner, slot = split_slot(name)
            optimizer.state[parameters[owner]][slot] = tensors[name]
        accumulated = tensors.get(ACCUMULATED, torch.zeros(0, dtype=torch.float64))
        return cls(model, optimizer, average, decay, accumulated=accumulated)

    @property
    def models(self) -> tuple[Model, ...]:
        """The model, and its average where there is one."""
        return (self.model,) if self.average is self.model else (self.model, self.average)

    def complete(self) -> None:
        """Note that a step is done, and all that belongs to it."""
        self.counters.update(self.pending)
        self.pending.clear()
        self.step += 1
        self.condition = "complete"

    def counted(self, name: str) -> int:
        """Return what was counted so far, in the present step, too."""
        return self.counters[name] + self.pending[name]

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that this worker has of the state by its name, not copied; of what is sharded its rows.

        Raises:
            TypeError: If the optimizer keeps something that is no tensor.
        """
        found = self.weights()
        trained = {**dict(self.model.named_parameters()), **self.parts}
        names: dict[Tensor, str] = {p: name for name, p in trained.items()}
        for parameter, slots in self.optimizer.state.items():
            for slot, value in slots.items():
                if value is None:
                    continue
                if not isinstance(value, Tensor):
                    raise TypeError(
                        f"an optimizer's state must be tensors: {names[parameter]} has a {type(value).__name__}, {slot}"
                    )
                found[f"optimizer.{names[parameter]}.{slot}"] = local(value)
        of_replicas = {} if self.replicas is None else self.replicas.tensors()
        return found | self.of_the_loss() | of_replicas

    def of_the_loss(self) -> dict[str, Tensor]:
        """Return what the loss has summed up, by name; nothing where it sums up nothing."""
        return {ACCUMULATED: self.accumulated} if len(self.accumulated) else {}

    def weights(self) -> dict[str, Tensor]:
        """Return the weights and buffers of model and average that this worker has, by name."""
        kinds = zip(("model", "average"), self.models, strict=False)
        states = {f"{kind}.{name}": value for kind, one in kinds for name, value in one.state_dict().items()}
        return {name: local(value) for name, value in states.items() if not value.is_meta}

    @torch.no_grad()
    def update_average(self, times: int = 1) -> None:
        """Add the weights after the present step; early steps weigh more, so that the start is forgotten.

        Args:
            times: For how many steps they stand.
        """
        if not self.decay:
            return
        new = 1 - min(self.decay, (1 + self.step) / (10 + self.step)) ** times
        pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        held = [(local(mean), local(value)) for mean, value in pairs if not value.is_meta]
        floating = [(mean, value) for mean, value in held if mean.is_floating_point()]
        if floating:
            lerp_each_([mean for mean, _ in floating], [value for _, value in floating], new)
        for mean, value in held:
            if not mean.is_floating_point():
                mean.copy_(value)


def split_slot(name: str) -> tuple[str, str]:
    """Return the parameter and the optimizer's word of a name such as ``optimizer.stem.weight.exp_avg``.

    Example:
        >>> split_slot("optimizer.stem.weight.exp_avg")
        ('stem.weight', 'exp_avg')
    """
    owner, _, slot = name.removeprefix("optimizer.").rpartition(".")
    return owner, slot


def owner_of(name: str) -> str:
    """Return the parameter or buffer that a tensor of the state is of.

    Example:
        >>> owner_of("average.stem.weight"), owner_of("optimizer.stem.weight.step")
        ('stem.weight', 'stem.weight')
    """
    kind, _, rest = name.partition(".")
    return split_slot(name)[0] if kind == "optimizer" else rest


def names_of(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the tensors of one kind, such as ``average``, by the names that they have in a model."""
    return {
        name.partition(".")[2]: value for name, value in tensors.items() if name.partition(".")[0] == kind
    }

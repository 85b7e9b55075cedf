"""Losses and gradients that are not finite, from one sample of a run, in this process alone."""

from ziggurat.data.sampler import Sampler
from ziggurat.tasks.registry import find_task, register_task
from ziggurat.torch_internals.hooks import register_unseen

BAD = Sampler(17, 8, 0).batch(1)[5]  # of the second step, in microbatch 2 of 4
PARAMETER = "head.classes.weight"


def spoil(how):
    """Register a task: detection, but one sample of one epoch spoils the loss, or the gradient of one parameter or of all.

    Returns:
        Its name, for the config of a run in this process.
    """

    @register_task
    class Spoiled(find_task("detect")):
        name, model_task = "spoiled", "detect"

        def __init__(self, model, config):
            super().__init__(model, config)
            self.trained, self.bad, self.hooks = model, [], []

        def assign(self, batch):
            assignment = super().assign(batch)
            if BAD in batch.ids:
                self.bad = [assignment]
            return assignment

        def loss_shares(self, outputs, assignment, totals):
            shares = super().loss_shares(outputs, assignment, totals)
            for hook in self.hooks:
                hook.remove()
            self.hooks = []
            if not any(assignment is one for one in self.bad):
                return shares
            if how == "gradient":
                spoiled = [dict(self.trained.named_parameters())[PARAMETER]]
            else:
                shares = {
                    name: value * (float("inf") if how == "loss" else 1.0) for name, value in shares.items()
                }
                spoiled = shares.values() if how == "all gradients" else []
            self.hooks = [register_unseen(one, lambda gradient: gradient * float("nan")) for one in spoiled]
            return shares

    return Spoiled.name

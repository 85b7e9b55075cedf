"""Losses and gradients that are not finite, from one sample of a run, in this process alone."""

from ziggurat.data.sampler import Sampler
from ziggurat.training import loop as module
from ziggurat.training import step as passes

BAD = Sampler(17, 8, 0).batch(1)[5]  # of the second step, in microbatch 2 of 4
PARAMETER = "head.classes.weight"


def spoil(how):
    """Make the loss, or the gradient of one parameter or of all, NaN for one sample of one epoch (in this process)."""
    begin, make_task, seen = passes.Passes._seed, module.make_task, {}

    def spoiled_begin(step, index):
        seen["bad"] = BAD in step.microbatches[index].ids
        for hook in seen.pop("hooks", []):
            hook.remove()
        if how == "gradient" and seen["bad"]:
            named = dict(step.model.named_parameters())
            seen["hooks"] = [named[PARAMETER].register_hook(lambda gradient: gradient * float("nan"))]
        begin(step, index)

    def spoiled_task(model, config):
        task = make_task(model, config)
        shares = task.loss_shares

        def spoiled_shares(*arguments):
            factor = float("inf") if how == "loss" and seen["bad"] else 1.0
            values = {name: value * factor for name, value in shares(*arguments).items()}
            for value in values.values() if how == "all gradients" and seen["bad"] else ():
                value.register_hook(lambda gradient: gradient * float("nan"))
            return values

        object.__setattr__(task, "loss_shares", spoiled_shares)
        return task

    passes.Passes._seed = spoiled_begin
    module.make_task = spoiled_task

"""Runs of random weights: what reads runs needs no training."""

import torch

from ziggurat.config import override
from ziggurat.models.build import build_model
from ziggurat.runs.folder import WEIGHTS, declare_run, save_weights, start_run_folder
from ziggurat.tasks.opening import open_dataset

RESOLVED = {"plan": "dp=1", "train.ema": 0}


def untrained_run(folder, config, seed, **settings):
    """Return the name of a run that has come to its end, with weights by a seed."""
    config = override(config, RESOLVED | settings)
    dataset = open_dataset("digits", "train", config.task, config.data, config.digits)
    torch.manual_seed(seed)
    model = build_model(config.model, len(dataset.classes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from each other, and from zero
            parameter.add_(torch.randn_like(parameter) * 0.05)
    start_run_folder(folder, config, dataset)
    declare_run(folder, config)
    save_weights(model, folder / WEIGHTS, {})
    return str(folder)

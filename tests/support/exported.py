"""Runs with weights that nobody trained, and whose outputs spread as those of trained ones do: what exports are made of."""

import torch
from torch import nn

from support.small_runs import config_of
from ziggurat.exports.samples import embedded_images, first_tiles
from ziggurat.models.build import build_model
from ziggurat.runs.folder import Run, declare_run, save_weights, start_run_folder
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import make_task


def spread_run(task, **settings):
    """Return a run whose scores lie far apart: a tie would be decided by rounding."""
    config = config_of(task, **settings)
    torch.manual_seed(0)
    dataset = open_dataset("digits", "train", config.task, config.data, config.digits)
    model = build_model(config.model, len(dataset.classes)).eval()
    for name, layer in model.named_modules():
        if name in model.class_layers and isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, std=0.3)  # more would make scores of 1, which are ties
    return Run(model, config, tuple(dataset.classes), tuple(dataset.category_ids))


def images_of(run, count):
    """Return names and tiles of embedded images."""
    return first_tiles(embedded_images(run.config, 3), make_task(run.model, run.config), count)


def in_folder(run, folder):
    """Write a run as `train` leaves it, and return its folder."""
    config = run.config
    dataset = open_dataset("digits", "train", config.task, config.data, config.digits)
    start_run_folder(folder, config, dataset)
    declare_run(folder, config)
    save_weights(run.model, folder / "weights.safetensors", {})
    return folder

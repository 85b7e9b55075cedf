"""Predictions for images on all workers, gathered: what tests compare."""

from ziggurat.inference.run import run_images
from ziggurat.inference.tiles import Compute, compute_as_configured, place_as_configured


def compute_for(model, config, mesh, progress=None, **options):
    """Return how a model is run on a mesh, as a config has it but for some options."""
    as_configured = compute_as_configured(config, place_as_configured(model, config, mesh), progress)
    return Compute(**(vars(as_configured) | options))


def all_predictions(model, task, images, config, mesh, progress=None, **options):
    """Return the prediction for each image, in order, on every worker."""
    own: dict = {}
    run_images(task, images, compute_for(model, config, mesh, progress, **options), own.__setitem__)
    every = {index: one for part in mesh.workers.gather(own) for index, one in part.items()}
    return [every[index] for index in range(len(images))]

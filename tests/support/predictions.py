"""Predictions for images on all workers, gathered: what tests compare."""

from ziggurat.inference.run import run_images
from ziggurat.inference.tiles import compute_as_configured


def all_predictions(model, task, images, config, mesh, progress=None, compute=None):
    """Return the prediction for each image, in order, on every worker."""
    compute = compute or compute_as_configured(config, mesh, progress)
    own = run_images(model, task, images, compute)
    every = {index: one for part in mesh.workers.gather(own) for index, one in part.items()}
    return [every[index] for index in range(len(images))]

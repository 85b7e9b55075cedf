"""The microbatch that an epoch leaves over may be a single image: too few for some batch norms."""

from __future__ import annotations

from ziggurat.config import RunConfig, bands_of
from ziggurat.data.sampler import smallest_microbatch
from ziggurat.errors import UserError
from ziggurat.models.probe import takes_one_image
from ziggurat.models.vision import VisionModel


def check_smallest_microbatch(model: VisionModel, config: RunConfig, num_samples: int, side: int) -> None:
    """Refuse a run that would come upon a microbatch of one image, and stop there.

    Args:
        model: On the CPU; only its layers count, not its number of classes.
        config: With its number of microbatches.
        num_samples: Samples of an epoch, at least 1.
        side: Smallest side of its crops.

    Raises:
        UserError: With what would leave no single image.
    """
    train = config.train
    batch, pieces = train.batch_size, train.microbatches

    def smallest(batch_size: int, num_microbatches: int) -> int:
        return smallest_microbatch(num_samples, batch_size, num_microbatches, train.steps)

    if smallest(batch, pieces) > 1 or takes_one_image(model, side, bands_of(config.model)):
        return
    larger = range(batch + pieces, 4 * batch + 1, pieces)
    fewer = [count for count in range(pieces - 1, 0, -1) if batch % count == 0]
    remedies = [f"--batch-size {size}" for size in larger if smallest(size, pieces) > 1][:1]
    remedies += [f"--microbatches {count}" for count in fewer if smallest(batch, count) > 1][:1]
    raise UserError(
        f"a batch norm of {config.model.name} needs microbatches of two images at least (of {side} x {side} pixels): "
        f"{num_samples} samples an epoch, batches of {batch} and {pieces} microbatches of {batch // pieces} come to a "
        f"microbatch of 1; use {', '.join([*remedies, 'or --set model.norm=group'])}"
    )

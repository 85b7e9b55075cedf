"""A model that is ready to be run on images of any size: what evaluation, prediction, the report, a server and a notebook share.

It has no files, no globals and no signal handlers. One that computes on this process alone may be called from several threads at
once; where several workers compute together, all of them make the same calls, from one thread each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ziggurat.config import DataConfig, RunConfig
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.readers.images import inspect_image, read_image
from ziggurat.data.readers.sample_range import SampleRange, read_range
from ziggurat.errors import UserError
from ziggurat.inference.run import run_images
from ziggurat.inference.tiles import Images, ProgressCallback, compute_as_configured, place_as_configured
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run
from ziggurat.strategies.executor import Executor
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import make_task

GivenImage = str | Path | Tensor | np.ndarray | Image.Image
AT_ONCE = 16  # images whose tiles are computed together, so that batches are full


class Predictor:
    """A model with its task on the workers that compute it.

    Args:
        executor: The model on its workers; in evaluation mode from now on.
        task: Of the model.
        config: How images are seen, and what of the predictions counts.
        classes: The name of each label.

    Attributes:
        model: The model, as this worker has it.
        task: As the argument.
        config: As the argument.
        classes: As the argument.

    Example:
        >>> import ziggurat
        >>> predictor = ziggurat.load("runs/detect-1")  # doctest: +SKIP
        >>> for detections in predictor(["harbour.png"]):  # doctest: +SKIP
        ...     print(detections.boxes_xyxy, [predictor.classes[label] for label in detections.labels])
    """

    def __init__(
        self,
        executor: Executor[VisionModel],
        task: Task[Any, Any],
        config: RunConfig,
        classes: Sequence[str] = (),
    ) -> None:
        self.executor, self.task, self.config, self.classes = executor, task, config, tuple(classes)
        self.model = executor.model

    @classmethod
    def of_model(
        cls, model: VisionModel, config: RunConfig, mesh: Mesh | None = None, classes: Sequence[str] = ()
    ) -> Predictor:
        """Return a predictor of a model with its weights.

        Args:
            model: Is moved to where it computes; what is other workers' is dropped.
            config: Of the run.
            mesh: All workers, which call this together; by default this process alone, where the model is.
            classes: The name of each label.

        Raises:
            UserError: On all workers, if the network cannot be spread as the mesh's plan says.
        """
        here = next(model.parameters()).device
        mesh = make_mesh(Workers(device=here)) if mesh is None else mesh
        model = place_model(model, mesh.home, config.train.channels_last).eval()
        return cls(place_as_configured(model, config, mesh), make_task(model, config), config, classes)

    @classmethod
    def of_run(cls, run: Run, mesh: Mesh | None = None) -> Predictor:
        """Return a predictor of a finished run; see `of_model`."""
        classes = run.classes or tuple(str(label) for label in range(run.model.num_classes))
        return cls.of_model(run.model, run.config, mesh, classes)

    def predict(self, images: Images, progress: ProgressCallback | None = None) -> dict[int, Any]:
        """Return the prediction for each of those images that are this worker's; every image is one worker's.

        Args:
            images: With known sizes, the same on every worker; every data set is such.
            progress: Called after each batch with this worker's tiles: done, and in all.

        Returns:
            By the number of the image what the task says of it, in the image's own pixels, on the CPU.

        Raises:
            UserError: On every worker, listing each image that cannot be decoded.
        """
        return run_images(self.task, images, compute_as_configured(self.config, self.executor, progress))

    def __call__(self, images: Iterable[GivenImage]) -> Iterator[Any]:
        """Yield the prediction for each image, in order.

        Args:
            images: Files; or images in memory: RGB, uint8, tensors of shape ``(3, H, W)``, arrays of shape ``(H, W, 3)``, or
                Pillow's.

        Raises:
            UserError: If an image is none of these or cannot be decoded; or if several workers compute together, as an image
                is one worker's then: use `predict`.
        """
        if self.executor.mesh.workers.size > 1:
            raise UserError("several workers compute together, and each has some of the images: call predict")
        given = iter(images)
        while some := list(itertools.islice(given, AT_ONCE)):
            found = self.predict(_Given.of(some, self.config.data))
            yield from (found[number] for number in range(len(some)))

    def draw(self, image: GivenImage, prediction: Any) -> Image.Image:
        """Return a picture of what is predicted for an image."""
        return self.task.draw(_Given.of([image], self.config.data).image(0), prediction, self.classes)


@dataclass(frozen=True)
class _Given:
    """Images that the user names or has in memory.

    Attributes:
        images: Files, or RGB pixels, uint8, shape ``(3, H, W)``.
        sizes: Rows and columns of each.
        max_pixels: Larger files are refused.
        samples: The range of samples of more than 8 bits.
    """

    images: tuple[Path | Tensor, ...]
    sizes: tuple[tuple[int, int], ...]
    max_pixels: int
    samples: SampleRange | None

    @classmethod
    def of(cls, images: Sequence[GivenImage], config: DataConfig) -> _Given:
        """Look at images without decoding files."""
        samples = read_range(config.range)
        known = tuple(map(_known, images))
        sizes = tuple(
            inspect_image(one, config.max_pixels, samples) if isinstance(one, Path) else _size(one)
            for one in known
        )
        return cls(known, sizes, config.max_pixels, samples)

    def __len__(self) -> int:
        return len(self.images)

    def record(self, index: int) -> ImageRecord:
        """Return what is known of an image."""
        one = self.images[index]
        name = str(one) if isinstance(one, Path) else f"image {index}"
        return ImageRecord(name, index + 1, *self.sizes[index])

    def image(self, index: int) -> Tensor:
        """Return an image's pixels."""
        one = self.images[index]
        return read_image(one, self.max_pixels, self.samples) if isinstance(one, Path) else one


def _known(image: GivenImage) -> Path | Tensor:
    """Return a file's path, or pixels as a tensor."""
    if isinstance(image, (str, Path)):
        return Path(image)
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8:
        image = torch.from_numpy(image.copy()).permute(2, 0, 1)
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3 and image.dtype == torch.uint8:
        return image
    shape = tuple(getattr(image, "shape", ()))
    raise UserError(
        "an image must be a file, or RGB in 8 bits: a uint8 tensor of shape (3, H, W), a uint8 array of shape (H, W, 3), or one of "
        f"Pillow's: got {type(image).__name__} of shape {shape} and type {getattr(image, 'dtype', 'unknown')}"
    )


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[1]), int(image.shape[2])

"""A model that is ready to be run on images of any size: what evaluation, prediction, the report, a server and a notebook share.

It has no files, no globals and no signal handlers. One that computes on this process alone may be called from several threads at
once; where several workers compute together, all of them make the same calls, from one thread each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from ziggurat.config import RunConfig
from ziggurat.errors import UserError
from ziggurat.inference.given import GivenImage, GivenImages, several
from ziggurat.inference.reading import Images
from ziggurat.inference.run import run_images
from ziggurat.inference.tiles import Compute, ProgressCallback, compute_as_configured, place_as_configured
from ziggurat.models.vision import VisionModel, place_model
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import Run
from ziggurat.strategies.executor import Executor
from ziggurat.strategies.mesh import Mesh, make_mesh
from ziggurat.strategies.resolve import resolve_dtype
from ziggurat.tasks.base import Task
from ziggurat.tasks.registry import join_tasks, make_task
from ziggurat.visualize.composite import Composite


class Predictor:
    """A model with its task on the workers that compute it.

    Args:
        executor: The model on its workers; in evaluation mode while a prediction runs, and afterwards as it was.
        task: Of the model.
        config: How images are seen, and what of the predictions counts.
        classes: The name of each label.

    Attributes:
        model: The model, as this worker has it.
        mesh: The workers.
        task: As the argument.
        config: As the argument.
        classes: As the argument.
        composite: What pictures show of images.

    Example:
        >>> import ziggurat
        >>> predictor = ziggurat.load("runs/detect-1")  # doctest: +SKIP
        >>> for detections in predictor(["harbour.png", "market.jpg"]):  # doctest: +SKIP
        ...     print(detections.boxes_xyxy, detections.scores, detections.names)
    """

    def __init__(
        self,
        executor: Executor[VisionModel],
        task: Task[Any, Any],
        config: RunConfig,
        classes: Sequence[str] = (),
    ) -> None:
        self.task, self.config, self.classes = task, config, tuple(classes)
        self.model, self.mesh = executor.model, executor.mesh
        self.composite = Composite.of(config.data)
        self._compute = compute_as_configured(config, executor)

    @classmethod
    def of_model(
        cls,
        model: VisionModel,
        config: RunConfig,
        mesh: Mesh | None = None,
        classes: Sequence[str] = (),
        task: Task[Any, Any] | None = None,
    ) -> Predictor:
        """Return a predictor of a model with its weights.

        Args:
            model: Is moved to where it computes, and keeps its mode; what is other workers' is dropped.
            config: Of the run.
            mesh: All workers, which call this together; by default this process alone, where the model is.
            classes: The name of each label.
            task: Of the model; by default the config's.

        Raises:
            UserError: On all workers, if the network cannot be spread as the mesh's plan says.
        """
        if mesh is None:
            states = itertools.chain(model.parameters(), model.buffers())
            mesh = make_mesh(Workers(device=next(states, torch.empty(0)).device))
        config = replace(config, dtype=resolve_dtype(config.dtype, mesh.workers.device.type))
        model = place_model(model, mesh.home, config.train.channels_last)
        executor = place_as_configured(model, config, mesh)
        return cls(executor, task or make_task(model, config), config, classes)

    @classmethod
    def of_run(cls, run: Run, mesh: Mesh | None = None) -> Predictor:
        """Return a predictor of a finished run; see `of_model`."""
        classes = run.classes or tuple(str(label) for label in range(run.model.num_classes))
        return cls.of_model(run.model, run.config, mesh, classes)

    @classmethod
    def of_runs(cls, runs: Sequence[Run], mesh: Mesh | None = None) -> Predictor:
        """Return a predictor that averages what several finished runs say; see `of_model`.

        Its `model` is that of the first, which says how images are seen, too.

        Args:
            runs: Of the same task and classes (`members.check_configs`, `members.check_classes`); one is a run by itself.
            mesh: All workers; each computes its part of every model.

        Raises:
            UserError: On all workers, if a network cannot be spread so, or predictions of the task cannot be averaged.
        """
        members = [cls.of_run(run, mesh) for run in runs]
        first = members[0]
        first.task = join_tasks([one.task for one in members])
        first._compute = replace(first._compute, others=tuple(one._compute for one in members[1:]))
        return first

    def predict(
        self,
        images: Images,
        progress: ProgressCallback | None = None,
        spoiled: dict[int, str] | None = None,
    ) -> dict[int, Any]:
        """Return the prediction for each of those images that are this worker's; every image is one worker's.

        Args:
            images: With known sizes, the same on every worker; every data set is such.
            progress: Called after each batch with this worker's tiles: done, and in all.
            spoiled: Takes what is wrong with each image that cannot be decoded, by its number, on every worker; such an image
                has no prediction. None makes it an error.

        Returns:
            By the number of the image what the task says of it, in the image's own pixels, on the CPU.

        Raises:
            UserError: On every worker, listing each image that cannot be decoded, if `spoiled` is None.
        """
        found: dict[int, Any] = {}
        run_images(self.task, images, self.compute(progress), found.__setitem__, spoiled)
        return {index: found[index] for index in sorted(found) if not spoiled or index not in spoiled}

    def compute(self, progress: ProgressCallback | None = None) -> Compute:
        """Return how the model is run.

        Args:
            progress: As for `predict`.
        """
        return replace(self._compute, progress=progress)

    def __call__(self, images: GivenImage | Iterable[GivenImage]) -> Any:
        """Return the prediction for an image, or a list of the predictions for several, as `ziggurat predict` has them.

        Args:
            images: One or several: files; Pillow's images; tensors of shape ``(3, H, W)`` or, grey, ``(1, H, W)`` or ``(H, W)``;
                arrays of shape ``(H, W, 3)`` or, grey, ``(H, W, 1)`` or ``(H, W)``. Samples are uint8, uint16, floating point
                from 0 to 1, or what ``data.range`` says.

        Returns:
            Of a detector `NamedDetections`: ``boxes_xyxy`` (left, top, right, bottom in pixels of the image), ``scores``, ``classes``
            (the index of each one's class in the predictor's `classes`, also called ``labels``) and ``names``, the best first. Of a
            classifier the probability of each of `classes`; of a segmenter the label of each pixel.

        Raises:
            UserError: Listing each that is none of these, or cannot be decoded; or if several workers compute together, as an
                image is one worker's then: use `predict`.
        """
        size = self.mesh.workers.size
        if size > 1:
            raise UserError(
                f"images are given to one worker alone, and {size} compute together, each some of them: call predict"
            )
        listed = several(images)
        given = GivenImages.of([images] if listed is None else listed, self.config.data)
        predicted = self.predict(given)
        found = {index: self.task.named(one, self.classes) for index, one in predicted.items()}
        return found[0] if listed is None else [found[index] for index in range(len(given))]

    def draw(self, image: GivenImage, prediction: Any) -> Image.Image:
        """Return a picture of what is predicted for an image, which `__call__` takes too."""
        given = GivenImages.of([image], self.config.data).image(0)
        return self.task.draw(self.composite(given), prediction, self.classes)

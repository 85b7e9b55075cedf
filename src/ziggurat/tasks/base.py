"""What a task is: a kind of work, whole, from the annotation of an image to the pictures of a report.

Everything else asks the task, and never for its name: the data how a target is cut (`Task.targets`), the training loop
what the loss is, inference how images are seen and joined, evaluation for a metric, `predict` and the report for files
and pictures. `registry.TASKS` turns names into tasks; ``docs/extending.md`` adds one in a hundred lines.

Shapes: ``B`` images of a microbatch, ``K`` normalizers, ``S`` sums over outputs.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ziggurat.config import RunConfig
from ziggurat.data.balance import ClassCounts
from ziggurat.data.batch import Microbatch
from ziggurat.data.dataset import ImageRecord
from ziggurat.data.extents import Extent, Region
from ziggurat.data.targets import TargetKind
from ziggurat.data.views import View, make_view
from ziggurat.errors import UserError
from ziggurat.metrics.base import Metric
from ziggurat.models.vision import VisionModel
from ziggurat.tasks.graph import Dialect, Difference, GraphDecoder
from ziggurat.tasks.probabilities import ProbabilitySink
from ziggurat.visualize.pixels import draw_pixels

Found = TypeVar("Found")
Prediction = TypeVar("Prediction")
LiesOn = Literal["boxes", "masks", "images"]


# From the outputs of a model and the rows and columns of each tile to what is found in each tile; one for each model.
Decoders = Sequence[Callable[[Any, Sequence[Extent]], list[Any]]]


def _nowhere(region: Region) -> Tensor | None:
    return None


@dataclass(frozen=True)
class Place:
    """Where what is predicted for an image is written.

    Attributes:
        record: Of the image.
        folder: Of all files; exists.
        stem: The name, without suffix, of files that belong to the image.
        classes: The name of each label.
        category_ids: The COCO category id of each label.
        probabilities: Takes the probabilities of the image's pixels; None where nothing wants them.
        blank: Says where in a region the image holds nothing, bool, shape ``region.size``; None where that is nowhere.
    """

    record: ImageRecord
    folder: Path
    stem: str
    classes: Sequence[str]
    category_ids: Sequence[int]
    probabilities: ProbabilitySink | None = None
    blank: Callable[[Region], Tensor | None] = _nowhere

    @property
    def facts(self) -> dict[str, Any]:
        """What is written of an image, whatever the task."""
        return {"image_id": self.record.image_id, "file_name": self.record.name}


class ResultTable(NamedTuple):
    """Results as a table.

    Attributes:
        columns: Their names.
        lines: Of each line a value for each column.
    """

    columns: tuple[str, ...]
    lines: Iterable[Sequence[Any]]


class CutOff(NamedTuple):
    """What a limit has cut off from a prediction.

    Attributes:
        number: How much.
        best: The best score of it.
        limit: The setting that has cut off most; empty for the task's `limit`.
    """

    number: int = 0
    best: float = 0.0
    limit: str = ""


@dataclass(frozen=True)
class Written(Generic[Prediction]):
    """What has been written of an image.

    Attributes:
        rows: As ``predictions.json`` has them.
        cut: What limits have cut off.
        shown: The prediction in the pixels of the image's picture; None where there is none.
    """

    rows: list[dict[str, Any]]
    cut: CutOff
    shown: Prediction | None


class Task(ABC, Generic[Found, Prediction]):
    """A kind of work: `Found` is what comes out of one tile of an image, `Prediction` what is said of the whole image.

    Args:
        model: Gives facts, such as its classes; its weights are not used.
        config: Of the run.

    Attributes:
        name: What ``--task`` calls it.
        main_metric: The metric that it is validated by.
        annotations: The kinds of annotations that it can be trained on (`data.formats.kinds`), the best first.
        model_task: The task that its models are declared for, where that is another one.
        default_model: The name of the model that it takes if none is named.
        usual_classes: Classes that most pretrained weights have.
        targets: How targets are read, cut, stacked and drawn.
        limit: The setting that limits what is found in a tile; empty if nothing does.
        lies_on: What a row of results lies on: a box (its ``bbox``), the areas of a mask (the file ``mask``, of labels), or all of its image;
            by this ``--format`` knows what to write.
        has_probabilities: Whether it can keep the probabilities of all classes of what it finds.
        keeps_probabilities: Whether it does. Where rows lie on masks, `write` then gives those of each pixel to `Place.probabilities`; where
            they lie on images, each has a dictionary ``probabilities``, by the names of classes.
        legend: What the pictures of a report show.
        settings: What a config says of it that not every task reads, by dotted names, or sections with a dot behind; None does not
            say.
        term_names: The terms of the loss.
        normalizer_names: What the loss is divided by, as far as it is known before anything is computed.
        normalizers_are_parts: Whether the workers that share an image each know a part of its normalizers (those of
            the pixels that they have), or each know them whole.
        output_sum_names: Sums over the outputs of the global batch that the loss depends on (a Dice of the whole
            batch is no sum of Dices); empty for most losses. They cost a forward pass of their own.
        joining_fault: Why outputs of several networks cannot be averaged in one graph; empty where `join_outputs` can.
        accumulated_names: What the loss adds up over all steps of a run, and depends on in those that follow: part of the run's
            state, and so of its checkpoints. Empty for most losses.
    """

    name: ClassVar[str]
    main_metric: ClassVar[str]
    annotations: ClassVar[tuple[str, ...]]
    model_task: ClassVar[str] = ""
    default_model: ClassVar[str]
    usual_classes: ClassVar[int] = 1000
    targets: ClassVar[TargetKind]
    limit: ClassVar[str] = ""
    lies_on: ClassVar[LiesOn] = "images"
    has_probabilities: ClassVar[bool] = False
    keeps_probabilities: bool = False
    legend: ClassVar[str] = ""
    settings: ClassVar[tuple[str, ...] | None] = None
    term_names: tuple[str, ...]
    normalizer_names: tuple[str, ...]
    normalizers_are_parts: bool = False
    output_sum_names: tuple[str, ...] = ()
    accumulated_names: tuple[str, ...] = ()
    joining_fault: ClassVar[str] = "its task does not say how their outputs are averaged (Task.join_outputs)"

    def __init__(self, model: VisionModel, config: RunConfig) -> None:
        self.model = model
        self.config = config

    # Before there is a model.

    @classmethod
    def natural_settings(cls, config: RunConfig) -> dict[str, Any]:
        """Return what a run of this task sets where its config leaves it open, by dotted names."""
        return {}

    @classmethod
    def idle_settings(cls, config: RunConfig) -> dict[str, str]:
        """Return its settings that have no effect beside others of a config, each with the setting that it needs."""
        return {}

    @classmethod
    def demo(cls) -> RunConfig | None:
        """Return the config of a run of minutes on the embedded data set; None if there is no such run."""
        return None

    @classmethod
    def pretrained_settings(cls, name: str) -> RunConfig:
        """Return the config that weights of a model by this name, trained elsewhere, are usually run with."""
        return RunConfig()

    @classmethod
    def known_classes(cls, count: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return names and category ids of the classes that weights with so many classes usually have, or none."""
        return (), ()

    # The loss.

    def take_counts(self, counts: ClassCounts) -> None:
        """Take note of how often each class occurs in the training data, where the loss depends on it; by default it does not."""

    @abstractmethod
    def assign(self, batch: Microbatch) -> Any:
        """Return what the outputs of a microbatch have to predict; needs no outputs."""

    @abstractmethod
    def normalizers(self, assignment: Any) -> Tensor:
        """Return a microbatch's summands of the normalizers, float64, shape ``(K,)``."""

    def output_sums(self, outputs: Any, assignment: Any) -> Tensor:
        """Return a microbatch's summands of the sums over outputs, float64, shape ``(S,)``."""
        return torch.zeros(0, dtype=torch.float64)

    @abstractmethod
    def loss_shares(self, outputs: Any, assignment: Any, totals: Tensor) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; summed over all microbatches they are the loss.

        Where several workers share an image, each returns a part of the share, and their parts add up to it.

        Args:
            outputs: The model's.
            assignment: Of the same microbatch.
            totals: Global sums over all microbatches, of `normalizers` and then of `output_sums`; then what was accumulated
                in the steps before, float64, shape ``(K + S + A,)``.

        Returns:
            A scalar for each of `term_names`; where there are `accumulated_names`, behind them ``accumulated``: this microbatch's
            summands, without gradient, float64, shape ``(A,)``.
        """

    # Inference.

    def view(self, record: ImageRecord) -> View:
        """Say how the network sees an image: resized, and cut into overlapping tiles if it is larger than the crop."""
        return make_view(record, self.config.data)

    def choose(self, labels: Sequence[int]) -> None:
        """Let only some classes count in what is found from now on; not every task can.

        Raises:
            UserError: If this one cannot.
        """
        raise UserError(
            f"--classes chooses among objects that are found: the task {self.name} has none; leave it out"
        )

    def with_probabilities(self) -> Self:
        """Return the same task with `keeps_probabilities`; this one stays as it is.

        Raises:
            UserError: If it has none.
        """
        if not self.has_probabilities:
            raise UserError(
                f"--format probabilities holds those of all classes: the task {self.name} has none; leave it out"
            )
        task = copy.copy(self)
        task.keeps_probabilities = True
        return task

    @abstractmethod
    def decode(self, outputs: Any, sizes: Sequence[Extent]) -> list[Found]:
        """Return what is found in each tile of a batch, on the CPU.

        Args:
            outputs: The model's.
            sizes: Rows and columns of each tile before padding.
        """

    @property
    def decoders(self) -> Decoders:
        """What decodes the outputs of each model, as `decode` does: of one model `decode` itself."""
        return (self.decode,)

    def combine(self, parts: Sequence[list[Any]]) -> list[Found]:
        """Return what is found in each tile of a batch.

        Args:
            parts: What each of `decoders` has made of its model's outputs, tile by tile.
        """
        (found,) = parts
        return found

    def of_members(self, tasks: Sequence[Task[Any, Any]]) -> Task[Any, Any]:
        """Return the task of several models whose predictions are averaged; this one is of the first.

        For our own tasks `registry.join_tasks` knows it.

        Args:
            tasks: Of each model.

        Raises:
            UserError: If predictions of this task cannot be averaged.
        """
        raise UserError(
            f"the task {self.name} does not say how predictions of several runs are averaged (Task.of_members): name one run"
        )

    @abstractmethod
    def stitch(self, tiles: Sequence[tuple[Region, Found]], view: View, record: ImageRecord) -> Prediction:
        """Join what was found in the tiles of an image to a prediction in the image's own pixels.

        Args:
            tiles: All tiles of `view`, in order.
            view: As `view` returned it.
            record: Of the image.
        """

    # Graphs: the network and its decoding as a file that other programs run.

    def join_outputs(self, outputs: Sequence[Any]) -> Any:
        """Return outputs of one network of those of several, from which `decode` makes the average of what these say.

        By operations that a graph can have; where `joining_fault` is empty.
        """
        raise NotImplementedError(self.joining_fault)

    def graph(self, dialect: Dialect) -> GraphDecoder:
        """Return what follows the network in a graph, whose outputs `decode` takes as it takes the network's own.

        Args:
            dialect: What the graph is for.

        Raises:
            UserError: If the task has none.
        """
        raise UserError(f"the task {self.name} cannot be exported: it has no graph (Task.graph)")

    def compare_graph(
        self, outputs: Any, graph: dict[str, Tensor], sizes: Sequence[Extent]
    ) -> list[Difference]:
        """Return for each tile how far what a graph finds is from what is found without it.

        Args:
            outputs: The model's.
            graph: The graph's outputs by name, for the same tiles.
            sizes: Rows and columns of each tile before padding.
        """
        raise UserError(f"the task {self.name} cannot be exported: it has no graph (Task.graph)")

    def pack(self, found: Sequence[Found]) -> Any:
        """Return what was found in many tiles in a form that travels fast between workers, and that `predict` keeps on disk.

        It is made of tensors, numbers, text, None, and tuples, lists and dictionaries of such.
        """
        return list(found)

    def unpack(self, packed: Any) -> list[Found]:
        """Undo `pack`."""
        return list(packed)

    # Results.

    @abstractmethod
    def metric(self, dataset: Any) -> Metric[Prediction]:
        """Return what measures predictions for a data set with the annotations of this task."""

    @abstractmethod
    def draw(self, image_CHW: Tensor, prediction: Prediction, classes: Sequence[str]) -> Image.Image:
        """Return a picture of a prediction, for `predict`."""

    @abstractmethod
    def draw_comparison(
        self, image_CHW: Tensor, prediction: Prediction, dataset: Any, index: int
    ) -> Image.Image:
        """Return a picture of a prediction beside what is there, for the report.

        Args:
            image_CHW: uint8, shape ``(3, H, W)``.
            prediction: Of the image.
            dataset: Knows what is there.
            index: Of the image in `dataset`.
        """

    def draw_region(
        self, image_CHW: Tensor, prediction: Prediction, dataset: Any, index: int, region: Region
    ) -> Image.Image:
        """Return a picture of a window of an image, as `draw_comparison` does of all of it; by default its pixels.

        The report shows the windows of large images in which there are most mistakes (`Findings.mistakes`).

        Args:
            image_CHW: The window's pixels, uint8, shape ``(3, *region.size)``.
            prediction: Of the whole image.
            dataset: Knows what is there.
            index: Of the image in `dataset`.
            region: The window.
        """
        return draw_pixels(image_CHW)

    def draw_target(self, image_CHW: Tensor, target: Any, classes: Sequence[str]) -> Image.Image:
        """Return a picture of a training sample with what is to be predicted; by default of its pixels alone.

        Args:
            image_CHW: As the network sees it, uint8, shape ``(3, H, W)``.
            target: As `targets` cuts it.
            classes: The name of each label.
        """
        return draw_pixels(image_CHW)

    def named(self, prediction: Prediction, classes: Sequence[str]) -> Prediction:
        """Return a prediction as a program gets it from `Predictor`: with the names of classes, where it can hold them."""
        return prediction

    @abstractmethod
    def rows(self, prediction: Prediction, place: Place) -> list[dict[str, Any]]:
        """Return what ``predictions.json`` says of an image, and write what files it names."""

    def seen_at(self, prediction: Prediction, extent: Extent, smaller: Extent) -> Prediction:
        """Return a prediction in the pixels of a smaller picture of its image; by default as it is, as it says nothing of places.

        Args:
            prediction: Of the image.
            extent: Of the image.
            smaller: Of the picture.
        """
        return prediction

    def write(
        self,
        tiles: Iterable[tuple[Region, Found]],
        view: View,
        record: ImageRecord,
        place: Place,
        picture: Extent | None,
    ) -> Written[Prediction]:
        """Join what was found in the tiles of an image, and write what belongs to it; by default by `stitch` and `rows`.

        Args:
            tiles: As for `stitch`, read one after the other: they need not be in memory together.
            view: As for `stitch`.
            record: As for `stitch`.
            place: As for `rows`.
            picture: Extent of the picture that is drawn of the image; None for none.
        """
        prediction = self.stitch(list(tiles), view, record)
        shown = None
        if picture is not None:
            shown = (
                prediction if picture == record.extent else self.seen_at(prediction, record.extent, picture)
            )
        return Written(self.rows(prediction, place), self.cut_off(prediction), shown)

    def arrays(self, prediction: Prediction) -> dict[str, Tensor]:
        """Return a prediction as tensors by their names, as a server gives them to programs in any language; by default none."""
        return {}

    def array_specs(self, classes: Sequence[str]) -> dict[str, tuple[str, Extent]]:
        """Return of each of `arrays` its type, in NumPy's words, and its shape, -1 where that varies."""
        return {}

    def table(self, rows: Sequence[dict[str, Any]]) -> ResultTable:
        """Return what ``predictions.csv`` says, from the rows of all images; by default their plain values.

        The first columns are to be those of `data.formats.csv_layout`, so that the file may be read as annotations.

        Args:
            rows: Read from disk whenever they are gone through: they need not be in memory together.
        """
        names = {
            name: None for row in rows for name, value in row.items() if not isinstance(value, (dict, list))
        }
        return ResultTable(tuple(names), ([row.get(name) for name in names] for row in rows))

    def cut_off(self, prediction: Prediction) -> CutOff:
        """Return what the limit has cut off from what was found."""
        return CutOff()

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return what `predict` says besides the number of images, from the rows of all of them."""
        return {}

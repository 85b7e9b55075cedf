"""The report of a run: everything that is shown at its end, in its folder, in TensorBoard and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from ziggurat.config import RunConfig
from ziggurat.data.dataset import Dataset
from ziggurat.data.regions import RegionDataset
from ziggurat.inference.evaluate import Evaluation
from ziggurat.inference.predictor import Predictor
from ziggurat.metrics.findings import Findings
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.report.blocks import draw_blocks, regions_table
from ziggurat.report.choosing import best_and_worst
from ziggurat.report.counts import counts_table
from ziggurat.report.findings import numbers
from ziggurat.report.history import read_history
from ziggurat.report.loss_plot import draw_history
from ziggurat.report.pictures import draw_example, draw_window, predict_examples, shown_window
from ziggurat.report.plots import draw_confusion, draw_precision_recall
from ziggurat.report.regions import BadRegion, worst_regions
from ziggurat.report.score_plot import draw_counts, draw_scores
from ziggurat.report.sheets import make_sheet, reduce_picture, with_bands
from ziggurat.report.table import print_table
from ziggurat.strategies.mesh import make_mesh
from ziggurat.system.writing import CannotWrite, Pictures, write_text
from ziggurat.tasks.base import Task

NUM_EXAMPLES = 8  # of the best, and of the worst


class Board(Protocol):
    """TensorBoard's writer, as far as a report needs it."""

    def add_image(self, tag: str, img_tensor: Any, global_step: Any = None, *, dataformats: str) -> None:
        """Show a picture."""
        ...


def write_report(
    folder: Path,
    evaluation: Evaluation,
    model: VisionModel,
    task: Task[Any, Any],
    dataset: Dataset | None,
    config: RunConfig,
    device: torch.device,
    board: Board | None,
    console: Console,
    out: Path | None = None,
) -> dict[str, str]:
    """Write ``report/`` into a run's folder, show its pictures in TensorBoard and print a table.

    ``best.png`` and ``worst.png`` are predictions, ``worst_regions.png`` is where large images have most mistakes,
    ``confusion.png``, ``precision_recall.png`` and ``scores.png`` (detection and classification) say what is taken for
    what, at what price everything is found, and from which score on a prediction is best counted, ``counts.png`` and
    ``counts.csv`` (detection) how many objects each image has, ``blocks.png`` and ``regions.csv`` (``data.split=blocks``) where
    images are evaluated on and how good each region is, ``loss.png`` is the way there, and ``metrics.json`` holds
    the numbers of every class. Without validation images there is ``loss.png`` only; with ``train.report=numbers``
    nothing is drawn.

    Args:
        folder: Of the run; holds its ``metrics.jsonl``.
        evaluation: Of `model` on `dataset`.
        model: Is run again, by this worker alone, on the images that are shown.
        task: The task of the model.
        dataset: What was evaluated on; None if nothing was.
        config: Of the run.
        device: Where the model is.
        board: Shows the pictures too, if there is one.
        console: Where the table is printed.
        out: Where the report goes; None takes ``report`` in `folder`.

    Returns:
        From the name of each picture that could be written, ``metrics``, ``counts_table`` and ``regions_table``, to its file.

    Raises:
        CannotWrite: If the numbers cannot be written, after all else is done.
    """
    report = out or folder / "report"
    with suppress(OSError):  # its files say what is in the way
        report.mkdir(
            exist_ok=True, parents=out is not None
        )  # the folder of a run that is gone is not made again
    files: dict[str, str] = {}
    pictures: dict[str, Image.Image] = {}
    fault: CannotWrite | None = None
    metric = evaluation.metric
    findings = metric.findings(evaluation.metrics) if metric is not None and dataset is not None else None
    if findings is not None and dataset is not None and len(dataset):
        print_table(console, findings)
        mesh = make_mesh(Workers(device=device))
        predictor = Predictor.of_model(model, config, mesh, dataset.classes, task)
        bad = worst_regions(findings.mistakes, NUM_EXAMPLES) if config.train.report == "pictures" else []
        examples = _Examples(predictor, dataset, findings, bad)
        best, worst = best_and_worst(findings.quality, findings.richness, NUM_EXAMPLES)
        if config.train.report == "pictures":
            pictures["best"] = examples.draw(best, "Best predictions")
            pictures["worst"] = examples.draw(worst, "Worst predictions")
            pictures |= examples.draw_regions()
            if isinstance(dataset, RegionDataset):
                blocks = draw_blocks(dataset, findings.quality, findings.quality_name, predictor.composite)
                pictures |= {} if blocks is None else {"blocks": blocks}
            classes = dataset.classes
            pictures |= _plotted(lambda: _draw_findings(findings, classes), console)
        found = numbers(findings) | {"truncated": evaluation.truncated, "notes": list(evaluation.notes)}
        found |= {"best": examples.named(best), "worst": examples.named(worst)}
        text = json.dumps(found, indent=1, allow_nan=False) + "\n"
        tables = {}
        if findings.counts is not None:
            tables["counts"] = counts_table(
                findings.counts, dataset.classes, lambda index: dataset.record(index).name
            )
        if isinstance(dataset, RegionDataset):
            tables["regions"] = regions_table(dataset, findings)
        try:  # what is in the way is said after the pictures
            write_text(report / "metrics.json", text)
            files["metrics"] = str(report / "metrics.json")
            for name, table in tables.items():
                write_text(report / f"{name}.csv", table)
                files[f"{name}_table"] = str(report / f"{name}.csv")
        except CannotWrite as error:
            fault = error
    if config.train.report == "pictures":
        history = read_history(folder / "metrics.jsonl")
        pictures |= _plotted(lambda: {"loss": draw_history(history)}, console)
        files |= _save(pictures, report, board, history.last_step, console)
    if fault is not None:
        raise fault
    return files


def _plotted(draw: Callable[[], dict[str, Image.Image]], console: Console) -> dict[str, Image.Image]:
    """Return plots; none where the library that draws them finds no place for its caches, which is said."""
    try:
        return draw()
    except OSError as error:
        console.print(f"plots are missing: {error}", highlight=False, markup=False, soft_wrap=True)
        return {}


def _save(
    pictures: Mapping[str, Image.Image], report: Path, board: Board | None, step: int, console: Console
) -> dict[str, str]:
    """Write the pictures, show them in TensorBoard, and return their files; what cannot be written is counted and said."""
    files: dict[str, str] = {}
    written = Pictures()
    for name, picture in pictures.items():
        path = report / f"{name}.png"
        with written.write(path):
            picture.save(path)
            files[name] = str(path)
        if board is not None:
            board.add_image(f"report/{name}", np.asarray(picture), step, dataformats="HWC")
    if written.faults:
        console.print(str(written), highlight=False, markup=False, soft_wrap=True)
    return files


def _draw_findings(findings: Findings, classes: tuple[str, ...]) -> dict[str, Image.Image]:
    """Draw what is taken for what and, where the task has them, precision and recall."""
    pictures = {}
    if findings.confusion is not None:
        pictures["confusion"] = draw_confusion(findings.confusion, findings.labels, findings.unit)
    if findings.curves is not None:
        curves, title = findings.curves, findings.curve_title
        pictures["precision_recall"] = draw_precision_recall(curves, classes, title)
    if findings.scores is not None:
        pictures["scores"] = draw_scores(findings.scores)
    if findings.counts is not None:
        pictures["counts"] = draw_counts(findings.counts, findings.unit)
    return pictures


@dataclass(frozen=True)
class _Examples:
    """Draws images of the data set that was evaluated on.

    Attributes:
        predictor: Of this worker alone.
        dataset: What was evaluated on.
        findings: Of all its images.
        bad: The windows of large images with most mistakes.
        windows: Pictures of these, by their places in the list, as far as they are drawn.
    """

    predictor: Predictor
    dataset: Dataset
    findings: Findings
    bad: list[BadRegion]
    windows: dict[int, Image.Image] = field(default_factory=dict)

    def draw(self, indices: list[int], title: str) -> Image.Image:
        """Return a sheet of predictions; one image after another, as images may be large."""
        pictures: list[Image.Image] = []
        for index in indices:
            prediction = self._predict(index)
            pictures.append(reduce_picture(draw_example(self.predictor, self.dataset, index, prediction)))
        named = [
            (row["image"], f"{self.findings.quality_name} {row['quality']:.2f}{self._where(index)}")
            for index, row in zip(indices, self.named(indices), strict=True)
        ]
        return make_sheet(pictures, named, title, self._legend)

    def _where(self, index: int) -> str:
        """Say which window of an image is shown, where it is too large to be shown whole."""
        window = shown_window(self.predictor, self.dataset, index)
        if window is None:
            return ""
        (top, left), (bottom, right) = window.start, window.end
        return f", rows {top} to {bottom}, columns {left} to {right}"

    @property
    def _legend(self) -> str:
        return with_bands(self.predictor.task.legend, self.predictor.composite)

    def draw_regions(self) -> dict[str, Image.Image]:
        """Return a sheet of the worst windows of all large images, each at full resolution, if there are any."""
        if not self.bad:
            return {}
        for place, one in enumerate(self.bad):
            if place not in self.windows:
                self._predict(one.image)
        pictures = [self.windows[place] for place in range(len(self.bad))]
        named = [(self.dataset.record(one.image).name, one.described) for one in self.bad]
        title = "Worst regions of large images, at full resolution"
        return {"worst_regions": make_sheet(pictures, named, title, self._legend)}

    def _predict(self, index: int) -> Any:
        """Return the prediction for an image, and draw those windows of it that are bad: it need not be kept for them."""
        (prediction,) = predict_examples(self.predictor, self.dataset, [index]).values()
        for place, one in enumerate(self.bad):
            if one.image == index and place not in self.windows:
                self.windows[place] = draw_window(self.predictor, self.dataset, index, prediction, one.region)
        return prediction

    def named(self, indices: list[int]) -> list[dict[str, Any]]:
        """Return name and quality of each image."""
        quality = self.findings.quality.tolist()
        return [{"image": self.dataset.record(index).name, "quality": quality[index]} for index in indices]

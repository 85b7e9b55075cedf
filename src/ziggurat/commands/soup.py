"""`ziggurat soup`: one run of several, whose weights are averaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ziggurat.commands.launching import launch_plan
from ziggurat.commands.notes import say
from ziggurat.commands.runs import Members, members_of
from ziggurat.config import RunConfig, flatten, override, run_task
from ziggurat.data.dataset import Dataset
from ziggurat.errors import UserError
from ziggurat.inference.evaluate import evaluate
from ziggurat.inference.predictor import Predictor
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.runs.folder import (
    CONFIG,
    SOUP,
    WEIGHTS,
    data_as_begun,
    declare_run,
    save_weights,
    start_run_folder,
    weights_sha256,
)
from ziggurat.runs.lock import locked
from ziggurat.runs.members import RunNames
from ziggurat.runs.reference import find_reference
from ziggurat.strategies.mesh import make_mesh
from ziggurat.system.writing import write_text
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import find_task
from ziggurat.training.data import open_validation
from ziggurat.training.soup import greedy_choice, has_batch_norms, mean_of, measure_batch_norms, unlike

BATCHES = 100  # that batch norms are measured over


def soup(
    runs: RunNames, out: str, settings: Mapping[str, Any] | None = None, *, greedy: bool = False
) -> dict[str, Any] | None:
    """Make one run of several, as `ziggurat soup` does.

    Args:
        runs: Two or more, of one network and the same classes (`ziggurat.runs.members`).
        out: Folder of the new run.
        settings: From dotted names to values, such as ``threads``.
        greedy: Whether a run takes part only if the metric on the validation split does not fall by it; else all do.

    Returns:
        The fields of the command's JSON object: ``run``, ``runs`` (those that take part), ``left_out``, ``batches`` (that batch norms were
        measured over), ``metrics`` (of the greedy soup: the main one), ``weights_sha256``.

    Raises:
        UserError: If the runs are not of one network, or a greedy soup has nothing to be measured on; lists every fault.
    """
    if world_from_environment() is not None:
        raise UserError("a soup is made by one process: start ziggurat soup without torchrun")
    members = members_of(runs, {**(settings or {}), "plan": "dp=1"}, "evaluate")
    if len(members.names) < 2:
        raise UserError(f"a soup is made of two runs or more: got {members.names[0]}")
    config = _config_of_soup(members)
    folder = Path(out)
    with locked(folder):
        if (folder / CONFIG).exists():
            raise UserError(f"{folder} holds a run already: choose another --out")
        return launch_plan(_soup_worker, (members, config, folder, greedy), config)


def _config_of_soup(members: Members) -> RunConfig:
    """Return the config of the new run: that of the first, which has no members.

    Raises:
        UserError: If one is a file of weights, or is of another network, or sees other numbers.
    """
    faults, folders = [], [find_reference(name).folder for name in members.names]
    faults += [
        f"a soup is made of runs, whose training data measure its batch norms: {name} is a file of weights"
        for name, folder in zip(members.names, folders, strict=True)
        if folder is None
    ]
    first = flatten(members.config)
    for name, config in zip(members.names[1:], members.configs[1:], strict=True):
        other = flatten(config)
        faults += [
            f"runs of a soup must have the same {key}: {members.names[0]} has {first[key] or 'none'}, {name} has {other[key] or 'none'}"
            for key in first
            if key.startswith(("model.", "data.mean", "data.std"))
            and key != "model.weights"
            and first[key] != other[key]
        ]
    if faults:
        raise UserError(faults)
    assert folders[0] is not None
    config, notes = data_as_begun(members.config, folders[0])
    say(*notes)
    return override(
        config,
        {
            "members.count": 1,
            "members.data": "all",
            "members.member": "all",
            "members.seed": "",
            "members.stratify": "none",
            "members.groups": "",
        },
    )


def _soup_worker(
    workers: Workers, members: Members, config: RunConfig, folder: Path, greedy: bool
) -> dict[str, Any]:
    runs = members.load()
    weights = [run.model.state_dict() for run in runs]
    faults = [
        f"runs of a soup must have the same network: {name} has another {', '.join(others[:3])}"
        for name, one in zip(members.names[1:], weights[1:], strict=True)
        if (others := unlike(weights[0], one))
    ]
    if faults:
        raise UserError(faults)
    classes = runs[0].classes
    dataset = open_dataset(config.data.path, "train", run_task(config), config.data, config.digits, classes)
    assert dataset is not None  # only the validation split may be missing
    maker = _Maker(copy.deepcopy(runs[0].model).to(workers.device), weights, dataset, config, workers)
    chosen, metrics = list(range(len(runs))), dict[str, float]()
    if greedy:
        chosen, metrics = maker.greedy()
    batches = maker.make(chosen)
    start_run_folder(folder, config, dataset)
    declare_run(folder, config)
    digest = weights_sha256(maker.model)
    save_weights(maker.model, folder / WEIGHTS, {"weights_sha256": digest})
    names = members.names
    result = {
        "run": str(folder),
        "runs": [names[number] for number in chosen],
        "left_out": [name for number, name in enumerate(names) if number not in chosen],
        "batches": batches,
        "metrics": metrics,
        "weights_sha256": digest,
    }
    write_text(folder / SOUP, json.dumps(result, indent=2) + "\n")
    return result


class _Maker:
    """Makes soups of some of the runs, one after the other in one network.

    Args:
        model: The network, on its device.
        weights: Of each run.
        dataset: The training data.
        config: Of the soup.
        workers: This process alone.
    """

    def __init__(
        self,
        model: VisionModel,
        weights: Sequence[Mapping[str, Any]],
        dataset: Dataset,
        config: RunConfig,
        workers: Workers,
    ) -> None:
        self.model, self._weights, self._dataset, self._config = model, weights, dataset, config
        self._workers = workers

    def make(self, chosen: Sequence[int]) -> int:
        """Make the soup of some runs, and return the number of batches that its batch norms were measured over."""
        self.model.load_state_dict(mean_of([self._weights[number] for number in chosen]))
        if len(chosen) == 1 or not has_batch_norms(self.model):
            return 0  # a run by itself has measured its own
        return measure_batch_norms(self.model, self._dataset, self._config, BATCHES)

    def greedy(self) -> tuple[list[int], dict[str, float]]:
        """Return the runs of the greedy soup, and its main metric.

        Raises:
            UserError: If there are no images to measure on.
        """
        validation = open_validation(self._config, self._dataset.classes)
        if validation is None or not len(validation):
            raise UserError(
                f"a greedy soup is measured on validation data: {self._config.data.path} has no such split; make a uniform one, without "
                "--greedy"
            )
        metric = find_task(run_task(self._config)).main_metric

        def score_of(chosen: Sequence[int]) -> float:
            self.make(chosen)
            with make_mesh(self._workers, self._config.plan) as mesh:
                predictor = Predictor.of_model(
                    copy.deepcopy(self.model), self._config, mesh, self._dataset.classes
                )
                score = float(evaluate(predictor, validation).metrics[metric])
            say(f"soup of {', '.join(map(str, chosen))}: {metric} {score:.4f}")
            return score

        scores = [score_of([number]) for number in range(len(self._weights))]
        chosen, best = greedy_choice(scores, score_of)
        return chosen, {metric: best}

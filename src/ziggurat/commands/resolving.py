"""From what the user asked to a complete config: the task, the model and the plan; every fault at once, before any process starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from torch import nn

from ziggurat.commands.auto import choose_plan, is_auto, of_plans
from ziggurat.commands.fitting import check_batch_fits, check_loaders, check_model_fits, size_notes
from ziggurat.commands.norm_batch import check_smallest_microbatch
from ziggurat.commands.notes import say_notes
from ziggurat.config import RunConfig, override, range_faults, run_task
from ziggurat.data.aspect_groups import smallest_side
from ziggurat.data.bands import as_all_bands, band_faults, first_header, paths_of, resolve_bands
from ziggurat.data.dataset import Dataset, notes_of
from ziggurat.data.formats.blocks import divided, dividing_note
from ziggurat.data.formats.learnable import check_learnable
from ziggurat.data.readers.layout import read_bands
from ziggurat.data.regions import RegionDataset
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.models.build import GRAMMAR, outline_model, task_of
from ziggurat.parallel.runtime.guard import leave_if_imported
from ziggurat.runs.first_weights import first_weights_fault, normalized_as
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.resolve import resolve_batch, resolve_place
from ziggurat.tasks.class_weights import ClassWeights
from ziggurat.tasks.opening import open_dataset, recognise_tasks
from ziggurat.tasks.registry import TASKS, find_task, model_task
from ziggurat.training.data import open_validation
from ziggurat.training.freezing import freeze, freezing_notes
from ziggurat.training.members import of_member
from ziggurat.training.replanning import replan_fault

T = TypeVar("T")


def resolve(
    config: RunConfig,
    world: int | None,
    resume: bool,
    given: Mapping[str, Any] | None = None,
    from_file: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Complete a config, and check it together with the model's name and the data.

    Args:
        config: As the user gave it.
        world: Workers of the world that torchrun has made, or None.
        resume: Whether the run goes on: the weights that it began with need not be there any more.
        given: What the user has set, by dotted names: what has no effect is a fault.
        from_file: What a config file names.

    Raises:
        UserError: Listing every fault.
    """
    leave_if_imported()  # before anything is opened or said
    faults: list[str] = []
    dataset: Dataset | None = None
    how, threads = config.plan.strip(), config.threads
    if is_auto(how):  # chosen when all else is known to be right
        if config.local_sgd.replicas:
            faults.append(
                f"--plan {how} knows the costs of one model, not of replicas: give a plan of dp, such as dp={config.local_sgd.replicas}, "
                "or leave local_sgd.replicas out"
            )
        config = dataclasses.replace(config, plan="")
    open_ones = of_plans(given or {}) if is_auto(how) else {}
    fixed = {key: value for key, value in (given or {}).items() if key not in open_ones}

    def check(part: Callable[[], T]) -> T | None:
        try:
            return part()
        except UserError as error:
            faults.extend(fault for fault in error.faults if fault not in faults)
            return None

    bad = {
        fault.partition(".")[0] for fault in range_faults(config)
    }  # sections: nothing is computed with their numbers
    if not bad & {"data", "digits"}:
        config = check(lambda: _resolve_task(config)) or config
    if config.task in TASKS and not bad & {"data", "digits"}:
        dataset = check(lambda: _open_training(config))
        if not resume:  # a run that goes on has what was decided when it began
            # where bands do not fit, faults of others are told still
            all_bands = dataclasses.replace(config, data=as_all_bands(config.data))
            config = check(partial(_resolve_bands, config, dataset)) or all_bands
    placed = check(lambda: resolve_place(config, world))
    resolved = check(lambda: resolve_batch(placed or config, world)) if not bad & {"train"} else None
    if placed and (fault := replan_fault(placed, world)) is not None:
        faults.append(fault)
    if config.task not in TASKS:  # a fault of its own; the data may have others
        if not bad & {"data", "digits"}:
            check(lambda: _natural_task(config))
    else:
        model = check(lambda: outline_model(config.model, num_classes=2)) if not bad & {"model"} else None
        if dataset is not None and not bad & {"loss"}:
            check(partial(ClassWeights, config.loss, len(dataset.classes)))
        validation = None
        if config.data.path and not bad & {"data", "digits"}:  # two splits, two lists of faults
            validation = check(
                partial(open_validation, config, dataset.classes if dataset is not None else None)
            )
        if config.train.patience and dataset is not None and validation is None:
            faults.append(
                f"train.patience needs images to evaluate on: {config.data.path} has no validation split; give data.val, or data.split=blocks"
            )
        if validation is None and dataset is not None and not faults:
            note = dividing_note(dataset, config.data.path, config.data)
            say_notes([] if note is None else [note])
        say_notes([*notes_of(dataset), *notes_of(validation)])
        if placed:
            say_notes(check(partial(check_effects, placed, fixed, from_file)) or [])
        if placed and resolved:
            check(partial(check_batch_fits, resolved))
            check(partial(check_loaders, resolved))
        if placed and model is not None:
            check(partial(check_model_fits, model, placed))
            check(partial(freeze, model, placed.train.freeze))
            has_norms = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
            say_notes([] if resume else freezing_notes(placed, has_norms))
        if not faults and placed and resolved and model is not None and dataset is not None:
            kind = find_task(run_task(config)).targets
            num_samples = len(TrainingSamples(dataset, kind, config.data, config.seed))
            say_notes(size_notes(resolved, num_samples))
            if config.data.balance == "none":  # else the epochs are known when classes have been counted
                check(
                    partial(
                        check_smallest_microbatch,
                        model,
                        resolved,
                        num_samples,
                        smallest_side(dataset, config.data),
                    )
                )
    weights_fault = None if resume else first_weights_fault(config.model.weights)
    if weights_fault is not None:
        faults.append(weights_fault)
    if faults or resolved is None:
        raise UserError(faults)
    if is_auto(how):
        assert dataset is not None
        resolved = choose_plan(how, resolved, open_ones, "train", len(dataset.classes), threads)
        check_batch_fits(resolved)
        check_loaders(resolved)
    if isinstance(dataset, RegionDataset):  # another crop, in an evaluation, leaves them as they are
        resolved = override(resolved, {"data.block": dataset.division.block})
    return resolved


def _resolve_bands(config: RunConfig, dataset: Dataset | None) -> RunConfig:
    """Complete which bands the network sees, and what images are normalized by where the weights know it.

    Raises:
        UserError: If settings of bands do not fit each other.
    """
    data = resolve_bands(config.data, first_header(paths_of(dataset)))
    bands = read_bands(data.bands)
    count = 3 if bands is None else len(bands)
    if config.model.bands not in (0, count):
        raise UserError(
            f"model.bands must be as many as the network sees, {count} with data.bands={data.bands}: got {config.model.bands}"
        )
    if bands is not None and data.normalize == "weights" and not data.mean:
        data = normalized_as(data, config.model.weights)
    faults = band_faults(data, count)
    if faults:
        raise UserError(faults)
    model = config.model if bands is None else dataclasses.replace(config.model, bands=count)
    return dataclasses.replace(config, data=data, model=model)


def _resolve_task(config: RunConfig) -> RunConfig:
    """Complete the task, the model and what depends on them.

    Raises:
        UserError: If the model is for another task.
    """
    name, model = config.task, config.model.name
    if name == "auto":
        name = task_of(model) if model != "auto" else _natural_task(config)
    task = find_task(name)
    if model != "auto" and task_of(model) != model_task(task):
        raise UserError(
            f"model.name must be a model to {model_task(task)}: '{model}' is one to {task_of(model)}; {GRAMMAR}; "
            f"or give --task {task_of(model)}"
        )
    model = task.default_model if model == "auto" else model
    return override(config, {"task": name, "model.name": model, **task.natural_settings(config)})


def _natural_task(config: RunConfig) -> str:
    """Return what the annotations of the data set are for."""
    _check_path(config)
    tasks = recognise_tasks(config.data.path, config.data)
    if not tasks:
        raise UserError(f"no task is known for the annotations of {config.data.path}: give --task")
    return tasks[0]


def _check_path(config: RunConfig) -> None:
    if not config.data.path:
        raise UserError("no data set: give DATA (a folder, an annotation file, or digits) or data.path")


def _open_training(config: RunConfig) -> Dataset | None:
    _check_path(config)
    task = run_task(config)
    dataset = open_dataset(config.data.path, "train", task, as_all_bands(config.data), config.digits)
    if config.data.split == "blocks":
        divided(dataset, config.data.path)
    if dataset is not None:
        dataset = of_member(dataset, config.members, find_task(task).targets)
    check_learnable(dataset, find_task(task).annotations, config.data.path)
    return dataset

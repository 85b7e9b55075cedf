"""Finished runs, and files of weights that were trained elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ziggurat.commands.auto import check_auto, choose_plan, is_auto, of_plans
from ziggurat.config import RunConfig, bands_of, check_command, flatten, override
from ziggurat.config.names import shown_name
from ziggurat.data.bands import band_faults, shown_as
from ziggurat.data.readers.layout import Reading
from ziggurat.errors import UserError
from ziggurat.exports.engines import EngineName, read_facts
from ziggurat.exports.loading import engine_of, find_export, is_export, load_export
from ziggurat.inference.members import check_classes, check_configs
from ziggurat.parallel.runtime.launch import world_from_environment
from ziggurat.runs.folder import Run, weights_sha256
from ziggurat.runs.members import RunNames, names_of_runs
from ziggurat.runs.pretrained import load_published, published_config
from ziggurat.runs.reference import find_reference, load_reference
from ziggurat.strategies.effects import check_effects
from ziggurat.strategies.plan import parse_plan
from ziggurat.strategies.resolve import resolve_place

FUSION = "decode.fusion"


class Members(NamedTuple):
    """One run, or several whose predictions are averaged.

    Attributes:
        names: Of each.
        configs: Of each, for this evaluation or prediction.
        engine: What computes, as was asked for; None leaves it to what is named.
    """

    names: tuple[str, ...]
    configs: tuple[RunConfig, ...]
    engine: EngineName | None = None

    @property
    def config(self) -> RunConfig:
        """Of the first, which says how images are seen, and by which plan they are computed."""
        return self.configs[0]

    def on(self, data: str) -> Members:
        """Return the same on another data set."""
        return self._replace(
            configs=tuple(replace(one, data=replace(one.data, path=data)) for one in self.configs)
        )

    def load(self) -> list[Run]:
        """Return each with its weights and its config.

        Raises:
            UserError: If they do not know the same classes.
        """
        pairs = zip(self.names, self.configs, strict=True)
        runs = [load(name, config, self.engine)._replace(config=config) for name, config in pairs]
        check_classes(self.names, runs)
        return runs


def members_of(
    runs: RunNames, settings: Mapping[str, Any], command: str, engine: EngineName | None = None
) -> Members:
    """Return the runs that are named, with their configs; see `config_of`.

    Args:
        runs: One, or several whose predictions are averaged (`runs.members`).
        settings: As the user gave them, for each of them.
        command: ``evaluate``, ``predict`` or ``export``.
        engine: What computes; None takes PyTorch for a run, and for an export what its file is for.

    Raises:
        UserError: If there is none of a name, the settings are not usable, or the runs cannot be averaged.
    """
    names = names_of_runs(runs)
    if len(names) == 1 and FUSION in settings:
        raise UserError(f"{FUSION} has no effect with one run, {names[0]}: name several, or leave it out")
    exports = [name for name in names if find_export(name, engine)]
    if exports and len(names) > 1:
        raise UserError(
            f"an export is no part of an average: name the runs of {', '.join(exports)} themselves"
        )
    first = config_of(names[0], settings, command, engine)
    # one plan for all, also where it was to be found; an export has none
    placed = dict(settings) if command == "export" else {**settings, "plan": first.plan}
    configs = [first, *(config_of(name, placed, command) for name in names[1:])]
    check_configs(names, configs)
    return Members(names, tuple(configs), engine)


def config_of(
    run: str | os.PathLike[str],
    settings: Mapping[str, Any],
    command: str,
    engine: EngineName | None = None,
) -> RunConfig:
    """Return the config of a run, one of its checkpoints, a file of weights or an export, for evaluation or prediction on this machine.

    Args:
        run: The folder of a run, a checkpoint, a file of weights, or an export.
        settings: As the user gave them.
        command: ``evaluate`` or ``predict``.
        engine: What computes.

    Raises:
        UserError: If there is no such run, or the settings are not usable.
    """
    settings = check_command(command, settings)
    path = find_export(run, engine)
    if path is not None:
        return _config_of_export(path, settings, command, engine_of(path, engine))
    reference, model = find_reference(run), settings.get("model.name", "auto")
    if reference.folder is None:
        assert reference.file is not None
        base = published_config(model, reference.file)
    else:
        base = reference.config()
        if model not in ("auto", base.model.name):
            raise UserError(f"--model belongs to a file of weights: the run {run} is of {base.model.name}")
        settings = {name: value for name, value in settings.items() if name != "model.name"}
    here: dict[str, Any] = {"plan": "", "device": "auto"}  # threads stay: they decide the last bits
    config = override(base, here | settings)
    if "data.shown" not in settings:
        config = replace(config, data=shown_as(config.data, base.data))
    faults = [] if reference.folder is None else _of_the_run(run, base, config)
    faults += _band_faults(config)
    how, threads = config.plan.strip(), config.threads
    open_ones = of_plans(settings) if is_auto(how) else {}
    try:
        check_auto(how, world_from_environment())
        config = resolve_place(replace(config, plan="") if is_auto(how) else config, world_from_environment())
        check_effects(
            config, {key: value for key, value in settings.items() if key not in ("data.path", *open_ones)}
        )
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    if is_auto(how):
        config = choose_plan(how, config, open_ones, "predict", load(run, config).model.num_classes, threads)
    return config


def _config_of_export(path: Path, settings: Mapping[str, Any], command: str, engine: EngineName) -> RunConfig:
    """Return the config of an export, of which the graph has fixed a part."""
    if command not in ("evaluate", "predict"):
        raise UserError(
            f"`ziggurat {command}` takes a run, and {path} is an export: name the run that it was made of"
        )
    facts = read_facts(path)
    base = facts.run_config()
    here: dict[str, Any] = {"plan": "", "device": "cpu", "dtype": "fp32"}
    config = override(base, {**here, **settings})
    if config.device == "auto":
        config = replace(config, device="cpu")
    if "data.shown" not in settings:
        config = replace(config, data=shown_as(config.data, base.data))
    was, now = flatten(base), flatten(config)
    faults = [
        f"{shown_name(key)} has no effect: the graph of {path} has {was[key]}, and cannot have {now[key]}; export the run with it, or leave it out"
        for key in was
        if key.startswith(("model.", "decode.")) and was[key] != now[key]
    ]
    if engine != "openvino" and config.dtype == "bf16":
        faults.append(f"dtype is fp32 with --engine {engine}: leave it out, or take --engine openvino")
    if config.device != "cpu":
        faults.append(
            f"device is cpu for an export: got {config.device}; leave it out, or name the run itself"
        )
    if is_auto(config.plan.strip()):
        faults.append("--plan auto plans PyTorch's own network: give --plan dp=N for an export")
    else:
        plan = parse_plan(config.plan or "dp=1")
        if plan.num_workers != plan.num_data:
            faults.append(
                f"each worker computes an export whole, so that its plan is dp=N: got {config.plan}"
            )
    try:
        if not faults:
            config = resolve_place(config, world_from_environment())
        check_effects(config, {key: value for key, value in settings.items() if key != "data.path"})
    except UserError as error:
        faults += error.faults
    if faults:
        raise UserError(faults)
    return config


def _of_the_run(run: str | os.PathLike[str], base: RunConfig, config: RunConfig) -> list[str]:
    """Return a fault for each setting of the network that is not that of the run."""
    was, now = flatten(base), flatten(config)
    return [
        f"{shown_name(key)} has no effect: the network of {run} has {was[key]}, and cannot have {now[key]}; leave it out"
        for key in was
        if key.startswith("model.") and key != "model.name" and was[key] != now[key]
    ]


def _band_faults(config: RunConfig) -> list[str]:
    """Return what is wrong with the bands that are read, of another number than the network sees."""
    reading, count = Reading.of(config.data), bands_of(config.model)
    if reading.num_bands == count:
        if reading.bands is not None and not config.data.mean:
            return [
                f"a file of weights does not say what images of the bands {config.data.bands} are normalized by: name the run that has "
                "trained them, or leave data.bands out"
            ]
        return band_faults(config.data, count)
    return [
        f"data.bands must name as many bands as the network sees, {count}, by their numbers: got {config.data.bands}"
    ]


def load(run: str | os.PathLike[str], config: RunConfig, engine: EngineName | None = None) -> Run:
    """Return the model of a run, one of its checkpoints, a file of weights, or an export.

    Args:
        run: As for `config_of`.
        config: As `config_of` returns it.
        engine: As for `config_of`.

    Raises:
        UserError: If it cannot be loaded, or the export is one of other weights than the run has.
    """
    path = find_export(run, engine)
    if path is not None:
        facts = read_facts(path)
        dtype = "bf16" if config.dtype == "bf16" else "fp32"
        exported = load_export(path, facts, engine_of(path, engine), config.threads, dtype)
        if not is_export(run) and weights_sha256(load(run, config).model) != facts.weights_sha256:
            raise UserError(f"{path} was made of other weights than {run} has now: export it again")
        return exported
    reference = find_reference(run)
    if reference.folder is None:
        assert reference.file is not None
        return load_published(reference.file, config)
    return load_reference(reference)

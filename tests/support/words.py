"""Settings as words of a command line."""

import dataclasses

from ziggurat.config import RunConfig, full_names, override
from ziggurat.models.build import task_of
from ziggurat.strategies.effects import find_idle


def fitting(settings, plan=""):
    """Return those of settings that have an effect on a run: tables of them are shared by tasks and plans, commands refuse the rest."""
    given = full_names({key: value for key, value in settings.items() if key != "data.path"})
    name = given.get("model.name", "fcos-resnet50-fpn")
    about = {"task": given.get("task", task_of(name)), "model.name": name, "data.path": "digits"}
    config = override(RunConfig(), given | about | ({"plan": plan} if plan else {}))
    idle = {found.key for found in find_idle(config, given) if plan or found.because != "plan"}
    return {key: value for key, value in given.items() if key not in idle}


def sets(settings, scenes=None, plan=""):
    """Return the words that set settings, as far as they have an effect, and what the embedded data set looks like."""
    given = fitting(settings, plan)
    if scenes is not None:
        given |= {f"digits.{key}": value for key, value in dataclasses.asdict(scenes).items()}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]

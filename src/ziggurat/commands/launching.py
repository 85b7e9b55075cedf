"""Starting the workers of a plan."""

from __future__ import annotations

from typing import Any

from ziggurat.commands.fitting import worker_notes
from ziggurat.commands.loudness import say_settings
from ziggurat.commands.notes import say_notes
from ziggurat.config import RunConfig
from ziggurat.parallel.runtime.launch import Restart, WorkerSettings, launch, world_from_environment
from ziggurat.strategies.plan import parse_plan


def launch_plan(
    function: Any, args: tuple[Any, ...], config: RunConfig, restart: Restart | None = None
) -> dict[str, Any] | None:
    """Run a function on each worker of a config's plan, and return what it returns on the first.

    Args:
        function: Takes the workers, then `args`.
        args: For each worker.
        config: Says how many workers there are, where and with how many threads they compute.
        restart: How it goes on when a worker is lost; None ends it.
    """
    num_workers = parse_plan(config.plan).num_workers
    if world_from_environment() is None:
        say_notes(worker_notes(config.plan, config.threads, config.device))
    say_settings(config)
    settings = WorkerSettings(config.threads, config.device, config.launch)
    result: dict[str, Any] | None = launch(function, args, num_workers, settings, restart)
    return result

"""The door as a deployment of Ray Serve; it imports no PyTorch, as it has no model.

A request whose replica is lost is sent to another one, within the time that it has: to compute twice does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from ziggurat.config.serve_config import ServeConfig
from ziggurat.serving.app import Door
from ziggurat.serving.exchange import Answer, Ask, Card, Refused
from ziggurat.serving.jobs import Jobs
from ziggurat.serving.metrics import Metrics

RETRY_SECONDS = 0.2  # between two attempts, while a replica is started again
LOST = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)


class RayEngine:
    """Asks replicas, through Ray's handles.

    Args:
        handles: Of each model, the first the one that is meant if none is named.
        metrics: Counts what is sent again.
    """

    def __init__(self, handles: Mapping[str, Any]) -> None:
        self._handles, self._cards = dict(handles), dict[str, Card]()
        self.metrics: Metrics | None = None

    def names(self) -> tuple[str, ...]:
        """Return the names of the models."""
        return tuple(self._handles)

    async def card(self, name: str) -> Card:
        """Return what is known of a model; a replica must answer now."""
        card: Card = await self._ask(name, "card")
        return card

    async def answer(self, name: str, ask: Ask) -> Answer:
        """Return a replica's answer."""
        found = await self._ask(name, "answer", ask)
        if isinstance(found, Refused):
            raise found
        assert isinstance(found, Answer)
        return found

    async def _ask(self, name: str, method: str, *args: Any) -> Any:
        """Call a method of a replica, of another one where it is lost; the caller limits the time."""
        while True:
            try:
                found = await getattr(self._handles[name], method).remote(*args)
            except BackPressureError:
                raise Refused(429, f"too many requests to {name} wait already: try again", 1) from None
            except LOST:
                pass
            else:
                if not (isinstance(found, Refused) and found.status == 503):  # a worker of a group is lost
                    return found
            if self.metrics is not None:
                self.metrics.retries.labels(name).inc()
            await asyncio.sleep(RETRY_SECONDS)


@dataclass(frozen=True)
class JobPlaces:
    """Where jobs lie, and what they may read.

    Attributes:
        folder: Of the jobs.
        allowed: Folders of their images.
        commands: Of each model, the words of the command that predicts with it.
    """

    folder: str
    allowed: tuple[str, ...]
    commands: Mapping[str, Sequence[str]]


class Ingress:
    """The door, as Ray Serve has it."""

    def __init__(
        self, handles: Mapping[str, Any], config: ServeConfig, places: JobPlaces | None, log: str
    ) -> None:
        jobs = None
        if places is not None:
            allowed = [Path(one) for one in places.allowed]
            jobs = Jobs(Path(places.folder), allowed, dict(places.commands), config)
            self._running = asyncio.create_task(jobs.run())
        self._log = Path(log).open("a", encoding="utf-8") if log else None  # noqa: SIM115 - as long as the door
        engine = RayEngine(handles)
        self._door = Door(engine, config, jobs, self._log, says_id=False)  # Ray's proxy says it
        engine.metrics = self._door.metrics

    def __serve_build_asgi_app__(self) -> Any:
        return self._door.app

    async def drain(self) -> None:
        """Take no further requests, wait for those under way, and let the job that runs go on with the next server."""
        await self._door.drain()
        running = getattr(self, "_running", None)
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

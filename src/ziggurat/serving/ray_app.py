"""The door and the replicas as deployments of Ray Serve: it starts them, sends requests to those that are free, and starts again what is lost.

    proxy (HTTP) ──> ingress: `Door` ──> replicas of model A: `Replica` (one process, or the workers of a plan)
                                   └──> replicas of model B ...

Ray puts each where there is room, on one machine or a cluster. A request whose replica is lost is sent to another one: to compute twice
does no harm.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from ziggurat.config.serve_config import ServeConfig
from ziggurat.serving.app import Door
from ziggurat.serving.exchange import Answer, Ask, Card, Refused
from ziggurat.serving.jobs import Jobs
from ziggurat.serving.metrics import Metrics
from ziggurat.serving.opening import Served
from ziggurat.serving.replica import Replica
from ziggurat.strategies.plan import parse_plan

APPLICATION = "ziggurat"
RETRY_SECONDS = 0.2  # between two attempts, while a replica is started again
HEALTH_SECONDS = 2.0  # between two looks at a replica, and what it has to answer
STORE_BYTES = 256 << 20  # of Ray's memory for objects: requests and answers
LOST = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)


class ModelReplica:
    """A replica of a model, as Ray Serve has it."""

    def __init__(self, served: Served, config: ServeConfig) -> None:
        self._replica = Replica(served, config)
        self.answer.set_max_batch_size(config.batch)
        self.answer.set_batch_wait_timeout_s(config.batch_wait)

    @serve.batch  # type: ignore[untyped-decorator] # Ray is not typed here
    async def answer(self, asks: list[Ask]) -> list[Answer | Refused]:
        """Answer one ask of the caller's; Ray hands over those of all callers that wait, together."""
        return await asyncio.to_thread(self._replica.answer, asks)

    def card(self) -> Card:
        """Return what is known of the model."""
        return self._replica.card

    def check_health(self) -> None:
        """See whether all workers are there; Ray starts the replica again if not."""
        if not self._replica.is_well():
            raise RuntimeError("a worker of the replica is lost")

    def __del__(self) -> None:
        replica = getattr(self, "_replica", None)
        if replica is not None:
            replica.close()


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


def build(
    models: Sequence[Served], config: ServeConfig, places: JobPlaces | None = None, log: str = ""
) -> Any:
    """Return the application of some models, for `serve.run`, or for a config file of Ray Serve."""
    handles = {}
    for served in models:
        workers = parse_plan(served.config.plan).num_workers
        resources: dict[str, Any] = {"num_cpus": workers * served.config.threads}
        if served.config.device == "cuda":
            resources["num_gpus"] = workers
        deployment = serve.deployment(
            ModelReplica, name=served.name, num_replicas=config.replicas, ray_actor_options=resources,
            max_ongoing_requests=2 * config.batch, max_queued_requests=config.queue, health_check_period_s=HEALTH_SECONDS,
            health_check_timeout_s=max(30.0, config.seconds), graceful_shutdown_timeout_s=config.drain_seconds,
        )  # fmt: skip
        handles[served.name] = deployment.bind(served, config)
    ingress = serve.deployment(
        serve.ingress()(Ingress), name="door", num_replicas=1, ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=config.uploads + config.queue * len(models) + 64, health_check_period_s=HEALTH_SECONDS,
        graceful_shutdown_timeout_s=config.drain_seconds,
    )  # fmt: skip
    return ingress.bind(handles, config, places, log)


def cpus_of(models: Sequence[Served], config: ServeConfig) -> int:
    """Return the processors that all replicas ask Ray for."""
    needs = [parse_plan(one.config.plan).num_workers * one.config.threads for one in models]
    return max(os.cpu_count() or 1, config.replicas * sum(needs))


def start(
    models: Sequence[Served], config: ServeConfig, address: str, places: JobPlaces | None, log: str
) -> Any:
    """Start, or join, a cluster of Ray, and run the application on it; return its handle once all replicas answer.

    Args:
        models: What is served.
        config: Limits.
        address: Of the cluster; empty starts one on this machine.
        places: Of jobs.
        log: File of a line for each request.
    """
    if address:
        ray.init(address=address, namespace="serve", log_to_driver=False)
    else:
        ray.init(
            num_cpus=cpus_of(models, config), include_dashboard=False, object_store_memory=STORE_BYTES, namespace="serve",
            log_to_driver=not log, logging_level="warning",
        )  # fmt: skip
    serve.start(
        proxy_location="EveryNode" if address else "HeadOnly",
        http_options={"host": config.host, "port": config.port, "request_timeout_s": None},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    return serve.run(
        build(models, config, places, log),
        name=APPLICATION,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )


def drain(handle: Any, config: ServeConfig) -> None:
    """Let requests under way end, and take no others."""
    handle.drain.remote().result(timeout_s=config.drain_seconds + 30)


def stop(address: str) -> None:
    """End the application, and what was started on this machine."""
    if address:
        serve.delete(APPLICATION)
    else:
        serve.shutdown()
    ray.shutdown()

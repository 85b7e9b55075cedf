"""The door and the replicas as deployments of Ray Serve: it starts them, sends requests to those that are free, and starts again what is lost.

    proxy (HTTP) ──> ingress: `Door` ──> replicas of model A: `Replica` (one process, or the workers of a plan)
                                   └──> replicas of model B ...

Ray puts each where there is room, on one machine or a cluster.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve

from ziggurat.config.serve_config import ServeConfig
from ziggurat.serving.exchange import Answer, Ask, Card, Refused
from ziggurat.serving.opening import Served
from ziggurat.serving.ray_door import Ingress, JobPlaces
from ziggurat.serving.replica import Replica
from ziggurat.strategies.plan import parse_plan

APPLICATION = "ziggurat"
HEALTH_SECONDS = 2.0  # between two looks at a replica, and what it has to answer
STORE_BYTES = 256 << 20  # of Ray's memory for objects: requests and answers


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

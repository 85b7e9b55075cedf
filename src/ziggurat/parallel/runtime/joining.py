"""Joining the world that torchrun has made, also one whose workers were there before.

torchrun's store outlives its workers, and its count of restarts may differ between machines (one that joins later
counts from 0), so neither tells the keys of one world from those of the world before. The workers agree on a name:

    worker r   join/r = token ──────> worker 0   answer/token = name ──> worker r   confirmed/name/r ──> worker 0

A token is random, so nobody takes an answer for another world's; worker 0 answers each new token until all workers have
confirmed, so tokens that dead workers have left behind do no harm.
"""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta

from ziggurat.torch_internals.stores import PrefixStore, Store, TCPStore

POLL_SECONDS = 0.02


def torchrun_store(rank: int, timeout: timedelta) -> Store:
    """Connect to the store that the environment names; the first worker hosts it where torchrun does not."""
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(
        address, port, None, is_master=rank == 0 and not hosted, timeout=timeout, wait_for_workers=False
    )


def agree_on_world(store: Store, rank: int, world: int, timeout: timedelta) -> Store:
    """Return a view of the store whose keys are this world's alone.

    Args:
        store: It may hold keys of earlier worlds.
        rank: This worker's number.
        world: Number of workers; all of them call this.
        timeout: For all of them to come.

    Raises:
        TimeoutError: On the first worker, naming those that did not come; the others wait for the store's own
            time-out.
    """
    if rank != 0:
        token = uuid.uuid4().hex
        store.set(f"ziggurat/join/{rank}", token)
        name = store.get(f"ziggurat/answer/{token}").decode()  # waits
        store.set(f"ziggurat/confirmed/{name}/{rank}", "")
        return PrefixStore(f"ziggurat/world/{name}", store)
    name = uuid.uuid4().hex
    answered: dict[int, str] = {}
    missing = set(range(1, world))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        for other in missing:
            _answer(store, other, name, answered)
        missing = {other for other in missing if not store.check([f"ziggurat/confirmed/{name}/{other}"])}
        if missing and time.monotonic() > deadline:
            raise TimeoutError(f"workers {sorted(missing)} of {world} did not come in {timeout}")
        time.sleep(POLL_SECONDS if missing else 0)
    return PrefixStore(f"ziggurat/world/{name}", store)


def _answer(store: Store, other: int, name: str, answered: dict[int, str]) -> None:
    """Answer the newest token of another worker, once."""
    if not store.check([f"ziggurat/join/{other}"]):
        return
    token = store.get(f"ziggurat/join/{other}").decode()
    if answered.get(other) != token:
        store.set(f"ziggurat/answer/{token}", name)
        answered[other] = token

"""A replica of several workers: a process of its own starts them, as a command does, and they answer together or not at all.

    replica  <── socket in a folder of its own ──>  worker 0  ── broadcast ──>  worker 1 ...
       │ starts                                        │
       └──> leader: `launch` of the plan's workers ────┘

If any of them is lost, `launch` ends all; the socket closes, the replica is not well any more, and is started again as a whole. If
the replica is killed, so are its leader and the workers.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from ziggurat.config.serve_config import ServeConfig
from ziggurat.errors import Preempted, UserError
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.failures import Interrupted, WorkerFailed
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.parallel.runtime.launch import WorkerSettings, launch
from ziggurat.serving.computer import Item
from ziggurat.serving.exchange import Answer, Card, Refused
from ziggurat.serving.opening import Served, opened
from ziggurat.strategies.plan import parse_plan
from ziggurat.system.forking import die_with_parent
from ziggurat.system.scratch import scratch_folder

BEAT_SECONDS = 5.0  # after which idle workers tell each other that they are there
LOOK_SECONDS = 0.5  # between two looks whether the leader is there, while it starts
END_SECONDS = 10.0  # that workers have to end
ENDED = (EOFError, ConnectionError, BrokenPipeError)


@dataclass(frozen=True)
class _Begin:
    """What the leader is told."""

    served: Served
    config: ServeConfig
    address: str
    key: bytes


class Group:
    """Workers that compute for a replica; calls come from one thread.

    Args:
        served: The model, with its plan.
        config: Limits.

    Attributes:
        card: What is known of the model.

    Raises:
        UserError: What a worker finds wrong.
        Refused: If the workers have ended before they were ready.
    """

    def __init__(self, served: Served, config: ServeConfig) -> None:
        self._stack = ExitStack()
        try:
            folder = self._stack.enter_context(scratch_folder("ziggurat-group-"))
            begin = _Begin(served, config, str(folder / "socket"), secrets.token_bytes(32))
            listener = self._stack.enter_context(_listen(begin.address))
            self._leader = subprocess.Popen(
                [sys.executable, "-m", "ziggurat.serving.group", str(os.getpid())], stdin=subprocess.PIPE
            )
            self._stack.callback(self._end_leader)
            assert self._leader.stdin is not None
            self._leader.stdin.write(pickle.dumps(begin))
            self._leader.stdin.close()
            self._pipe = self._stack.enter_context(
                _accept(listener, begin.key, self._leader)
            )  # closed first: the workers end
            first = self._receive()
            if isinstance(first, UserError):
                raise first
            self.card: Card = first
        except BaseException:
            self._stack.close()
            raise

    def compute(self, items: Sequence[Item], folder: Path) -> list[Answer | Refused]:
        """Answer what is asked of some images.

        Raises:
            Refused: If a worker is lost.
        """
        try:
            self._pipe.send((list(items), folder))
        except ENDED:
            raise _lost() from None
        found: list[Answer | Refused] = self._receive()
        return found

    def is_well(self) -> bool:
        """Whether the workers are there."""
        return self._leader.poll() is None

    def close(self) -> None:
        """End the workers."""
        self._stack.close()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except ENDED:
            raise _lost() from None

    def _end_leader(self) -> None:
        try:
            self._leader.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._leader.kill()  # and with it its workers
            self._leader.wait()


def _lost() -> Refused:
    return Refused(503, "a worker of the replica is lost, and the replica is started again: try again", 5)


def _listen(address: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(1)
    listener.settimeout(LOOK_SECONDS)
    return listener


def _accept(listener: socket.socket, key: bytes, leader: subprocess.Popen[bytes]) -> Connection:
    """Wait for the first worker, as long as its leader is there; `Client` at the other end has the same key."""
    while True:
        try:
            accepted, _ = listener.accept()
        except TimeoutError:
            if leader.poll() is not None:
                raise _lost() from None
            continue
        accepted.setblocking(True)
        pipe = Connection(accepted.detach())
        deliver_challenge(pipe, key)
        answer_challenge(pipe, key)
        return pipe


def _lead(begin: _Begin) -> int:
    """Start the workers, and wait for their end; what is wrong with the input is told to the replica.

    Returns:
        The exit status.
    """
    config = begin.served.config
    settings = WorkerSettings(config.threads, config.device, config.launch)
    try:
        launch(_work, (begin,), parse_plan(config.plan).num_workers, settings)
    except UserError as error:
        with Client(begin.address, "AF_UNIX", authkey=begin.key) as pipe:
            pipe.send(UserError(error.faults))
        return 2
    except (WorkerFailed, Preempted, Interrupted) as error:
        print(f"ziggurat: {error}", file=sys.stderr)
        return 1
    return 0


def _work(workers: Workers, begin: _Begin) -> None:
    """Be a worker: answer with the others until the replica is gone."""
    with ExitStack() as stack:
        computer, card = stack.enter_context(opened(begin.served, begin.config, workers))
        pipe = None
        if workers.is_first:
            pipe = stack.enter_context(Client(begin.address, "AF_UNIX", authkey=begin.key))
            pipe.send(card)
        while True:
            phase("evaluation")  # a sign of life
            call = workers.broadcast_object(_next(pipe))
            if call == "end":
                return
            if call is not None:
                found = computer(*call)
                if pipe is not None:
                    pipe.send(found)


def _next(pipe: Connection | None) -> Any:
    """Return the next call; None where there is none, ``end`` where there will be none; on the first worker."""
    if pipe is None:
        return None
    try:
        return pipe.recv() if pipe.poll(BEAT_SECONDS) else None
    except ENDED:
        return "end"


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    status = _lead(pickle.loads(sys.stdin.buffer.read()))  # noqa: S301 - of the replica that has started this process
    sys.stderr.flush()
    os._exit(status)  # its workers have ended, and nobody waits for PyTorch to clean up

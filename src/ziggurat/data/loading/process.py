"""One loader process: asked for things by number, it makes them one after the other and passes them on."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
import pickle
import signal
import socket
import struct
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import torch

from ziggurat.data.loading.passing import NoRoom, Passed, pass_on, take
from ziggurat.system.forking import die_with_parent, fork_context, without_ctrl_c

Asked = TypeVar("Asked")
Channel = Connection | socket.socket

HEAD = struct.Struct(
    "<qqq"
)  # number, start and size of what is passed; a size of 0: the rest is a pickled Broken
MOST_BYTES = 1 << 16  # of one message
MOST_TEXT = 1 << 14  # characters of a traceback or an explanation


@dataclass(frozen=True)
class Broken:
    """What came of something that a loader process could not make or pass on, for another reason than the user's.

    Attributes:
        text: A traceback, or why there is no room for it.
        is_exhausted: Whether there is too little shared memory.
    """

    text: str
    is_exhausted: bool = False


class LoaderDied(Exception):  # noqa: N818 - reads as what happened
    """A loader process ended by itself; the message says by which signal or status."""


class LoaderProcess(Generic[Asked]):
    """A loader process, as its worker sees it.

    It is forked, so that it shares the pages of what `make` holds, and it ends if the worker does.

    Args:
        make: From what is asked for to what is passed on.
        others: The worker's ends of the channels of other processes, which this one must not keep open.

    Attributes:
        asked: What it has yet to deliver, the first of which it is at work on, with their numbers.
    """

    def __init__(self, make: Callable[[Asked], object], others: Iterable[Channel] = ()) -> None:
        context = fork_context()
        requests, self._requests = context.Pipe(duplex=False)
        self._answers, answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.asked: deque[tuple[int, Asked]] = deque()
        theirs = [*others, *self.channels]
        self._process = context.Process(
            target=_serve, args=(make, requests, answers, theirs, os.getpid()), daemon=True
        )
        with without_ctrl_c():
            self._process.start()
        requests.close()
        answers.close()

    @property
    def channels(self) -> tuple[Channel, Channel]:
        """The worker's ends of the process's channels."""
        return self._requests, self._answers

    def ask(self, number: int, asked: Asked) -> None:
        """Ask for one more thing; a process that is dead by now is found out by `receive`."""
        self.asked.append((number, asked))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `asked` says what it owes
            self._requests.send((number, asked))

    def receive(self) -> tuple[int, Any]:
        """Return the number and the thing that is delivered next; waits for nothing if `wait_for` has named it.

        Raises:
            LoaderDied: If the process has ended, and has delivered all that it ever will.
        """
        flags = socket.MSG_DONTWAIT if _has_ended(self._process.sentinel) else 0
        try:
            message, files, _, _ = socket.recv_fds(self._answers, MOST_BYTES, 1, flags)
        except BlockingIOError:
            message, files = b"", []
        if not message:
            raise LoaderDied(self._end())
        self.asked.popleft()
        number, start, size = HEAD.unpack_from(message)
        if not size:
            return number, pickle.loads(message[HEAD.size :])  # noqa: S301 - of our own process
        if not files:  # the kernel drops what this process may not open
            return number, Broken("this process has too many open files: raise their number (ulimit -n)")
        return number, take(Passed(files[0], start, size))

    def close(self) -> None:
        """End the process at once, whatever it is at; nothing is waited for but the kernel."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self._requests.close()
        self._answers.close()

    def _end(self) -> str:
        self._process.join()
        status = self._process.exitcode or 0
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"

    @property
    def waited_for(self) -> tuple[socket.socket, int]:
        """What becomes ready when something is delivered, or when the process ends."""
        return self._answers, self._process.sentinel


def wait_for(processes: Iterable[LoaderProcess[Asked]]) -> list[LoaderProcess[Asked]]:
    """Wait until some processes have delivered something or have ended, and return these."""
    owners = {thing: process for process in processes for thing in process.waited_for}
    ready = multiprocessing.connection.wait(list(owners))
    return list(dict.fromkeys(owners[thing] for thing in ready))  # type: ignore[index] # it returns what it was given


def _has_ended(sentinel: int) -> bool:
    return bool(multiprocessing.connection.wait([sentinel], 0))


def _serve(
    make: Callable[[Any], object],
    requests: Connection,
    answers: socket.socket,
    theirs: Iterable[Channel],
    parent: int,
) -> None:
    """Be a loader process."""
    prepare(parent)
    for channel in theirs:
        channel.close()
    while True:
        try:
            number, asked = requests.recv()
        except EOFError:
            return
        try:
            made = make(asked)
        except Exception:  # noqa: BLE001 - whatever it is, the worker raises it
            _send_broken(answers, number, Broken(traceback.format_exc()[-MOST_TEXT:]))
            continue
        try:
            passed = pass_on(made)
        except NoRoom as error:
            _send_broken(answers, number, Broken(str(error), is_exhausted=True))
            continue
        socket.send_fds(answers, [HEAD.pack(number, passed.start, passed.size)], [passed.file])
        os.close(passed.file)


def _send_broken(answers: socket.socket, number: int, broken: Broken) -> None:
    answers.send(HEAD.pack(number, 0, 0) + pickle.dumps(broken))


def prepare(parent: int) -> None:
    """Prepare a loader process, first of all inside it.

    Args:
        parent: Process id of the worker that it serves, with which it ends.
    """
    torch.set_num_threads(1)
    # may reach the whole group; the worker ends us
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent)

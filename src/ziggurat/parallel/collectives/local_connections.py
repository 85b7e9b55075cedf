"""Finding those workers of a group that are on this machine, and connecting to them through local (Unix domain) sockets.

Each worker listens at a name of its own, which is random and in no folder; all tell each other theirs by gloo, and each calls those before it. Who
is on another machine, or in a container with a network of its own, is not reached. Both ends of a connection know of it before anybody waits for it.
"""

from __future__ import annotations

import secrets
import socket
import struct
import sys

import torch
import torch.distributed as dist

MEETING_SECONDS = 60.0  # for a worker that has called to say who it is
NAME_BYTES = 16
_HELLO = struct.Struct(f"<{NAME_BYTES}sI")


def connect(group: dist.ProcessGroup, rank: int, size: int) -> dict[int, socket.socket]:
    """Return connections to those members of a group that are on this machine, by their number.

    Args:
        group: Of gloo; all members call this.
        rank: This worker's number in it.
        size: How many members there are.

    Raises:
        RuntimeError: If another worker does not come.

    Communication: two all-gathers of some bytes by gloo, and a message over each connection.
    """
    name = secrets.token_bytes(NAME_BYTES)
    listener = _listen(name, size)
    names = _gathered(group, size, name if listener is not None else bytes(NAME_BYTES))
    connections: dict[int, socket.socket] = {}
    try:
        for peer, there in enumerate(names[:rank]):  # who comes later calls who came before
            if listener is not None and any(there) and (connection := _call(there, rank)) is not None:
                connections[peer] = connection
        reached = _gathered(group, size, bytes(peer in connections for peer in range(size)))
        callers = {peer for peer in range(rank + 1, size) if reached[peer][rank]}
        if listener is not None:
            connections |= _answer(listener, name, callers)
    except BaseException:
        for connection in connections.values():
            connection.close()
        raise
    finally:
        if listener is not None:
            listener.close()
    return connections


def _listen(name: bytes, size: int) -> socket.socket | None:
    """Return a socket that others of this machine can call, or None where there is no such thing."""
    if sys.platform != "linux":  # names that are in no folder are Linux's
        return None
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        listener.bind(_address(name))
        listener.listen(size)
        listener.settimeout(MEETING_SECONDS)
    except OSError:
        listener.close()
        return None
    return listener


def _address(name: bytes) -> str:
    return f"\0ziggurat-{name.hex()}"


def _call(name: bytes, rank: int) -> socket.socket | None:
    """Return a connection to a worker; None where it is on another machine, or in a container that is as one."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(MEETING_SECONDS)
        connection.connect(_address(name))
        connection.sendall(_HELLO.pack(name, rank))
    except OSError:
        connection.close()
        return None
    return connection


def _answer(listener: socket.socket, name: bytes, callers: set[int]) -> dict[int, socket.socket]:
    """Return the connections of workers that have called; anybody else is turned away."""
    found: dict[int, socket.socket] = {}
    try:
        while callers - found.keys():
            connection, _ = listener.accept()
            connection.settimeout(MEETING_SECONDS)
            hello = connection.recv(_HELLO.size, socket.MSG_WAITALL)
            said, rank = _HELLO.unpack(hello) if len(hello) == _HELLO.size else (b"", -1)
            if said == name and rank in callers - found.keys():
                found[rank] = connection
            else:
                connection.close()
    except OSError as error:
        for connection in found.values():
            connection.close()
        raise RuntimeError(f"a worker of this machine that had called did not speak: {error}") from error
    return found


def _gathered(group: dist.ProcessGroup, size: int, mine: bytes) -> list[bytes]:
    """Return some bytes of each member of a group."""
    part = torch.frombuffer(bytearray(mine), dtype=torch.uint8)
    whole = torch.empty(size * len(mine), dtype=torch.uint8)
    dist.all_gather_single(whole, part, group=group)
    return [row.numpy().tobytes() for row in whole.view(size, -1)]

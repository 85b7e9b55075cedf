"""What a worker has sent over a group: counted where a collective is issued, by what the usual algorithms send.

    all-reduce of n bytes     2 (s - 1) messages of n / s bytes           a ring, of s workers
    all-gather of n each      s - 1 messages of n bytes                   a ring
    all-to-all, messages      one message a piece, of its bytes
    broadcast of n bytes      s - 1 messages of n bytes, by the first worker
    barrier                   log2(s) messages without bytes, rounded up

A backend may take another way.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(order=True)
class Sent:
    """Messages and bytes that this worker has sent.

    Attributes:
        bytes: In messages to other workers.
        messages: How many.
        shared_bytes: Written for others into memory that they share with this worker, instead of being sent.

    Example:
        >>> Sent(100, 3) - Sent(40, 1)
        Sent(bytes=60, messages=2, shared_bytes=0)
    """

    bytes: int = 0
    messages: int = 0
    shared_bytes: int = 0

    def add(self, messages: int, num_bytes: int) -> None:
        """Count messages that together have so many bytes."""
        self.messages += messages
        self.bytes += num_bytes

    def copy(self) -> Sent:
        """Return what has been sent so far."""
        return replace(self)

    def __sub__(self, other: Sent) -> Sent:
        return Sent(
            self.bytes - other.bytes, self.messages - other.messages, self.shared_bytes - other.shared_bytes
        )

    def __add__(self, other: Sent) -> Sent:
        return Sent(
            self.bytes + other.bytes, self.messages + other.messages, self.shared_bytes + other.shared_bytes
        )

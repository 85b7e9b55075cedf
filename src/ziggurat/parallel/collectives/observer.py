"""Who wants to know what a worker sends and receives, when it waits for that, and what it computes on spread tensors: a recording of a step.

with observer.message("swap", ranks, sends, receives) as done:     the message, or collective, is begun inside
    ...
done()                                                             this worker has waited for its end
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeVar

T = TypeVar("T")

Talk = Literal[
    "swap", "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "broadcast", "gather", "barrier"
]


class Observer(Protocol):
    """Is told of the messages of a world of workers."""

    def shared_memory(self, ranks: Sequence[int]) -> Literal["reserved", "promised", "none"]:
        """Return what memory is to workers that want to share it.

        Args:
            ranks: Their numbers in the world.

        Returns:
            ``reserved``, as it is where a step is real; ``promised``, where nobody writes to it; ``none``, as if they were on several
            machines.
        """
        ...

    def message(
        self,
        kind: Talk,
        ranks: Sequence[int],
        num_bytes: int = 0,
        sends: Sequence[tuple[int, int]] = (),
        receives: Sequence[tuple[int, int]] = (),
    ) -> AbstractContextManager[Callable[[], None]]:
        """Return a context in which a message or collective is begun, which gives what is called after its wait.

        Args:
            kind: Which.
            ranks: Of the group, in the world.
            num_bytes: Of a collective: what this worker gives; of a broadcast what is handed on.
            sends: Of a swap: receivers (numbers in the world) and bytes.
            receives: Of a swap: senders and bytes.
        """
        ...

    def operation(self, kind: str, run: Callable[[], T]) -> T:
        """Compute an operation on spread tensors, and return what it returns.

        Args:
            kind: Of the operation, as the table of `parallel.spatial` has it.
            run: Computes it; messages, and operations that it is made of, are begun inside.
        """
        ...

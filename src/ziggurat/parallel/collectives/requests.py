"""A collective that was begun, and what becomes of one that fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.collectives.clock import Clock
from ziggurat.parallel.collectives.local_messages import Waited
from ziggurat.parallel.runtime.heartbeat import waiting

# They are this worker's own, though they may come up in the middle of a collective.
OWN_FAULTS = (CollectiveFailed, torch.OutOfMemoryError, torch.AcceleratorError)


@contextmanager
def converted(describe: Callable[[], str]) -> Iterator[None]:
    """Raise `CollectiveFailed` for what a backend raises in a block that does nothing but communicate.

    Args:
        describe: Returns who did not answer whom.
    """
    try:
        yield
    except OWN_FAULTS:
        raise
    except RuntimeError as error:  # gloo has no type of its own
        raise _failure(describe(), error) from error


def _failure(unanswered: str, error: RuntimeError) -> CollectiveFailed:
    lines = str(error).splitlines() or [type(error).__name__]
    return CollectiveFailed(
        f"{unanswered}: it has ended, or is stuck; see its own last message, and resume the run ({lines[0]})"
    )


def _untimed(device: torch.device) -> AbstractContextManager[None]:
    return nullcontext()


class Request:
    """A collective, or some messages, that this worker has begun.

    Args:
        works: Of PyTorch, each with a function that says who would not have answered; none if nothing is to wait for.
        check: Raises `CollectiveFailed` where this worker has been told that another one is lost.
        device: On which the result is.
        memory: What must live until the end.
        results: Tensors, and where the backend leaves what they shall hold.
        done: Called when this worker has waited.
        timed: From the device to the context in which it waits.
    """

    def __init__(
        self,
        works: Sequence[tuple[Waited, Callable[[], str]]],
        check: Callable[[], None],
        device: torch.device,
        memory: Sequence[torch.Tensor] = (),
        results: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
        done: Callable[[], None] | None = None,
        timed: Callable[[torch.device], AbstractContextManager[None]] = _untimed,
    ) -> None:
        self._works, self._check, self._device, self._timed = works, check, device, timed
        self._memory, self._results, self._done = memory, results, done

    def wait(self, clock: Clock | None = None) -> None:
        """Return when the result is there; under CUDA, when the current stream will wait for it.

        Args:
            clock: Is told how long this took, on the device where it is a GPU.

        Raises:
            CollectiveFailed: If another worker has ended, or has not answered within the group's time-out.
        """
        works, self._works = self._works, ()
        asked = clock.span(self._device) if clock is not None else nullcontext()
        with asked, self._timed(self._device), waiting():
            for work, describe in works:
                try:
                    work.wait()
                except OWN_FAULTS:
                    raise
                except RuntimeError as error:  # as `converted`, without a context for each of many messages
                    raise _failure(describe(), error) from error
        for tensor, found in self._results:
            if tensor is not found:
                tensor.copy_(found)
        self._memory = self._results = ()
        done, self._done = self._done, None
        if done is not None:
            done()
        self._check()


DONE = Request((), lambda: None, torch.device("cpu"))  # of a collective of one worker

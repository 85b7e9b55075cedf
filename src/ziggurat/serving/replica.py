"""One replica of a model: it takes asks from other processes, and computes on one thread, or on the workers of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from ziggurat.config.serve_config import ServeConfig, format_of_bytes
from ziggurat.parallel.runtime.launch import WorkerSettings, join_world
from ziggurat.serving.computer import Item
from ziggurat.serving.exchange import Answer, Ask, Card, Refused
from ziggurat.serving.group import Group
from ziggurat.serving.opening import Served, opened
from ziggurat.strategies.plan import parse_plan
from ziggurat.system.scratch import scratch_folder


class Replica:
    """A model that answers.

    Args:
        served: The model.
        config: Limits.

    Raises:
        UserError: If the run cannot be loaded, or not spread as its plan says.
    """

    def __init__(self, served: Served, config: ServeConfig) -> None:
        self.served, self.config = served, config
        self._stack = ExitStack()
        self._thread = self._stack.enter_context(
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        )  # threads of PyTorch belong to the thread that asks for them
        self._folder = self._stack.enter_context(scratch_folder("ziggurat-serve-"))
        try:
            self._desk: _Desk = self._thread.submit(self._open).result()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> _Desk:
        if parse_plan(self.served.config.plan).num_workers == 1:
            return _Alone(self.served, self.config)
        return Group(self.served, self.config)

    @property
    def card(self) -> Card:
        """What is known of the model."""
        return self._desk.card

    def is_well(self) -> bool:
        """Whether it can answer: each of its workers is there."""
        return self._desk.is_well()

    def answer(self, asks: Sequence[Ask]) -> list[Answer | Refused]:
        """Answer what is asked, as one group; for each an answer, or why there is none."""
        return self._thread.submit(self._answer, asks).result()

    def _answer(self, asks: Sequence[Ask]) -> list[Answer | Refused]:
        with TemporaryDirectory(dir=self._folder) as name:
            folder = Path(name)
            items = [_item(ask, index, folder) for index, ask in enumerate(asks)]
            return self._desk.compute(items, folder)

    def close(self) -> None:
        """End what it has started, and remove its files."""
        desk = getattr(self, "_desk", None)
        if desk is not None:
            self._thread.submit(desk.close).result()
        self._stack.close()


def _item(ask: Ask, index: int, folder: Path) -> Item:
    """Put the bytes of a file where workers read them, under a name of our own."""
    if not isinstance(ask.image, bytes):
        return Item(ask.image, ask.name, ask.wants)
    file = folder / f"{index}.{format_of_bytes(ask.image[:16]) or 'bin'}"
    file.write_bytes(ask.image)
    return Item(file, ask.name, ask.wants)


class _Desk(Protocol):
    """What computes for a replica."""

    card: Card

    def compute(self, items: Sequence[Item], folder: Path) -> list[Answer | Refused]: ...

    def is_well(self) -> bool: ...

    def close(self) -> None: ...


class _Alone:
    """Computes in this process, on the thread that has made it."""

    def __init__(self, served: Served, config: ServeConfig) -> None:
        self._stack = ExitStack()
        settings = WorkerSettings(served.config.threads, served.config.device, served.config.launch)
        workers = self._stack.enter_context(join_world(settings))
        self._computer, self.card = self._stack.enter_context(opened(served, config, workers))

    def compute(self, items: Sequence[Item], folder: Path) -> list[Answer | Refused]:
        found = self._computer(items, folder)
        assert found is not None
        return found

    def is_well(self) -> bool:
        return True

    def close(self) -> None:
        self._stack.close()

"""The generators that a network may draw random numbers from: PyTorch's, NumPy's global one, and Python's.

A microbatch is keyed before its forward pass: so it has the same numbers on whichever worker, and under every plan. `keyed` gives
NumPy and Python keys that follow from PyTorch's state, so that who keys PyTorch has keyed all of them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Generators(NamedTuple):
    """States of the generators; None of one that is of no interest.

    Attributes:
        host: PyTorch's, of tensors in the CPU's memory.
        device: PyTorch's, of a GPU.
        numpy: NumPy's global one.
        python: That of the module ``random``.
    """

    host: Tensor | None = None
    device: Tensor | None = None
    numpy: Any = None
    python: Any = None

    @classmethod
    def now(cls, device: torch.device | None = None) -> Generators:
        """Return the present states.

        Args:
            device: Where a network computes; None leaves GPUs out.
        """
        of_gpu = torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None
        return cls(torch.get_rng_state(), of_gpu, np.random.get_state(), random.getstate())

    def set(self, device: torch.device | None = None) -> None:
        """Go on with these states; where one is None, as it is."""
        if self.host is not None:
            torch.set_rng_state(self.host)
        if self.device is not None:
            torch.cuda.set_rng_state(self.device, device if device is not None else "cuda")
        if self.numpy is not None:
            np.random.set_state(self.numpy)
        if self.python is not None:
            random.setstate(self.python)

    def changed_since(self, before: Generators) -> Generators:
        """Return the states that differ from those before, and None for the others."""
        pairs = zip(self, before, strict=True)
        return Generators(*(None if _same(state, other) else state for state, other in pairs))

    def then(self, later: Generators) -> Generators:
        """Return these states, and later ones in their places where there are some."""
        return Generators(*(new if new is not None else old for old, new in zip(self, later, strict=True)))

    @property
    def names(self) -> list[str]:
        """Whose states these are, in words."""
        words = (
            "PyTorch's generator",
            "PyTorch's generator of the GPU",
            "NumPy's generator",
            "Python's generator",
        )
        return [word for word, state in zip(words, self, strict=True) if state is not None]


MANY = 100  # the words of Python's generator, which are numbers


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        if len(one) > MANY:
            return one == other
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return bool((one == other).all())
    return bool(one == other)


def key_others() -> None:
    """Key NumPy's global generator and Python's by the state of PyTorch's, of which nothing is drawn.

    Example:
        >>> _ = torch.manual_seed(3)
        >>> key_others()
        >>> first = random.random(), float(np.random.rand())
        >>> _ = torch.manual_seed(3)
        >>> key_others()
        >>> first == (random.random(), float(np.random.rand()))
        True
    """
    digest = hashlib.blake2b(torch.get_rng_state().numpy().tobytes(), digest_size=12).digest()
    random.seed(int.from_bytes(digest[:8], "little"))
    np.random.seed(int.from_bytes(digest[8:], "little"))


def seed_everything(*key: int | tuple[int, ...]) -> None:
    """Key every random choice of the model (dropout, drop path) and of libraries by `key`.

    Example:
        >>> seed_everything(7, (0, 3))
        >>> first = torch.rand(1)
        >>> seed_everything(7, (0, 3))
        >>> bool(first == torch.rand(1))
        True
    """
    words = [word for part in key for word in (part if isinstance(part, tuple) else (part,))]
    state = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    if torch.accelerator.is_available():
        torch.manual_seed(state)
    else:  # which would note the stack for devices that are not there: half a millisecond for each batch
        torch.default_generator.manual_seed(state)
    random.seed(state)
    np.random.seed(state % (1 << 32))


@contextmanager
def noting_draws(found: set[str], device: torch.device) -> Iterator[None]:
    """Add to a set the names of the generators of which a block has drawn."""
    before = Generators.now(device)
    yield
    found.update(Generators.now(device).changed_since(before).names)


@contextmanager
def others_as_before() -> Iterator[None]:
    """Leave NumPy's global generator and Python's as they were; also where the block raises."""
    before = Generators(numpy=np.random.get_state(), python=random.getstate())
    try:
        yield
    finally:
        before.set()


@contextmanager
def generators_as_before_on(device: torch.device) -> Iterator[None]:
    """Leave all generators that a network on a device may draw of as they were; also where the block raises."""
    before = Generators.now(device)
    try:
        yield
    finally:
        before.set(device)


@contextmanager
def generators_as_before() -> Iterator[None]:
    """Leave all generators as they were, those of every GPU, too; also where the block raises."""
    with torch.random.fork_rng(), others_as_before():
        yield

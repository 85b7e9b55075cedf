"""What passes between the door and what computes: plain data, which any process can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ziggurat.errors import UserError

ROWS, PICTURE, MASK, ARRAYS = "rows", "picture", "mask", "arrays"  # what can be asked for


class Refused(UserError):  # noqa: N818 - reads as what happened
    """A request is not answered; the message says why.

    Args:
        status: Of HTTP: 4xx where the request is wrong, 503 and 504 where the server cannot.
        message: The rule, the values, the remedy.
        retry_after: Seconds after which it may be tried again; 0 says nothing of it.

    Attributes:
        status: As the argument.
        retry_after: As the argument.
    """

    def __init__(self, status: int, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after

    def __reduce__(self) -> tuple[type[Refused], tuple[int, str, int]]:
        return Refused, (self.status, str(self), self.retry_after)


@dataclass(frozen=True)
class Ask:
    """One image, and what is asked of it.

    Attributes:
        request: Id of the request.
        image: The bytes of a file; or pixels, uint8, shape ``(H, W, 3)``.
        name: What the answer calls the image: a file name without folders.
        wants: Of `ROWS`, `PICTURE`, `MASK` and `ARRAYS`.
    """

    request: str
    image: bytes | np.ndarray[Any, Any]
    name: str
    wants: frozenset[str] = frozenset({ROWS})


@dataclass(frozen=True)
class Answer:
    """What is said of one image.

    Attributes:
        rows: As ``predictions.json`` has them.
        picture: The drawn picture, a file; empty where it is not asked for.
        mask: The file of labels that a row names; empty where there is none, or it is not asked for.
        arrays: By their names; empty where they are not asked for.
        seconds: Of computation, of the whole group.
        group: Images that were answered together.
    """

    rows: list[dict[str, Any]]
    picture: bytes = b""
    mask: bytes = b""
    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    seconds: float = 0.0
    group: int = 1


@dataclass(frozen=True)
class Card:
    """What is known of a model that is served.

    Attributes:
        name: By which requests name it.
        task: Kind of work.
        model: The network's name.
        classes: The name of each label.
        lies_on: What a row lies on (`tasks.base.LiesOn`).
        bands: Of the images.
        arrays: Name of each array, its type in NumPy's words, and its shape without that of the batch; -1 where it varies.
        weights_sha256: Digest of the weights.
        plan: On which it computes.
    """

    name: str
    task: str
    model: str
    classes: tuple[str, ...]
    lies_on: str
    bands: int
    arrays: tuple[tuple[str, str, tuple[int, ...]], ...]
    weights_sha256: str
    plan: str


class Engine(Protocol):
    """What the door asks: one replica in this process, or many on a cluster."""

    def names(self) -> tuple[str, ...]:
        """Return the names of the models, the first the one that is meant if none is named."""
        ...

    async def card(self, name: str) -> Card:
        """Return what is known of a model.

        Raises:
            Refused: If no replica answers.
        """
        ...

    async def answer(self, name: str, ask: Ask) -> Answer:
        """Compute an answer.

        Raises:
            Refused: If the image cannot be read, or no replica answers.
        """
        ...

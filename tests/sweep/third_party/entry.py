"""One network of somebody else's package: how it is built, and what it takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """A line of a package's table; called, it builds the network.

    Attributes:
        build: Makes it narrow, with random weights. The package is imported here, and nowhere else.
        shape: Of the images.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 3, 64, 64)

    def __call__(self) -> nn.Module:
        """Build the network."""
        return self.build()


class Package:
    """A package that is imported when it is used.

    Args:
        name: As in an import.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, attribute: str) -> Any:
        module = importlib.import_module(self.name)
        try:
            return getattr(module, attribute)
        except AttributeError:
            return importlib.import_module(f"{self.name}.{attribute}")


class Calling(nn.Module):
    """A network that is called as its users call it: with more than the images, or for a part of what it returns.

    Args:
        network: Somebody else's, as it is.
        call: Calls it with the images.
    """

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.network = network
        self.call = call

    def forward(self, images_BCHW: Tensor) -> Any:
        """Return what the call returns."""
        return self.call(self.network, images_BCHW)


def attributes(networks: Mapping[str, Entry]) -> Callable[[str], Entry]:
    """Return a module's ``__getattr__``: ``ziggurat verify`` takes ``package.module:name`` for each line of its table."""

    def find(name: str) -> Entry:
        if name in networks:
            return networks[name]
        raise AttributeError(name)

    return find

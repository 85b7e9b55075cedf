"""Objects that mind being asked: stand-ins of packages that are absent, proxies, arrays. Networks and their modules hold such."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.verdicts import make_trial, verdict_of
from ziggurat.parallel.graph.keeping import kept_by


class Copied:
    """May be copied: it is itself then."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class AsksForItsPackage(Copied):
    """Raises for any attribute that it has not, as a package's stand-in does for one that is absent (MONAI's)."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError(f"no {name}: the package is not installed")

    def __call__(self, *_: Any) -> Any:
        raise ImportError("the package is not installed")


class IsNoneBound(Copied):
    """A proxy that stands for nothing at the moment (werkzeug's): it has neither class nor attributes, nor is it true, equal ..."""

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("outside of a context")

    __class__ = property(_refuse)  # type: ignore[assignment] - what the test is about
    __dict__ = property(_refuse)  # type: ignore[assignment]
    __getattr__ = __eq__ = __hash__ = __bool__ = __len__ = __iter__ = __getitem__ = __contains__ = _refuse  # type: ignore[assignment]


class SaysYes(Copied):
    """Has every attribute that it is asked for, and each is again such an object (a mock)."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__") and name != "__func__":
            raise AttributeError(name)
        return SaysYes()


class HasNoTruth(Copied):
    """Compares element by element, and is neither true nor false (an array)."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        return HasNoTruth()

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


STRANGE: dict[str, Callable[[], Any]] = {
    "a package that is absent": AsksForItsPackage,
    "a proxy of nothing": IsNoneBound,
    "a mock": SaysYes,
    "an array": HasNoTruth,
}
at_the_top: Any = None  # of this module


class Network(nn.Module):
    """Two branches that are added, between convolutions: something for every plan."""

    of_the_class: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
        self.right = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 8, 3, padding=1))
        self.last = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        result: Tensor = self.last(self.left(x) + self.right(x))
        return result


def attribute(strange: Any) -> Network:
    network = Network()
    vars(network)["held"] = strange  # PyTorch asks what is assigned
    return network


def attribute_of_a_layer(strange: Any) -> Network:
    network = Network()
    vars(network.left[0])["held"] = strange
    return network


def in_containers(strange: Any) -> Network:
    network = Network()
    network.held = [strange, {"key": strange, "pair": (strange, {"inner": [strange]})}]  # type: ignore[assignment] - any
    return network


def of_the_class(strange: Any) -> Network:
    Network.of_the_class = strange
    return Network()


def of_the_module(strange: Any) -> Network:
    global at_the_top
    at_the_top = strange
    return Network()


def closed_over(strange: Any) -> Network:
    class Closed(Network):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if strange is not None else x

    return Closed()


def a_default(strange: Any) -> Network:
    class WithMore(Network):
        def forward(self, x: Tensor, more: Any = strange) -> Tensor:
            return super().forward(x) if more is not None else x

    return WithMore()


def bound(strange: Any) -> Network:
    network = Network()
    network.held = functools.partial(print, strange, more=strange)  # type: ignore[assignment] - any
    return network


class Told(nn.Module):
    """A layer that takes something besides."""

    def forward(self, x: Tensor, more: Any) -> Tensor:
        return x.relu() if more is not None else x


def argument_of_a_layer(strange: Any) -> Network:
    class Telling(Network):
        def __init__(self) -> None:
            super().__init__()
            self.told = Told()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.told(x, strange))

    return Telling()


PLACES = (
    attribute,
    attribute_of_a_layer,
    in_containers,
    of_the_class,
    of_the_module,
    closed_over,
    a_default,
    bound,
    argument_of_a_layer,
)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    of_the_class(None)
    of_the_module(None)


class Counting(Sequence[int]):
    """A sequence that cannot be gone through, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __len__(self) -> int:
        raise RuntimeError("not now")

    def __getitem__(self, place: Any) -> Any:
        raise RuntimeError("not now")


class UsesIt(Network):
    """Multiplies by how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.counting = Counting()

    def forward(self, x: Tensor) -> Tensor:
        self.counting.count += 1
        return super().forward(x * self.counting.count)


def test_what_they_hold_is_compared_all_the_same() -> None:
    verdict = verdict_of(UsesIt().double(), "pp=2", make_trial())
    assert verdict.word == "refused", verdict


def test_an_object_that_cannot_be_gone_through_is_compared_by_its_attributes() -> None:
    network = UsesIt()
    before = kept_by(network)
    network.counting.count += 1
    assert kept_by(network) != before


@pytest.mark.sampled(10)
@pytest.mark.parametrize("plan", ["dp=2", "sp=2", "pp=2", "lp=2", "tp=2", "fsdp=2"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("strange", STRANGE)
def test_they_are_not_asked(strange: str, place: Callable[[Any], Network], plan: str) -> None:
    torch.manual_seed(0)
    verdict = verdict_of(place(STRANGE[strange]()).double(), plan, make_trial())
    if strange == "a proxy of nothing" and place is argument_of_a_layer and plan in ("pp=2", "lp=2", "tp=2"):
        assert verdict.word == "refused"  # PyTorch asks what a layer is given for its class
    else:
        assert verdict.word == "exact", verdict

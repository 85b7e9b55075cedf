"""What a metric is: it takes predictions one by one, on every worker, and becomes one number for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from ziggurat.metrics.findings import Findings

Prediction = TypeVar("Prediction")


class Metric(ABC, Generic[Prediction]):
    """Measures predictions for the images of a data set.

    On each worker, in this order::

        update, update, ...  -->  state  ==gather==>  merge  -->  compute  -->  findings

    Attributes:
        by_class: From the name of a metric to that of its dictionary of single classes, where there is one: it is told by how
            frequent classes are, too.
    """

    by_class: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def update(self, index: int, prediction: Prediction) -> None:
        """Take the prediction for an image, once for each image of the data set over all workers.

        Raises:
            UserError: If the image's annotation cannot be read.
        """

    @abstractmethod
    def state(self) -> Any:
        """Return what this worker has taken, in a form that travels fast."""

    @abstractmethod
    def merge(self, states: Sequence[Any]) -> None:
        """Replace what this worker has taken by what all have; the result does not depend on how many there are."""

    @abstractmethod
    def compute(self) -> dict[str, Any]:
        """Return the metrics by name: numbers or None, and dictionaries of such for single classes."""

    def findings(self, metrics: dict[str, Any]) -> Findings | None:
        """Return what a report shows; None for nothing but the loss.

        Args:
            metrics: As `compute` has returned them.
        """
        return None


def overall(metrics: dict[str, Any]) -> dict[str, float | None]:
    """Return the metrics of all classes together."""
    return {name: value for name, value in metrics.items() if not isinstance(value, dict)}

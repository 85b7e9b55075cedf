"""What the training loop asks of a task."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ziggurat.data.batch import Microbatch


class Task(Protocol):
    """From a model's outputs to the loss's shares.

    Attributes:
        normalizer_names: What the loss is divided by, as far as it is known before anything is computed.
        normalizers_are_parts: Whether the workers that share an image each know a part of its normalizers (those of
            the pixels that they have), or each know them whole.
        output_sum_names: Sums over the outputs of the global batch that the loss depends on (a Dice of the whole
            batch is no sum of Dices); empty for most losses. They cost a forward pass of their own.
        term_names: The terms of the loss.
    """

    normalizer_names: tuple[str, ...]
    normalizers_are_parts: bool
    output_sum_names: tuple[str, ...]
    term_names: tuple[str, ...]

    def assign(self, batch: Microbatch) -> Any:
        """Return what the outputs of a microbatch have to predict; needs no outputs."""
        ...

    def normalizers(self, assignment: Any) -> Tensor:
        """Return a microbatch's summands of the normalizers, float64, shape ``(K,)``."""
        ...

    def output_sums(self, outputs: Any, assignment: Any) -> Tensor:
        """Return a microbatch's summands of the sums over outputs, float64, shape ``(S,)``."""
        ...

    def loss_shares(self, outputs: Any, assignment: Any, totals: Tensor) -> dict[str, Tensor]:
        """Return a microbatch's share of each term; summed over all microbatches they are the loss.

        Where several workers share an image, each returns a part of the share, and their parts add up to it.

        Args:
            outputs: The model's.
            assignment: Of the same microbatch.
            totals: Global sums over all microbatches, of `normalizers` and then of `output_sums`, float64, shape
                ``(K + S,)``.
        """
        ...

"""A model's mode, training or evaluation, where several threads run it."""

from __future__ import annotations

from threading import Lock
from types import TracebackType

from torch import nn


class EvaluationMode:
    """Puts a model into evaluation mode while a block runs; the last of several threads restores the mode of each layer.

    Args:
        model: Threads that run it share this object.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with EvaluationMode(model):
        ...     print([layer.training for layer in model])
        [False, False]
        >>> [layer.training for layer in model]
        [True, False]
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._lock = model, Lock()
        self._num_blocks = 0
        self._before: list[tuple[nn.Module, bool]] = []

    def __enter__(self) -> None:
        with self._lock:
            if self._num_blocks == 0:
                self._before = [(module, module.training) for module in self._model.modules()]
                self._model.eval()
            self._num_blocks += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._num_blocks -= 1
            if self._num_blocks == 0:
                self._model.train(self._before[0][1])  # a model may do more than set flags
                for module, was_training in self._before:
                    module.training = was_training
                self._before = []

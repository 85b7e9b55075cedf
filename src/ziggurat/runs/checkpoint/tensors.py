"""Named tensors as files: the safetensors form of `torch.distributed.checkpoint` (DCP).

DCP's usual form keeps a pickle (``.metadata``) beside the data, and reading a pickle runs whatever is in it. Its
safetensors form needs none: names, shapes and offsets stand in each file as JSON. Each worker writes the tensors that
it is given as files of its own, ``shard-WORKER-model-PART-of-PARTS.safetensors``; a reader finds each tensor
wherever it is, so the workers that read need not be as many.

The form is DCP's, and not its code (`torch_internals.storage` says why); which worker writes what is known before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ziggurat.strategies.layout import Chunk
from ziggurat.torch_internals.storage import read_heads, read_safetensors, write_safetensors

SUFFIX = ".safetensors"


class TensorFacts(NamedTuple):
    """What is known of a stored tensor.

    Attributes:
        shape: Its extents.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} {list(self.shape)}"


def write_tensors(folder: Path, tensors: Mapping[str, Chunk], rank: int) -> list[Path]:
    """Write a worker's tensors.

    Tensors whose names share their first word go to one file.

    Args:
        folder: Exists.
        tensors: On the CPU, with any strides; none is fine. All workers together give every element of a tensor once.
        rank: This worker's number.

    Returns:
        The files, which are on the disk.

    Raises:
        OSError: If they cannot be written.
    """
    if not tensors:
        return []
    state = {name: chunk.tensor for name, chunk in tensors.items()}
    words = list(dict.fromkeys(_first_word(name) for name in state))
    parts = {name: 1 + words.index(_first_word(name)) for name in state}
    offsets = {name: chunk.offsets for name, chunk in tensors.items()}
    return sorted(write_safetensors(folder, state, parts, offsets, 1 + rank))


def _first_word(name: str) -> str:
    return name.partition(".")[0]


def stored_tensors(folder: Path) -> dict[str, TensorFacts]:
    """Return what is stored, by name, from the heads of the files."""
    return {name: TensorFacts(*facts) for name, facts in read_heads(folder).items()}


def read_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Read stored tensors into `tensors`, which keep their strides and devices.

    Args:
        folder: What `write_tensors` has written, by any number of workers.
        tensors: By name; each of the stored shape. Others that are stored are left alone.
    """
    read_safetensors(folder, tensors)

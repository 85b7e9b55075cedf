"""Values with tensors travel through files without a name."""

from __future__ import annotations

import gc
import os
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ziggurat.data.loading.passing import NoRoom, pass_on, take


@dataclass(frozen=True)
class Record:
    name: str
    tensors: tuple[Tensor, ...]


KINDS = [
    torch.uint8, torch.bool, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_and_shape_arrives(kind: torch.dtype) -> None:
    tensors = tuple(
        torch.arange(24).reshape(2, 3, 4).to(kind)[chosen]
        for chosen in [np.s_[:], np.s_[0, 0, 0], np.s_[:0], np.s_[:, ::2], np.s_[1:]]
    )
    record = Record("größer", tensors)
    arrived = take(pass_on(record))
    assert arrived.name == record.name
    for sent, got in zip(tensors, arrived.tensors, strict=True):
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        assert torch.equal(got, sent)


def test_values_without_tensors_arrive() -> None:
    assert take(pass_on({"a": [1, None]})) == {"a": [1, None]}


def test_nothing_is_left_behind() -> None:
    files, before = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    maps = Path("/proc/self/maps").read_text().count("/dev/shm")
    arrived = take(pass_on(Record("a", (torch.ones(1000),))))
    tensor = arrived.tensors[0][3:]
    assert set(os.listdir("/dev/shm")) <= before
    del arrived
    gc.collect()
    assert tensor.sum() == 997
    del tensor
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == files
    assert Path("/proc/self/maps").read_text().count("/dev/shm") == maps


def test_without_a_folder_of_shared_memory_it_has_none_to_be_in(tmp_path: Path) -> None:
    """As where /dev/shm is read-only, or not there."""
    passed = pass_on(torch.arange(10**6), tmp_path / "nowhere")
    assert os.readlink(f"/proc/self/fd/{passed.file}").startswith("/memfd:ziggurat")
    assert take(passed).sum() == (10**6 - 1) * 10**6 // 2


def test_too_little_room_is_told_by_its_size() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(NoRoom, match=r"4\.0 MB: of the .* MB of shared memory"):
            pass_on(torch.zeros(10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

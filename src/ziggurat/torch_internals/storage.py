"""The safetensors form of `torch.distributed.checkpoint` (DCP), by its planners and storage alone.

Why: DCP's ``save`` and ``load`` talk to the other workers by themselves, and write a pickle beside the data. Its planners and
its Hugging Face storage do neither, but what a plan's ``storage_data`` must hold is nowhere promised.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import WriteItem


def write_safetensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    parts: Mapping[str, int],
    offsets: Mapping[str, tuple[int, ...]],
    shard: int,
) -> set[Path]:
    """Write tensors of one worker, and return the files.

    Args:
        folder: Exists.
        tensors: On the CPU, contiguous.
        parts: Number of the file that each goes to, from 1.
        offsets: Where each tensor begins in the whole one, along each dim, of which it may be a box.
        shard: Number of this worker's files, from 1.

    Raises:
        OSError: If they cannot be written.
    """
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=dict(parts), save_distributed=True)
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(tensors), is_coordinator=True)
    writer.set_up_storage_writer(True)
    plan = writer.prepare_local_plan(planner.create_local_plan())
    mine = {"fqn_to_index_mapping": dict(parts), "shard_index": shard}
    items = [_placed(item, offsets[item.index.fqn]) for item in plan.items]
    plan = planner.finish_plan(dataclasses.replace(plan, items=items, storage_data=mine))
    written = writer.write_data(plan, planner).wait()
    return {folder / result.storage_data.relative_path for result in written}


def _placed(item: WriteItem, offsets: tuple[int, ...]) -> WriteItem:
    """Return what is to be written of a tensor with its place in the whole: a reader puts the parts together by it."""
    assert item.tensor_data is not None
    if not any(offsets):
        return item
    chunk = ChunkStorageMetadata(torch.Size(offsets), item.tensor_data.chunk.sizes)
    return dataclasses.replace(item, tensor_data=dataclasses.replace(item.tensor_data, chunk=chunk))


def read_heads(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of each stored tensor, by name, from the heads of the files."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (tuple(facts.size), facts.properties.dtype)
        for name, facts in found.items()
        if isinstance(facts, TensorStorageMetadata)
    }


def read_safetensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read stored tensors into tensors of their names and shapes, which keep their strides and devices."""
    reader = HuggingFaceStorageReader(str(folder))
    metadata = reader.read_metadata()
    planner = DefaultLoadPlanner()
    planner.set_up_planner(dict(tensors), metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    plan = planner.finish_plan(reader.prepare_local_plan(planner.create_local_plan()))
    with torch.no_grad():
        reader.read_data(plan, planner).wait()

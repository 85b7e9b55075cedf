"""The safetensors form of `torch.distributed.checkpoint` (DCP), written and read without its planners.

Why: DCP's ``save`` and ``load`` talk to the other workers by themselves, and write a pickle beside the data. Its planners and its
Hugging Face storage do neither, but put the bytes of a file together in memory before they write them, copy what they read, and take
a millisecond for every three tensors: of a change of plan that was most of the pause. The form is safetensors' own, which is public;
that a box of a tensor has its offsets in the metadata, under these names, is DCP's, and promised nowhere: a test reads with DCP what is
written here, and the other way round.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

SUFFIX = ".safetensors"
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.complex64: "C64",
}  # fmt: skip
ALIGNMENT = 8  # bytes at which the data of a file begin


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
        tensors: On the CPU, with any strides.
        parts: Number of the file that each goes to, from 1.
        offsets: Where each tensor begins in the whole one, along each dim, of which it may be a box.
        shard: Number of this worker's files, from 1.

    Raises:
        OSError: If they cannot be written.
        TypeError: If a tensor is of a type that the form does not know.
    """
    last, files = max(parts.values()), set()
    for part in sorted(set(parts.values())):
        path = folder / f"shard-{shard:05d}-model-{part:05d}-of-{last:05d}{SUFFIX}"
        mine = {name: tensor for name, tensor in tensors.items() if parts[name] == part}
        _write(path, mine, {name: offsets[name] for name in mine})
        files.add(path)
    return files


def _write(path: Path, tensors: Mapping[str, Tensor], offsets: Mapping[str, tuple[int, ...]]) -> None:
    """Write one file: the length of the head, the head, and the tensors' bytes from where they are."""
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that each is aligned
    boxes = {name: {"saved_offsets": list(offsets[name])} for name in tensors}
    notes = {"format": "pt", "DCP_VERSION": "1.0", "DCP_SHARDING_INFO": json.dumps(boxes)}
    head: dict[str, Any] = {"__metadata__": notes}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} is of {tensor.dtype}, which cannot be stored")
        begin, end = end, end + tensor.nbytes
        facts = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        head[name] = facts
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with path.open("wb", buffering=0) as file:
        _write_all(file, len(text).to_bytes(8, "little") + text)
        for name in order:
            if tensors[name].numel():
                flat = tensors[name].detach().contiguous().view(-1)
                _write_all(file, flat.view(torch.uint8).numpy())


def _write_all(file: Any, data: Any) -> None:
    view = memoryview(data)
    while len(view):  # the kernel takes two gigabytes at most
        view = view[file.write(view) :]


def read_heads(folder: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of each stored tensor, by name and in their order, from the heads of the files."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for name, start, tensor in _stored(folder):
        shape = tuple(first + extent for first, extent in zip(start, tensor.shape, strict=True))
        before = found[name][0] if name in found else shape
        found[name] = tuple(map(max, shape, before)), tensor.dtype
    return dict(sorted(found.items()))


def read_safetensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read stored tensors into tensors of their names and shapes, which keep their strides and devices.

    Raises:
        ValueError: If an element of them is stored nowhere, or what is stored has another shape.
    """
    missing = {name: tensor.numel() for name, tensor in tensors.items()}
    with torch.no_grad():
        for name, start, stored in _stored(folder):
            if name not in tensors:
                continue
            place = tensors[name].detach()
            if place.dim() != stored.dim():
                raise ValueError(f"{name} has {stored.dim()} dims in {folder}, and {place.dim()} here")
            for dim, (first, extent) in enumerate(zip(start, stored.shape, strict=True)):
                if first + extent > place.shape[dim]:
                    raise ValueError(
                        f"{name} is larger in {folder} than here, where it is {tuple(place.shape)}"
                    )
                place = place.narrow(dim, first, extent)
            place.copy_(stored)
            missing[name] -= stored.numel()
    if left := sorted(name for name, number in missing.items() if number > 0):
        raise ValueError(f"{folder} does not hold all of {', '.join(left[:3])}")


def _stored(folder: Path) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    """Yield what the files of a folder hold: names, where each box begins in its tensor, and the box, mapped from the disk."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with safe_open(path, framework="pt") as file:
            boxes = json.loads((file.metadata() or {}).get("DCP_SHARDING_INFO", "{}"))
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                tensor = file.get_tensor(name)
                start = boxes.get(name, {}).get("saved_offsets", [0] * tensor.dim())
                yield name, tuple(start), tensor

"""The Open Inference Protocol, version 2, over HTTP, with the extension of binary tensors.

A request is a JSON object; with the extension the bytes of tensors follow it, in the order of its inputs, and the header
``Inference-Header-Content-Length`` says where it ends. Answers are built the same way.

A model takes one input: ``image``, files of images as BYTES of shape ``[B]``, or ``pixels``, UINT8 of shape ``[B, H, W, bands]``. It gives
``predictions``, BYTES of shape ``[B]`` (of each image the list of ``predictions.json``), and what arrays its task has; of images
with results of several shapes the smaller ones are padded with zeros.

References:
    Open Inference Protocol, https://github.com/kserve/open-inference-protocol; binary tensor data extension,
    https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ziggurat.serving.exchange import ARRAYS, ROWS, Answer, Card, Refused

HEADER_LENGTH = "inference-header-content-length"
JSON_BYTES = 4 << 20  # pixels and files of this size come as binary tensors
MOST_IMAGES = 64  # of one request
IMAGE, PIXELS, PREDICTIONS = "image", "pixels", "predictions"
TYPES = {
    "uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float32": "FP32", "float64": "FP64", "bool": "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class Inference:
    """A request, read.

    Attributes:
        request: Its id; empty if it has none.
        images: Files, or pixels, of each image.
        outputs: Name of each output that is asked for, and whether it goes as bytes.
    """

    request: str
    images: Sequence[bytes | np.ndarray[Any, Any]]
    outputs: Sequence[tuple[str, bool]]

    @property
    def wants(self) -> frozenset[str]:
        """What is asked of the images."""
        return frozenset(
            {ROWS} | ({ARRAYS} if any(name != PREDICTIONS for name, _ in self.outputs) else set())
        )


def metadata(card: Card) -> dict[str, Any]:
    """Return what the protocol says of a model."""
    outputs = [
        {"name": name, "datatype": TYPES[kind], "shape": [-1, *shape]} for name, kind, shape in card.arrays
    ]
    return {
        "name": card.name,
        "versions": ["1"],
        "platform": "ziggurat",
        "inputs": [
            {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, -1, -1, card.bands]},
        ],
        "outputs": [{"name": PREDICTIONS, "datatype": "BYTES", "shape": [-1]}, *outputs],
        "parameters": {
            "task": card.task, "model": card.model, "classes": list(card.classes), "weights_sha256": card.weights_sha256,
            "plan": card.plan,
        },
    }  # fmt: skip


def read_inference(body: bytes, header_length: str | None, card: Card) -> Inference:
    """Read a request.

    Args:
        body: Of the request.
        header_length: The header `HEADER_LENGTH`; None where it has none.
        card: Of the model.

    Raises:
        Refused: If it is not as the protocol has it.
    """
    tree, rest = _split(body, header_length)
    inputs = tree.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong(f"inputs must be a list of one input, {IMAGE} or {PIXELS}")
    given = inputs[0]
    parameters = _record(given, "parameters")
    size = parameters.get("binary_data_size")
    if size is None and rest:
        raise _wrong(f"{len(rest)} bytes follow the JSON object, and no input has binary_data_size")
    if size is not None and (type(size) is not int or size != len(rest)):
        raise _wrong(
            f"binary_data_size must be the number of bytes that follow, {len(rest)}: got {_shown(size)}"
        )
    name, kind, shape = given.get("name"), given.get("datatype"), _shape(given.get("shape"))
    raw = None if size is None else rest
    if (name, kind) == (IMAGE, "BYTES"):
        images: Sequence[bytes | np.ndarray[Any, Any]] = _files(shape, raw, given.get("data"))
    elif (name, kind) == (PIXELS, "UINT8"):
        images = _pixels(shape, raw, given.get("data"), card.bands)
    else:
        raise _wrong(
            f"the input must be {IMAGE} of BYTES or {PIXELS} of UINT8: got {_shown(name)} of {_shown(kind)}"
        )
    return Inference(_id(tree), images, _outputs(tree, card))


def write_inference(card: Card, inference: Inference, answers: Sequence[Answer]) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON object where bytes follow it."""
    outputs, tail = [], []
    for name, is_binary in inference.outputs:
        if name == PREDICTIONS:
            texts = [json.dumps(one.rows) for one in answers]
            kind, shape, data = "BYTES", [len(texts)], [text.encode() for text in texts]
            raw = b"".join(struct.pack("<I", len(one)) + one for one in data)
            plain: Any = texts
        else:
            array = _stacked([one.arrays[name] for one in answers])
            kind, shape, raw = TYPES[str(array.dtype)], list(array.shape), array.tobytes()
            plain = None if is_binary else array.ravel().tolist()
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if is_binary:
            output["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            output["data"] = plain
        outputs.append(output)
    tree: dict[str, Any] = {"model_name": card.name, "model_version": "1", "outputs": outputs}
    if inference.request:
        tree["id"] = inference.request
    head = json.dumps(tree).encode()
    return head + b"".join(tail), (len(head) if tail else None)


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal()) or int(header_length[:20]) > len(body):
            raise _wrong(f"{HEADER_LENGTH} must be a number up to that of the body's bytes, {len(body)}")
        length = int(header_length)
    if length > JSON_BYTES:
        raise Refused(
            413,
            f"the JSON object of a request may have {JSON_BYTES} bytes: it has {length}; send tensors as binary data",
        )
    try:
        tree = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise _wrong(f"the body must be a JSON object: {_shown(type(error).__name__)}") from None
    if not isinstance(tree, dict):
        raise _wrong("the body must be a JSON object")
    return tree, body[length:]


def _record(tree: dict[str, Any], name: str) -> dict[str, Any]:
    value = tree.get(name, {})
    if not isinstance(value, dict):
        raise _wrong(f"{name} must be an object")
    return value


def _id(tree: dict[str, Any]) -> str:
    value = tree.get("id", "")
    if not isinstance(value, str):
        raise _wrong("id must be text")
    return value[:200]


def _shape(value: Any) -> list[int]:
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= 4
        or not all(type(one) is int and one > 0 for one in value)
    ):
        raise _wrong("the shape of an input must be a list of one to four positive numbers")
    if value[0] > MOST_IMAGES:
        raise Refused(
            413, f"a request may have {MOST_IMAGES} images: got {_shown(value[0])}; send several requests"
        )
    return value


def _files(shape: list[int], raw: bytes | None, data: Any) -> list[bytes]:
    if len(shape) != 1:
        raise _wrong(f"{IMAGE} must have the shape [B]: got {len(shape)} dims")
    if raw is None:
        raise _wrong(f"{IMAGE} holds the bytes of files, which JSON cannot: send it as binary data")
    files, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw, place) if len(raw) - place >= 4 else (len(raw),)
        if place + 4 + length > len(raw):
            raise _wrong(
                f"{IMAGE} must hold, for each file, its length as four bytes and then its bytes: they end too soon"
            )
        files.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
        if len(files) > shape[0]:
            break
    if len(files) != shape[0]:
        raise _wrong(f"{IMAGE} must hold as many files as its shape says, {shape[0]}")
    return files


def _pixels(shape: list[int], raw: bytes | None, data: Any, bands: int) -> list[np.ndarray[Any, Any]]:
    if len(shape) != 4 or shape[3] != bands:
        raise _wrong(f"{PIXELS} must have the shape [B, H, W, {bands}]: got {_shown(shape)}")
    count = math.prod(shape)
    if raw is None:
        if (
            not isinstance(data, list)
            or len(data) != count
            or not all(type(one) is int and 0 <= one <= 255 for one in data)
        ):
            raise _wrong(f"the data of {PIXELS} must be a flat list of {_shown(count)} numbers from 0 to 255")
        raw = bytes(data)
    if len(raw) != count:
        raise _wrong(f"{PIXELS} of this shape has {_shown(count)} bytes: got {len(raw)}")
    return list(np.frombuffer(raw, np.uint8).reshape(shape))


def _outputs(tree: dict[str, Any], card: Card) -> list[tuple[str, bool]]:
    every = [PREDICTIONS, *(name for name, _, _ in card.arrays)]
    usual = bool(_record(tree, "parameters").get("binary_data_output", False))
    asked = tree.get("outputs") or [{"name": name} for name in every]
    if (
        not isinstance(asked, list)
        or not all(isinstance(one, dict) for one in asked)
        or len(asked) > len(every)
    ):
        raise _wrong(f"outputs must be a list of some of {', '.join(every)}")
    found = []
    for one in asked:
        if one.get("name") not in every:
            raise _wrong(f"the model has the outputs {', '.join(every)}: {_shown(one.get('name'))} is none")
        found.append((one["name"], bool(_record(one, "parameters").get("binary_data", usual))))
    return found


def _stacked(arrays: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """Stack arrays, the smaller ones padded with zeros at their ends."""
    extent = tuple(max(sizes) for sizes in zip(*(one.shape for one in arrays), strict=True))
    stacked = np.zeros((len(arrays), *extent), arrays[0].dtype)
    for place, one in enumerate(arrays):
        stacked[place, ...][tuple(slice(size) for size in one.shape)] = one
    return stacked


def _wrong(fault: str) -> Refused:
    return Refused(400, f"the request is not of the Open Inference Protocol: {fault}")


def _shown(value: Any) -> str:
    text = str(value)[:60] if not isinstance(value, int) or abs(value) < 1 << 128 else "a very large number"
    return "".join(letter if letter.isprintable() else "?" for letter in text)

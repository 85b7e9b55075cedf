"""What the user of `ziggurat verify` asks for: read and checked completely before any process starts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch

from ziggurat.config import ModelConfig, RunConfig, override
from ziggurat.errors import UserError
from ziggurat.verify.networks import check_name

T = TypeVar("T")

DTYPES = {"fp64": torch.float64, "fp32": torch.float32}
DEFAULT_INPUT = "2x3x256x256"
EFFECTIVE = ("seed", "threads", "model.")  # settings that change what is verified


@dataclass(frozen=True)
class Request:
    """One verification.

    Attributes:
        name: The network's.
        shape: The input's, ``(B, C, *spatial)``.
        plan: As the user wrote it.
        degrees: Workers along each spatial dim.
        dtype: ``fp64`` or ``fp32``.
        config: Settings of a network of ours.
        seed: Of weights, input, weights of the loss, dropout.
        threads: Of every worker, and of the one that takes the reference.
    """

    name: str
    shape: tuple[int, ...]
    plan: str
    degrees: tuple[int, ...]
    dtype: Literal["fp64", "fp32"] = "fp64"
    config: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0
    threads: int = 1

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of weights and input."""
        return DTYPES[self.dtype]


def read_request(name: str, shape: str, plan: str, dtype: str, settings: Mapping[str, Any]) -> Request:
    """Check everything that the user gave.

    Raises:
        UserError: Listing every fault.
    """
    faults: list[str] = []

    def check(part: Callable[..., T], *args: Any) -> T | None:
        try:
            return part(*args)
        except UserError as error:
            faults.extend(error.faults)
            return None

    check(check_name, name)
    sizes = check(read_shape, shape)
    degrees = check(read_spatial_plan, plan)
    config = check(override, RunConfig(), settings)
    if dtype not in DTYPES:
        faults.append(f"--dtype must be one of {', '.join(DTYPES)}: got '{dtype}'")
    if sizes and degrees and len(degrees) > len(sizes) - 2:
        faults.append(
            f"the plan '{plan}' cuts {len(degrees)} spatial dims: the input {shape} has {len(sizes) - 2}; give a "
            "larger --input or fewer factors"
        )
    if faults or sizes is None or degrees is None or config is None:
        raise UserError(faults)
    without_effect = [key for key in settings if not key.startswith(EFFECTIVE)]
    if without_effect:
        warnings.warn(f"verify has no use for the settings {', '.join(without_effect)}", stacklevel=2)
    kind: Literal["fp64", "fp32"] = "fp64" if dtype == "fp64" else "fp32"
    return Request(name, sizes, plan, degrees, kind, config.model, config.seed, max(1, config.threads))


def read_shape(text: str) -> tuple[int, ...]:
    """Return the shape of an input: images, batch, and one to three spatial dims.

    Raises:
        UserError: If it is not three to five positive numbers with ``x`` between.

    Example:
        >>> read_shape("2x3x256x320")
        (2, 3, 256, 320)
    """
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*){2,4}", text):
        raise UserError(
            f"--input must be BxCxHxW (or BxCxL, BxCxDxHxW) in positive whole numbers, such as {DEFAULT_INPUT}: got '{text}'"
        )
    return tuple(int(size) for size in text.split("x"))


def read_spatial_plan(text: str) -> tuple[int, ...]:
    """Return the workers along each spatial dim of a plan.

    Raises:
        UserError: If it is not ``sp`` alone, with two workers at least.

    Example:
        >>> read_spatial_plan("sp=3"), read_spatial_plan("sp=2x2")
        ((3,), (2, 2))
    """
    found = re.fullmatch(r"\s*sp\s*=\s*([1-9][0-9]*(?:x[1-9][0-9]*){0,2})\s*", text)
    degrees = tuple(int(degree) for degree in found[1].split("x")) if found else ()
    if not degrees or max(degrees) == 1:
        raise UserError(
            f"verify takes a spatial plan of two workers at least, such as sp=2 (bands) or sp=2x2 (tiles): got '{text}'"
        )
    return degrees

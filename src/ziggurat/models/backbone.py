"""Any timm network as the feature extractor of a pyramid."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from ziggurat.errors import UserError, nearest
from ziggurat.models.images import IMAGENET
from ziggurat.models.levels import Level, stride_of
from ziggurat.models.norm import replace_norms
from ziggurat.torch_internals.hollow_results import HollowResults

# what timm's networks raise where they cannot be built or run as asked
TIMM_ERRORS = (
    RuntimeError, TypeError, ValueError, AssertionError, AttributeError, LookupError, NotImplementedError
)  # fmt: skip
_KEPT = ("out_indices", "in_chans")  # arguments without which a network is another
PROBE_ROWS, PROBE_COLUMNS = 256, 320  # multiples of 64, neither of them a network's own input size
ODD_ROWS, ODD_COLUMNS = 96, 160  # odd multiples of 32: a few networks resize maps of an odd number of rows


@dataclass(frozen=True)
class _Feature:
    """One output of a timm network: its index, its level and where its channels stand."""

    index: int
    level: Level
    layout: Literal["BCHW", "BHWC"]


class Backbone(nn.Module):
    """A timm network that returns its maps by level.

    Attributes:
        body: The timm network, with timm's own names.
        levels: The levels that it returns, from the finest to the coarsest.
        size_multiple: Its maps have the sizes of their levels for images whose sides are multiples of this number.
    """

    def __init__(self, body: nn.Module, features: dict[str, _Feature], size_multiple: int) -> None:
        super().__init__()
        self.body = body
        self.levels = {name: feature.level for name, feature in features.items()}
        self.size_multiple = size_multiple
        self._layouts = {name: feature.layout for name, feature in features.items()}

    def forward(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Return the map of each level, shape ``(B, C, H / stride, W / stride)``."""
        maps = dict(zip(self.levels, self.body(images_BCHW), strict=True))
        # a view: channels that stand last in memory are PyTorch's channels-last format
        return {
            name: m.permute(0, 3, 1, 2) if self._layouts[name] == "BHWC" else m for name, m in maps.items()
        }


def create_backbone(
    name: str, levels: list[str], norm: Literal["batch", "frozen", "group"], drop_path: float, bands: int = 3
) -> Backbone:
    """Build a timm network, with random weights, that returns those of the wanted levels that it has.

    Args:
        name: Name of any timm network.
        levels: Names of the pyramid's levels, from the finest to the coarsest; those that are coarser than the
            network's coarsest are left to the pyramid.
        norm: What becomes of its batch norms, see `ModelConfig.norm`.
        drop_path: Rate of stochastic depth; warns where the network has none.
        bands: Of the images.

    Raises:
        UserError: If timm does not know the name, or the network cannot return maps of those levels for images
            of any size.
    """
    if not timm.is_model(name):
        raise UserError(f"unknown backbone '{name}': {nearest(name, timm.list_models())}")
    strides = frozenset(stride_of(level) for level in levels)
    found, unused, size_multiple = _probe(name, strides, timm.model_entrypoint(name))
    features = {level: found[stride_of(level)] for level in levels if stride_of(level) in found}
    missing = [level for level in levels if level not in features and stride_of(level) < max(found)]
    if missing or not features:
        has = ", ".join(f"p{stride.bit_length() - 1}" for stride in sorted(found))
        raise UserError(
            f"backbone '{name}' does not have the levels {', '.join(missing or levels)}: it has {has}; "
            "change model.levels or choose another backbone"
        )
    indices = tuple(feature.index for feature in features.values())
    body = replace_norms(_create(name, drop_path, out_indices=indices, **in_bands(name, bands)), norm)
    for key, parameter in body.named_parameters():
        if key in unused:  # it stays, for timm's names, but no optimizer shall decay what has no gradient
            parameter.requires_grad_(False)
    return Backbone(body, features, size_multiple)


def image_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the deviation of each channel, in [0, 1], that the network's published weights expect."""
    published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if published is None:
        return IMAGENET
    return tuple(published.mean), tuple(published.std)


def in_bands(name: str, bands: int) -> dict[str, int]:
    """Return the argument by which a timm network takes images of a number of bands; none for three.

    Raises:
        UserError: If the network takes three only.
    """
    if bands == 3:
        return {}
    try:
        with torch.device("meta"):
            timm.create_model(name, pretrained=False, in_chans=bands)
    except TIMM_ERRORS as error:
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"'{name}' cannot be built for images of {bands} bands (timm: {message}): choose another network, such as resnet50, or "
            "three bands: data.bands=rgb"
        ) from None
    return {"in_chans": bands}


def _create(name: str, drop_path: float, **named: Any) -> nn.Module:
    """Create the network; what not every network takes is left out for those that do not take it."""
    named |= {"dynamic_img_size": True}  # transformers: images of any size
    if drop_path > 0:
        named |= {"drop_path_rate": drop_path}
    for _ in range(3):
        try:
            body: nn.Module = timm.create_model(name, pretrained=False, features_only=True, **named)
            return body
        except TypeError as error:
            refused = next((key for key in named if f"'{key}'" in str(error) and key not in _KEPT), None)
            if refused is None:
                raise
            del named[refused]
            if refused == "drop_path_rate":
                warnings.warn(
                    f"model.drop_path has no effect: '{name}' has no stochastic depth", stacklevel=4
                )
    raise AssertionError("unreachable: each round leaves one of two arguments out")


@functools.lru_cache(maxsize=64)
def _probe(
    name: str, strides: frozenset[int], entry: Callable[..., nn.Module]
) -> tuple[Mapping[int, _Feature], Set[str], int]:
    """Run the network on a shape that is not its own; once in a process, and not again in those that it forks.

    Args:
        name: Of the network.
        strides: Of the wanted levels.
        entry: What timm makes it by: another one may be registered under its name.

    Returns:
        The network's outputs by stride; the names of the parameters that the outputs of the wanted strides do not
        depend on; and what the sides of images must be multiples of.

    Raises:
        UserError: If the network has no outputs of several scales or takes images of one size only.
    """
    faults = []
    for device in ("meta", "cpu"):  # shapes alone cost nothing; a few networks cannot run without values
        try:
            # with values it draws numbers, of which the network that is built next must know nothing
            with torch.random.fork_rng([]), torch.device(device), HollowResults():
                body = _create(name, 0.0).eval()
                maps = body(torch.zeros(1, 3, PROBE_ROWS, PROBE_COLUMNS))
            features = _read_features(name, body, maps)
            unused = _unused_parameters(body, maps, [features[s] for s in strides & features.keys()])
            return features, unused, _size_multiple(body, features, device)
        except TIMM_ERRORS as error:
            if isinstance(error, UserError):
                raise
            faults.append(str(error) or type(error).__name__)
    raise UserError(
        f"backbone '{name}' cannot return maps of several scales for images of any size "
        f"(timm: {faults[-1].splitlines()[0]}): choose another, such as resnet50"
    )


def _size_multiple(body: nn.Module, features: dict[int, _Feature], device: str) -> int:
    """Return 32, or 64 where maps have other sizes than their levels for odd multiples of 32."""
    try:
        with torch.no_grad(), HollowResults():
            maps = body(torch.zeros(1, 3, ODD_ROWS, ODD_COLUMNS, device=device))
    except TIMM_ERRORS:
        return 64
    info: Any = body.feature_info
    sizes = {
        stride: maps[info.out_indices.index(f.index)].shape[
            slice(2, 4) if f.layout == "BCHW" else slice(1, 3)
        ]
        for stride, f in features.items()
    }
    whole = all(
        tuple(size) == (-(-ODD_ROWS // s), -(-ODD_COLUMNS // s)) for s, size in sizes.items() if s <= 32
    )
    return 32 if whole else 64


def _unused_parameters(body: nn.Module, maps: list[Tensor], features: list[_Feature]) -> set[str]:
    if not features:
        return set()
    info: Any = body.feature_info
    wanted = {feature.index for feature in features}
    ends = [m.sum() for index, m in zip(info.out_indices, maps, strict=True) if index in wanted]
    names, parameters = zip(*body.named_parameters(), strict=True)
    gradients = torch.autograd.grad(ends, parameters, allow_unused=True)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}


def _read_features(name: str, body: nn.Module, maps: list[Tensor]) -> dict[int, _Feature]:
    info: Any = body.feature_info
    features = {}
    for index, channels, stride, m in zip(
        info.out_indices, info.channels(), info.reduction(), maps, strict=True
    ):
        rows_columns = (PROBE_ROWS // stride, PROBE_COLUMNS // stride)
        layouts: dict[tuple[int, ...], Literal["BCHW", "BHWC"]] = {
            (1, *rows_columns, channels): "BHWC",
            (1, channels, *rows_columns): "BCHW",
        }
        if tuple(m.shape) not in layouts:
            raise UserError(
                f"backbone '{name}' must return maps of {channels} channels and stride {stride}: for an image "
                f"of {PROBE_ROWS} x {PROBE_COLUMNS} it returns {tuple(m.shape)}; choose another"
            )
        # of several maps with one stride the last is the deepest
        features[stride] = _Feature(index, Level(channels, stride), layouts[tuple(m.shape)])
    return features

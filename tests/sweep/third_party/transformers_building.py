"""How transformers' networks are built narrow: https://github.com/huggingface/transformers.

A configuration is made from its class with what is small in every family, as far as the configuration knows the word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from sweep.third_party.entry import Calling, Entry, Package

package = Package("transformers")
SIDE = 64
PLAIN = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": SIDE, "patch_size": 8,
    "pooler_output_size": 32, "encoder_stride": 8, "num_labels": 5,
}  # fmt: skip
"""Of transformers with tokens of one width."""
STAGED = {
    "embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 2, 2, 2],
    "window_size": 2, "image_size": SIDE, "decoder_hidden_size": 16, "num_labels": 5, "num_attention_heads": [1, 2, 2, 2],
}  # fmt: skip
"""Of networks with four stages."""
QUERIES = {
    "d_model": 32, "hidden_size": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 7, "num_labels": 5,
    "num_feature_levels": 3, "two_stage_num_proposals": 7,
}  # fmt: skip
"""Of detectors with queries."""

Call = Callable[[nn.Module, Tensor], Any]


def config(name: str, common: dict[str, Any], **own: Any) -> Any:
    """Make a configuration.

    Args:
        name: Of its class, without ``Config``.
        common: Words that are left out where the class does not know them.
        own: Words that it must know.
    """
    made = getattr(package, f"{name}Config")
    known = {item.name for item in dataclasses.fields(made)} | {"num_labels"}
    return made(**{key: value for key, value in common.items() if key in known and key not in own}, **own)


def build(network: str, name: str, common: dict[str, Any], call: Call | None = None, **own: Any) -> nn.Module:
    """Build a network from a narrow configuration; values of ``own`` that can be called are called first."""
    made = config(name, common, **{key: value() if callable(value) else value for key, value in own.items()})
    model: nn.Module = getattr(package, network)(made)
    return model if call is None else Calling(model, call)


def plain(
    network: str, name: str, shape: tuple[int, ...] = (3, 3, SIDE, SIDE), call: Call | None = None, **own: Any
) -> Entry:
    """Return the entry of a transformer with tokens of one width."""
    return Entry(partial(build, network, name, PLAIN, call, **own), shape)


def staged(
    network: str, name: str, shape: tuple[int, ...] = (3, 3, SIDE, SIDE), call: Call | None = None, **own: Any
) -> Entry:
    """Return the entry of a network with four stages."""
    return Entry(partial(build, network, name, STAGED, call, **own), shape)


def querying(
    network: str, name: str, shape: tuple[int, ...] = (2, 3, SIDE, SIDE), call: Call | None = None, **own: Any
) -> Entry:
    """Return the entry of a detector with queries."""
    return Entry(partial(build, network, name, QUERIES, call, **own), shape)


def narrow_resnet(name: str = "ResNet", features: tuple[str, ...] = ("stage2", "stage3", "stage4")) -> Any:
    """Return the configuration of a ResNet of four stages of two layers each."""
    return config(name, STAGED, layer_type="basic", out_features=list(features))


def narrow_swin(
    name: str = "Swin", features: tuple[str, ...] = ("stage1", "stage2", "stage3", "stage4")
) -> Any:
    """Return the configuration of a Swin Transformer of four stages of one layer each."""
    return config(name, STAGED, out_features=list(features))


def narrow_vit(
    name: str = "Dinov2", features: tuple[str, ...] = ("stage1", "stage2", "stage3", "stage4"), **own: Any
) -> Any:
    """Return the configuration of a plain transformer of four layers."""
    return config(name, PLAIN, num_hidden_layers=4, out_features=list(features), **own)

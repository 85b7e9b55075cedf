"""nnU-Net's networks: https://github.com/MIC-DKFZ/dynamic-network-architectures.

Left out are PrimusV3, which does not run on CPUs in float64 by itself, and the rotary positions of Primus, which fail with timm 1.0.31.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from sweep.third_party.entry import Entry, Package, attributes

unets = Package("dynamic_network_architectures.architectures.unet")
primus_networks = Package("dynamic_network_architectures.architectures.primus")
resnets = Package("dynamic_network_architectures.architectures.resnet")
SHAPES = {2: (3, 1, 64, 64), 3: (2, 1, 32, 32, 32)}
NORMS = {2: (nn.InstanceNorm2d, nn.BatchNorm2d), 3: (nn.InstanceNorm3d, nn.BatchNorm3d)}
BLOCKS = {
    "PlainConvUNet": "n_conv_per_stage",
    "ResidualEncoderUNet": "n_blocks_per_stage",
    "ResidualUNet": "n_blocks_per_stage",
}


def _unet(network: str, dims: int, batch_norm: bool = False, **named: Any) -> nn.Module:
    """Build a U-Net as nnU-Net plans it: stages of 4, 8 and 16 channels."""
    conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
    built: nn.Module = getattr(unets, network)(
        input_channels=1, n_stages=3, features_per_stage=(4, 8, 16), conv_op=conv, kernel_sizes=3, strides=(1, 2, 2),
        num_classes=2, n_conv_per_stage_decoder=1, conv_bias=True, norm_op=NORMS[dims][batch_norm],
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        **{BLOCKS[network]: 1} | named,
    )  # fmt: skip
    return built


def _primus(network: str, **named: Any) -> nn.Module:
    built: nn.Module = getattr(primus_networks, network)(
        input_channels=1, embed_dim=48, patch_embed_size=(8, 8, 8), num_classes=2, eva_depth=2, eva_numheads=2,
        input_shape=(32, 32, 32), use_rot_pos_emb=False, **named,
    )  # fmt: skip
    return built


def _unets(name: str, network: str, **named: Any) -> dict[str, Entry]:
    return {f"{name}_{dims}d": Entry(partial(_unet, network, dims, **named), SHAPES[dims]) for dims in (2, 3)}


NETWORKS = {
    **_unets("plain_unet", "PlainConvUNet"),
    **_unets("plain_unet_deep", "PlainConvUNet", deep_supervision=True, nonlin_first=True),
    **_unets("plain_unet_batch", "PlainConvUNet", batch_norm=True),
    **_unets("residual_encoder_unet", "ResidualEncoderUNet", deep_supervision=True),
    **_unets("residual_unet", "ResidualUNet"),
    "primus": Entry(partial(_primus, "Primus"), SHAPES[3]),
    "primus_registers": Entry(
        partial(
            _primus,
            "Primus",
            num_register_tokens=2,
            drop_path_rate=0.2,
            init_values=0.1,
            scale_attn_inner=True,
        ),
        SHAPES[3],
    ),
    "primus_v2": Entry(partial(_primus, "PrimusV2"), SHAPES[3]),
    "resnet18_cifar": Entry(lambda: resnets.ResNet18_CIFAR(5, 3), (3, 3, 32, 32)),
    "resnet18": Entry(lambda: resnets.ResNet18(5, 3), (3, 3, 64, 64)),
    "resnet18_excitation": Entry(
        lambda: resnets.ResNetD(
            5, 3, "18", final_layer_dropout=0.1, stochastic_depth_p=0.1, squeeze_excitation=True
        ),
        (3, 3, 64, 64),
    ),
}
__getattr__ = attributes(NETWORKS)

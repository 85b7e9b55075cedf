"""MONAI's networks, for images and for volumes: https://github.com/Project-MONAI/MONAI.

Left out are GlobalNet and VQ-VAE (float32 inside: they do not run in float64), HoVerNet (minutes a step), and the networks with
Hyena (another package).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sweep.third_party.entry import Calling, Entry, Package, attributes

nets = Package("monai.networks.nets")
SHAPES = {2: (3, 1, 64, 64), 3: (2, 1, 32, 32, 32)}
WIDE = {2: (3, 3, 64, 64), 3: (2, 3, 32, 32, 32)}
PAIRS = {2: (3, 2, 64, 64), 3: (2, 2, 32, 32, 32)}
TALL = {2: (3, 1, 64, 64), 3: (1, 1, 64, 32, 32)}
SMALL = {2: (3, 1, 64, 64), 3: (1, 1, 16, 16, 16)}
CHANNELS, STRIDES = (4, 8, 16), (2, 2)
LABELS = 3  # of a segmentation that a SPADE network is steered by


def _side(dims: int) -> int:
    return SHAPES[dims][-1]


def _size(dims: int) -> tuple[int, ...]:
    return SHAPES[dims][2:]


def _latent(dims: int, network: str, **named: Any) -> nn.Module:
    return getattr(nets, network)(
        spatial_dims=dims, in_channels=1, out_channels=1, num_res_blocks=1, channels=(8, 8, 16),
        attention_levels=(False, False, True), latent_channels=2, norm_num_groups=4, **named,
    )  # fmt: skip


def _diffusion(dims: int, network: str = "DiffusionModelUNet", call: Any = None, **named: Any) -> nn.Module:
    """Return a network that is told the time step of its images."""
    model = getattr(nets, network)(
        spatial_dims=dims, in_channels=1, num_res_blocks=1, channels=(8, 8, 16),
        attention_levels=(False, False, True), norm_num_groups=4, num_head_channels=8, **named,
    )  # fmt: skip
    return Calling(model, call or (lambda net, x: net(x, _times(x))))


def _times(images: Tensor) -> Tensor:
    return torch.arange(1, images.shape[0] + 1)


def _labels(images: Tensor) -> Tensor:
    """Return a segmentation of the images, one channel a label."""
    return torch.cat([images.gt(0.5), images.lt(-0.5), images.abs().le(0.5)], 1).to(images.dtype)


def _mednext(dims: int, **named: Any) -> nn.Module:
    return nets.MedNeXt(
        dims, init_filters=4, kernel_size=3, blocks_down=(1, 1, 1, 1), blocks_bottleneck=1, blocks_up=(1, 1, 1, 1), **named
    )  # fmt: skip


def _dynunet(dims: int, **named: Any) -> nn.Module:
    return nets.DynUNet(dims, 1, 2, [3, 3, 3, 3], [1, 2, 2, 2], [2, 2, 2], filters=[4, 8, 16, 16], **named)


def _dints(dims: int, space: str) -> nn.Module:
    topology = getattr(nets, space)(channel_mul=0.1, num_blocks=2, num_depths=2, spatial_dims=dims)
    return nets.DiNTS(topology, 1, 2, spatial_dims=dims)


def _swin(dims: int, **named: Any) -> nn.Module:
    return nets.SwinUNETR(
        in_channels=1, out_channels=2, spatial_dims=dims, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2),
        window_size=4, **named,
    )  # fmt: skip


def _vit(dims: int, network: str, **named: Any) -> nn.Module:
    sizes = {"hidden_size": 24, "mlp_dim": 24, "num_heads": 2, "spatial_dims": dims, "img_size": _size(dims)}
    return getattr(nets, network)(in_channels=1, **sizes, **named)


def _masked(network: str, dims: int) -> nn.Module:
    return _vit(
        dims, network, patch_size=8, num_layers=2, decoder_hidden_size=24, decoder_mlp_dim=24,
        decoder_num_layers=1, decoder_num_heads=2,
    )  # fmt: skip


def _spade(dims: int, network: str, **named: Any) -> nn.Module:
    model = getattr(nets, network)(
        spatial_dims=dims, in_channels=1, out_channels=1, label_nc=LABELS, input_shape=_size(dims),
        channels=[4, 8], spade_intermediate_channels=4, **named,
    )  # fmt: skip
    return Calling(model, lambda net, x: net(_labels(x), x))


def _voxelmorph(dims: int) -> nn.Module:
    """Return the registration of an image with another, each a channel of what comes in."""
    backbone = nets.VoxelMorphUNet(dims, 2, 8, channels=(4, 8, 8, 8), final_conv_channels=(4, 4))
    return Calling(
        nets.VoxelMorph(backbone, integration_steps=3, spatial_dims=dims),
        lambda net, x: net(x[:, :1], x[:, 1:]),
    )


BOTH: dict[str, tuple[Callable[[int], nn.Module], dict[int, tuple[int, ...]]]] = {
    "ahnet": (lambda d: nets.AHNet((1, 1, 1, 1), d, psp_block_num=2), {2: (3, 1, 64, 64), 3: (1, 1, 64, 64, 32)}),
    "attention_unet": (lambda d: nets.AttentionUnet(d, 1, 2, CHANNELS, STRIDES), SHAPES),
    "autoencoder": (lambda d: nets.AutoEncoder(d, 1, 1, CHANNELS, (2, 2, 2)), SHAPES),
    "autoencoder_inner": (
        lambda d: nets.AutoEncoder(d, 1, 1, CHANNELS, (2, 2, 2), inter_channels=[8, 8], inter_dilations=[1, 2], num_res_units=2),
        SHAPES,
    ),
    "autoencoder_kl": (lambda d: _latent(d, "AutoencoderKL"), SHAPES),
    "basic_unet": (lambda d: nets.BasicUNet(d, features=(4, 4, 8, 8, 16, 4)), SHAPES),
    "basic_unet_nontrainable": (lambda d: nets.BasicUNet(d, features=(4, 4, 8, 8, 16, 4), upsample="nontrainable"), SHAPES),
    "basic_unet_pixelshuffle": (lambda d: nets.BasicUNet(d, features=(4, 4, 8, 8, 16, 4), upsample="pixelshuffle"), SHAPES),
    "basic_unet_plus_plus": (lambda d: nets.BasicUNetPlusPlus(d, features=(4, 4, 8, 8, 16, 4)), SHAPES),
    "basic_unet_plus_plus_deep": (
        lambda d: nets.BasicUNetPlusPlus(d, features=(4, 4, 8, 8, 16, 4), deep_supervision=True), SHAPES,
    ),
    "classifier": (lambda d: nets.Classifier((1, *_size(d)), 2, CHANNELS, (2, 2, 2)), SHAPES),
    "critic": (lambda d: nets.Critic((1, *_size(d)), CHANNELS, (2, 2, 2)), SHAPES),
    "discriminator": (lambda d: nets.Discriminator((1, *_size(d)), CHANNELS, (2, 2, 2)), SHAPES),
    "regressor": (lambda d: nets.Regressor((1, *_size(d)), (2,), CHANNELS, (2, 2, 2)), SHAPES),
    "densenet": (lambda d: nets.DenseNet(d, 1, 2, init_features=8, growth_rate=4, block_config=(2, 2, 2)), SHAPES),
    "diffusion_unet": (lambda d: _diffusion(d, out_channels=1), SMALL),
    "diffusion_unet_resblock": (lambda d: _diffusion(d, out_channels=1, resblock_updown=True), SMALL),
    "controlnet": (
        lambda d: _diffusion(
            d, "ControlNet", lambda net, x: net(x, _times(x), x), conditioning_embedding_num_channels=(4,)
        ),
        SMALL,
    ),
    "spade_diffusion_unet": (
        lambda d: _diffusion(
            d, "SPADEDiffusionModelUNet", lambda net, x: net(x, _times(x), _labels(x)), out_channels=1,
            label_nc=LABELS, spade_intermediate_channels=4,
        ),
        SMALL,
    ),
    "dints_search": (lambda d: _dints(d, "TopologySearch"), SHAPES),
    "dints_instance": (lambda d: _dints(d, "TopologyInstance"), SHAPES),
    "dynunet": (_dynunet, SHAPES),
    "dynunet_residual_deep": (lambda d: _dynunet(d, res_block=True, deep_supervision=True, deep_supr_num=2), SHAPES),
    "efficientnet": (
        lambda d: nets.EfficientNet(
            ["r1_k3_s11_e1_i32_o16_se0.25", "r2_k3_s22_e6_i16_o24_se0.25", "r1_k5_s22_e6_i24_o40_se0.25"],
            d, 1, 4, width_coefficient=0.25, image_size=_side(d),
        ),
        SHAPES,
    ),
    "highresnet": (
        lambda d: nets.HighResNet(
            d, layer_params=(
                {"name": "conv_0", "n_features": 4, "kernel_size": 3},
                {"name": "res_1", "n_features": 4, "kernels": (3, 3), "repeat": 1},
                {"name": "res_2", "n_features": 8, "kernels": (3, 3), "repeat": 1},
                {"name": "conv_1", "n_features": 8, "kernel_size": 1},
                {"name": "conv_2", "kernel_size": 1},
            ),
        ),
        SHAPES,
    ),
    "masked_autoencoder_vit": (partial(_masked, "MaskedAutoEncoderViT"), SHAPES),
    "mednext": (_mednext, SHAPES),
    "mednext_deep": (lambda d: _mednext(d, deep_supervision=True, use_residual_connection=True), SHAPES),
    "mednext_response_norm": (lambda d: _mednext(d, global_resp_norm=True), SHAPES),
    "patch_discriminator": (lambda d: nets.PatchDiscriminator(d, 4, 1, num_layers_d=2), SHAPES),
    "multi_scale_discriminator": (
        lambda d: nets.MultiScalePatchDiscriminator(2, 1, d, 4, 1, minimum_size_im=_side(d)), SHAPES,
    ),
    "regunet": (lambda d: nets.RegUNet(d, 1, 4, 2, out_channels=d), SHAPES),
    "regunet_concat": (lambda d: nets.RegUNet(d, 1, 4, 2, out_channels=d, concat_skip=True, pooling=False), SHAPES),
    "localnet": (lambda d: nets.LocalNet(d, 1, 4, (0, 1, 2), out_channels=d), SMALL),
    "localnet_bilinear": (
        lambda d: nets.LocalNet(d, 1, 4, (0, 1), out_channels=d, mode="bilinear" if d == 2 else "trilinear", align_corners=True),
        SMALL,
    ),
    "resnet10": (lambda d: nets.resnet10(spatial_dims=d, n_input_channels=1, num_classes=2, widen_factor=0.125), SHAPES),
    "resnet18_b": (
        lambda d: nets.resnet18(spatial_dims=d, n_input_channels=1, num_classes=2, widen_factor=0.125, shortcut_type="A"),
        SHAPES,
    ),
    "resnet50": (lambda d: nets.resnet50(spatial_dims=d, n_input_channels=1, num_classes=2, widen_factor=0.0625), SHAPES),
    "restormer": (
        lambda d: nets.restormer.Restormer(d, 1, 1, dim=8, num_blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2), num_refinement_blocks=1), SMALL,
    ),
    "segresnet": (lambda d: nets.SegResNet(d, blocks_down=(1, 1, 1), blocks_up=(1, 1)), SHAPES),
    "segresnet_deconv": (lambda d: nets.SegResNet(d, blocks_down=(1, 1, 1), blocks_up=(1, 1), upsample_mode="deconv"), SHAPES),
    "segresnet_shuffle": (
        lambda d: nets.SegResNet(d, blocks_down=(1, 1, 1), blocks_up=(1, 1), upsample_mode="pixelshuffle", dropout_prob=0.2),
        SHAPES,
    ),
    "segresnet_vae": (
        lambda d: nets.SegResNetVAE(_size(d), spatial_dims=d, blocks_down=(1, 1, 1), blocks_up=(1, 1), vae_nz=8), SHAPES,
    ),
    "segresnet_ds": (lambda d: nets.SegResNetDS(d, 4, blocks_down=(1, 1, 1), dsdepth=2), SHAPES),
    "segresnet_ds2": (lambda d: nets.SegResNetDS2(d, 4, blocks_down=(1, 1, 1), norm="instance"), SHAPES),
    "spade_autoencoder_kl": (
        lambda d: Calling(
            _latent(d, "SPADEAutoencoderKL", label_nc=LABELS, spade_intermediate_channels=4),
            lambda net, x: net(x, _labels(x)),
        ),
        SHAPES,
    ),
    "spade_net": (lambda d: _spade(d, "SPADENet", is_vae=False), SHAPES),
    "spade_net_vae": (lambda d: _spade(d, "SPADENet", is_vae=True, z_dim=4), SHAPES),
    "swin_unetr": (_swin, TALL),
    "swin_unetr_v2": (lambda d: _swin(d, use_v2=True, downsample="mergingv2"), TALL),
    "unet": (lambda d: nets.UNet(d, 1, 2, CHANNELS, STRIDES), SHAPES),
    "unet_residual_batch": (lambda d: nets.UNet(d, 1, 2, CHANNELS, STRIDES, num_res_units=2, norm="batch"), SHAPES),
    "unet_dropout": (lambda d: nets.UNet(d, 1, 2, CHANNELS, STRIDES, dropout=0.3, act="relu"), SHAPES),
    "unetr": (lambda d: _vit(d, "UNETR", out_channels=2, feature_size=4), SHAPES),
    "var_autoencoder": (lambda d: nets.VarAutoEncoder(d, (1, *_size(d)), 1, 4, CHANNELS, (2, 2, 2)), SHAPES),
    "vit": (lambda d: _vit(d, "ViT", patch_size=8, num_layers=2, classification=True), SHAPES),
    "vit_perceptron": (lambda d: _vit(d, "ViT", patch_size=8, num_layers=2, proj_type="perceptron"), SHAPES),
    "vit_autoencoder": (lambda d: _vit(d, "ViTAutoEnc", patch_size=4, num_layers=2, deconv_chns=4), SHAPES),
    "vnet": (lambda d: nets.VNet(d), {2: (3, 1, 32, 32), 3: (1, 1, 32, 32, 16)}),
    "voxelmorph_unet": (
        lambda d: nets.VoxelMorphUNet(d, 2, d, channels=(4, 8, 8, 8), final_conv_channels=(4, 4)), PAIRS,
    ),
    "voxelmorph": (_voxelmorph, {2: (3, 2, 64, 64), 3: (1, 2, 16, 16, 16)}),
}  # fmt: skip

ONE: dict[str, Entry] = {
    "daf3d": Entry(lambda: nets.DAF3D(1, 2), (1, 1, 32, 32, 32)),
    "flexible_unet_efficientnet": Entry(
        lambda: nets.FlexibleUNet(3, 2, "efficientnet-b0", decoder_channels=(16, 8, 8, 4, 4)), WIDE[2]
    ),
    "flexible_unet_resnet": Entry(lambda: nets.FlexibleUNet(3, 2, "resnet10", decoder_channels=(16, 8, 8, 4, 4)), WIDE[2]),
    "netadapter": Entry(
        lambda: nets.NetAdapter(Package("torchvision.models").resnet18(num_classes=4), 3, pool=None, use_conv=True), WIDE[2]
    ),
    "torchvision_fc": Entry(lambda: nets.TorchVisionFCModel("resnet18", 3, pool=None, use_conv=True), WIDE[2]),
    "quicknat": Entry(lambda: nets.Quicknat(num_classes=3, num_filters=4), SHAPES[2]),
    "senet": Entry(
        lambda: nets.SENet(
            2, 1, "se_resnetxt_bottleneck", (1, 1, 1, 1), groups=4, reduction=4, inplanes=16, num_classes=3
        ),
        SHAPES[2],
    ),
    "vista3d": Entry(
        lambda: Calling(
            nets.VISTA3D(
                nets.SegResNetDS2(in_channels=1, blocks_down=(1, 1, 1), norm="instance", out_channels=8, init_filters=8, dsdepth=1),
                nets.vista3d.ClassMappingClassify(n_classes=4, feature_size=8, use_mlp=True),
                nets.vista3d.PointMappingSAM(feature_size=8, n_classes=4, last_supported=3),
            ),
            lambda net, x: net(x, class_vector=torch.tensor([[0], [1]])),
        ),
        (1, 1, 32, 32, 32),
    ),
}  # fmt: skip

NETWORKS = {
    f"{name}_{dims}d": Entry(partial(build, dims), shapes[dims])
    for name, (build, shapes) in BOTH.items()
    for dims in (2, 3)
} | ONE
__getattr__ = attributes(NETWORKS)

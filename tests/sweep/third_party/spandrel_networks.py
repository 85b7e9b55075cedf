"""spandrel's networks for restoration: https://github.com/chaiNNer-org/spandrel.

Left out are KBNet_l and HVI-CIDNet, which do not run in float64 on CPUs by themselves, and networks of more than 30 million weights
that cannot be built narrower.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from sweep.third_party.entry import Calling, Entry, Package, attributes
from ziggurat.parallel.spatial import declare
from ziggurat.parallel.spatial.table import TABLE

SWIN = {
    "img_size": 16,
    "embed_dim": 12,
    "depths": [2, 2],
    "num_heads": [2, 2],
    "window_size": 4,
    "mlp_ratio": 2.0,
}
"""Of networks in the manner of SwinIR."""
DEPTH = {"img_size": 16, "embed_dim": 16, "depth": [1, 1], "num_heads": [2, 2]}
SMALL = (2, 3, 16, 16)
IMAGE = (2, 3, 32, 32)


def _from(package: str, module: str, name: str, **named: Any) -> nn.Module:
    network: nn.Module = getattr(Package(f"{package}.architectures.{module}"), name)(**named)
    return network


def _made(module: str, name: str, shape: tuple[int, ...] = IMAGE, **named: Any) -> Entry:
    """Return the entry of a network of spandrel; ``module`` is a path below ``architectures``."""
    return Entry(partial(_from, "spandrel", module, name, **named), shape)


def _extra(module: str, name: str, shape: tuple[int, ...] = IMAGE, **named: Any) -> Entry:
    """Return the entry of a network of spandrel_extra_arches."""
    return Entry(partial(_from, "spandrel_extra_arches", module, name, **named), shape)


def _norm_declared(entry: Entry) -> Entry:
    """Return an entry that says of the network's own ``LayerNormFunction`` that it normalizes the channels of each position.

    So do its forward and its backward, which adds up the gradients of weight and bias over the positions; a user would say it
    in the same line.
    """

    def build() -> nn.Module:
        if "LayerNormFunction" not in TABLE:
            declare("LayerNormFunction", "channels")
        return entry()

    return Entry(build, entry.shape)


def _rcan() -> nn.Module:
    """Return RCAN, which changes its images in place: it is given a copy, as a leaf with a gradient cannot be."""
    network = _from(
        "spandrel", "RCAN", "RCAN", scale=2, n_resgroups=2, n_resblocks=2, n_feats=16, norm=False, reduction=4
    )
    return Calling(network, lambda net, x: net(x.clone()))


NETWORKS = {
    "atd": _made("ATD", "ATD", SMALL, **SWIN, category_size=16, num_tokens=8, reducted_dim=4, upscale=2, upsampler="pixelshuffle"),
    "atd_light": _made("ATD", "ATD", SMALL, **SWIN, category_size=16, num_tokens=8, upscale=2, upsampler="pixelshuffledirect"),
    "compact": _made("Compact", "Compact", num_feat=8, num_conv=4, upscale=2),
    "craft": _made(
        "CRAFT", "CRAFT", SMALL, window_size=4, embed_dim=12, depths=[1, 1], num_heads=[2, 2], split_size_0=2, split_size_1=4,
        upscale=2,
    ),
    "dat": _made("DAT", "DAT", SMALL, **DEPTH, split_size=[2, 4], expansion_factor=2.0),
    "dctlsa": _made("DCTLSA", "DCTLSA", SMALL, nf=20, upscale=2, num_head=5),
    "ditn": _made("DITN", "DITN", dim=12, ITL_blocks=1, SAL_blocks=1, upscale=2),
    "dncnn": _made("DnCNN", "DnCNN", (2, 1, 32, 32), nc=8, nb=5),
    "dncnn_color": _made("DnCNN", "DnCNN", in_nc=3, out_nc=3, nc=8, nb=5, act_mode="R"),
    "drct": _made("DRCT", "DRCT", SMALL, **SWIN, gc=8, upscale=2, upsampler="pixelshuffle"),
    "drunet": _made("DRUNet", "DRUNet", in_nc=3, out_nc=3, nc=[8, 8, 16, 16], nb=1),
    "esrgan": _made("ESRGAN", "ESRGAN", SMALL, num_filters=8, num_blocks=2, scale=4),
    "esrgan_plus": _made("ESRGAN", "ESRGAN", SMALL, num_filters=8, num_blocks=1, scale=2, plus=True),
    "esrgan_shuffle": _made("ESRGAN", "ESRGAN", SMALL, num_filters=8, num_blocks=1, scale=2, upsampler="pixel_shuffle"),
    "fbcnn": _made("FBCNN", "FBCNN", nc=[8, 8, 16, 512], nb=1),
    "fdat": _made("FDAT", "FDAT", SMALL, scale=2, embed_dim=16, num_groups=1, depth_per_group=2, num_heads=2, window_size=4, mid_dim=8),
    "fdat_direct": _made(
        "FDAT", "FDAT", SMALL, scale=2, embed_dim=16, num_groups=1, depth_per_group=2, num_heads=2, window_size=4, mid_dim=8,
        upsampler_type="pixelshuffledirect",
    ),
    "fftformer": _made("FFTformer", "FFTformer", dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1),
    "grl": _made(
        "GRL", "GRL", SMALL, img_size=16, embed_dim=16, upscale=2, upsampler="pixelshuffledirect", depths=[2, 2],
        num_heads_window=[1, 1], num_heads_stripe=[1, 1], window_size=4, stripe_size=[4, 4], mlp_ratio=2,
    ),
    "hat": _made("HAT", "HAT", SMALL, **SWIN, compress_ratio=3, squeeze_factor=3, upscale=2, num_feat=8),
    "hat_scale4": _made("HAT", "HAT", SMALL, **SWIN | {"window_size": 8}, compress_ratio=3, squeeze_factor=3, upscale=4, num_feat=8),
    "kbnet_s": _made("KBNet", "KBNet_s", width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "kbnet_s_light": _made("KBNet", "KBNet_s", width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1], lightweight=True),
    "mixdehaze": _made("MixDehazeNet", "MixDehazeNet", (1, 3, 64, 64), embed_dims=[8, 8, 16, 8, 8], depths=[1, 1, 1, 1, 1]),
    "mmrealsr": _made(
        "MMRealSR", "MMRealSR", SMALL, num_in_ch=3, num_out_ch=3, scale=4, num_feat=8, num_block=1, num_grow_ch=4,
        num_feats=[8, 8, 8, 8], num_blocks=[1, 1, 1, 1],
    ),
    "moesr": _made("MoESR", "MoESR", SMALL, scale=2, dim=16, n_blocks=1, n_block=1, upsample_dim=8),
    "mosr": _made("MoSR", "MoSR", SMALL, upscale=2, n_block=2, dim=16),
    "mosr_dysample": _made("MoSR", "MoSR", SMALL, upscale=2, n_block=2, dim=16, upsampler="dys"),
    "nafnet": _norm_declared(_made("NAFNet", "NAFNet", width=8, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1])),
    "omnisr": _norm_declared(_made("OmniSR", "OmniSR", SMALL, num_feat=16, window_size=4, up_scale=2)),
    "plksr": _made("PLKSR", "PLKSR", dim=16, n_blocks=2, upscaling_factor=2, kernel_size=7),
    "plksr_sparse": _made("PLKSR", "PLKSR", dim=16, n_blocks=2, upscaling_factor=2, kernel_size=7, lk_type="SparsePLK"),
    "realplksr": _made("PLKSR", "RealPLKSR", dim=16, n_blocks=2, upscaling_factor=2, kernel_size=7),
    "realplksr_dysample": _made("PLKSR", "RealPLKSR", dim=16, n_blocks=2, upscaling_factor=2, kernel_size=7, dysample=True),
    "rcan": Entry(_rcan, SMALL),
    "real_cugan_2x": _made("RealCUGAN", "UpCunet2x", (1, 3, 48, 48)),
    "rgt": _made("RGT", "RGT", SMALL, **DEPTH, split_size=[4, 4]),
    "retinexformer": _made("RetinexFormer", "RetinexFormer", n_feat=8, stage=1),
    "safmn": _made("SAFMN", "SAFMN", dim=8, n_blocks=2, upscaling_factor=2),
    "safmn_bcie": _made("SAFMNBCIE", "SAFMNBCIE", dim=8, n_blocks=1, num_layers=2),
    "scunet": _made("SCUNet", "SCUNet", (1, 3, 64, 64), config=[1, 1, 1, 1, 1, 1, 1], dim=64, input_resolution=64),
    "seemore": _made("SeemoRe", "SeemoRe", scale=2, num_experts=2, num_layers=1, embedding_dim=8),
    "span": _made("SPAN", "SPAN", num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2),
    "swiftsrgan": _made("SwiftSRGAN", "SwiftSRGAN", num_channels=8, num_blocks=2, upscale_factor=2),
    "swin2sr": _made("Swin2SR", "Swin2SR", SMALL, **SWIN, upsampler="pixelshuffle"),
    "swin2sr_direct": _made("Swin2SR", "Swin2SR", SMALL, **SWIN, upsampler="pixelshuffledirect"),
    "swinir": _made("SwinIR", "SwinIR", SMALL, **SWIN, upscale=2, upsampler="pixelshuffle"),
    "swinir_denoising": _made("SwinIR", "SwinIR", SMALL, **SWIN),
    "swinir_nearest": _made("SwinIR", "SwinIR", SMALL, **SWIN, upscale=4, upsampler="nearest+conv", resi_connection="3conv"),
    "uformer": _made(
        "Uformer", "Uformer", (1, 3, 64, 64), img_size=64, embed_dim=8, depths=[1] * 9, num_heads=[1, 1, 2, 2, 2, 2, 2, 1, 1],
        win_size=4,
    ),
    "m3snet": _norm_declared(_extra("M3SNet", "M3SNet", width=8, enc_blk_nums=[1, 1, 1, 1])),
    "mirnet2": _extra("MIRNet2", "MIRNet2", n_feat=16, n_MRB=1),
    "mprnet": _extra("MPRNet", "MPRNet", n_feat=8, scale_unetfeats=4, scale_orsnetfeats=4, num_cab=1),
    "restormer": _extra("Restormer", "Restormer", dim=8, num_blocks=[1, 1, 1, 1], num_refinement_blocks=1, heads=[1, 1, 2, 2]),
    "srformer": _extra("SRFormer", "SRFormer", SMALL, **SWIN, upscale=2, upsampler="pixelshuffle"),
}  # fmt: skip
__getattr__ = attributes(NETWORKS)

"""vit-pytorch's networks: https://github.com/lucidrains/vit-pytorch.

Left out are those that do not run on one worker with these versions: LocalViT, MAE and SimMIM (shapes that do not fit), CrossFormer (float32 inside), the
networks with FlexAttention (no backward on CPUs), and with flash attention (a call of einops that it refuses).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from sweep.third_party.entry import Calling, Entry, Package, attributes

package = Package("vit_pytorch")
DEEP = {"depth": 2, "heads": 2, "dim_head": 12, "mlp_dim": 48}
SIZES = {"num_classes": 5, "dim": 24, **DEEP}
IMAGE = {"image_size": 64, "patch_size": 16, **SIZES}
VIDEO = {
    "image_size": 32,
    "image_patch_size": 8,
    "frames": 8,
    "frame_patch_size": 2,
    "num_classes": 5,
    "dim": 24,
}
FACTORIZED = {"spatial_depth": 1, "temporal_depth": 1, "heads": 2, "dim_head": 12, "mlp_dim": 48}
CLIP = (2, 3, 8, 32, 32)
PYRAMID = {"dim": (8, 16, 24, 32), "depth": (1, 1, 1, 1), "num_classes": 5}


def _make(module: str, name: str, **named: Any) -> nn.Module:
    network: nn.Module = getattr(getattr(package, module), name)(**named)
    return network


def _vit(**named: Any) -> nn.Module:
    return _make("vit", "ViT", **IMAGE, **named)


def _image(module: str, name: str = "ViT", without: tuple[str, ...] = (), **named: Any) -> Entry:
    """Return the entry of a network with the arguments that most of them have."""
    common = {key: value for key, value in IMAGE.items() if key not in without}
    return Entry(partial(_make, module, name, **common | named), (3, 3, 64, 64))


def _pyramid(module: str, name: str, side: int = 64, **named: Any) -> Entry:
    return Entry(partial(_make, module, name, **PYRAMID | named), (2, 3, side, side))


def _distilled() -> nn.Module:
    student = _make("distill", "DistillableViT", **IMAGE)
    wrapper = _make("distill", "DistillWrapper", student=student, teacher=_vit(), temperature=3, alpha=0.5)
    return Calling(wrapper, lambda net, x: net(x, torch.arange(x.shape[0])))


def _levit() -> nn.Module:
    return _make(
        "levit", "LeViT", image_size=64, num_classes=5, stages=2, dim=(16, 24), depth=1, heads=(2, 2), mlp_mult=2, dim_key=8,
        dim_value=8,
    )  # fmt: skip


def _mobile_vit() -> nn.Module:
    channels = (8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 32)
    return _make(
        "mobile_vit", "MobileViT", image_size=(64, 64), dims=(16, 20, 24), channels=channels, num_classes=5
    )


def _cross_vit() -> nn.Module:
    return _make(
        "cross_vit", "CrossViT", image_size=64, num_classes=5, depth=1, sm_dim=16, sm_patch_size=8, sm_enc_heads=2,
        sm_enc_mlp_dim=32, sm_enc_dim_head=8, lg_dim=24, lg_patch_size=16, lg_enc_depth=1, lg_enc_heads=2, lg_enc_mlp_dim=32,
        lg_enc_dim_head=8, cross_attn_depth=1, cross_attn_heads=2, cross_attn_dim_head=8,
    )  # fmt: skip


def _cvt() -> nn.Module:
    sizes = {f"s{stage}_emb_dim": width for stage, width in ((1, 8), (2, 16), (3, 24))}
    more = {"s2_heads": 2, "s3_heads": 2, "s2_depth": 1, "s3_depth": 1}
    return _make("cvt", "CvT", num_classes=5, **sizes, **more)


def _twins() -> nn.Module:
    sizes = {f"s{stage}_emb_dim": width for stage, width in ((1, 8), (2, 16), (3, 24), (4, 32))}
    windows = {f"s{stage}_{name}": 2 for stage in (1, 2, 3, 4) for name in ("local_patch_size", "global_k")}
    return _make("twins_svt", "TwinsSVT", num_classes=5, s3_depth=1, s4_depth=1, **sizes, **windows)


def _t2t() -> nn.Module:
    return _make(
        "t2t", "T2TViT", image_size=64, num_classes=5, dim=24, depth=2, heads=2, dim_head=12, mlp_dim=48
    )


def _cct() -> nn.Module:
    return _make(
        "cct",
        "CCT",
        img_size=64,
        embedding_dim=24,
        n_conv_layers=2,
        num_layers=2,
        num_heads=2,
        mlp_ratio=2,
        num_classes=5,
    )


def _cct_3d() -> nn.Module:
    return _make(
        "cct_3d", "CCT", img_size=32, num_frames=8, embedding_dim=24, n_conv_layers=2, frame_kernel_size=3, num_layers=2,
        num_heads=2, mlp_ratio=2, num_classes=5, positional_embedding="learnable",
    )  # fmt: skip


def _pit() -> nn.Module:
    return _make(
        "pit", "PiT", image_size=64, patch_size=16, num_classes=5, dim=24, **DEEP | {"depth": (1, 1)}
    )


def _nest() -> nn.Module:
    return _make(
        "nest",
        "NesT",
        image_size=64,
        patch_size=4,
        num_classes=5,
        dim=16,
        heads=2,
        num_hierarchies=3,
        block_repeats=(1, 1, 1),
    )


def _efficient() -> nn.Module:
    transformer = _make("vit", "Transformer", dim=24, dropout=0.1, **DEEP)
    return _make(
        "efficient", "ViT", image_size=64, patch_size=16, num_classes=5, dim=24, transformer=transformer
    )


def _scalable() -> nn.Module:
    return _make(
        "scalable_vit", "ScalableViT", num_classes=5, dim=16, heads=(1, 2, 2, 2), depth=(1, 1, 1, 1), ssa_dim_key=(8, 8, 8, 8),
        reduction_factor=(8, 4, 2, 1), window_size=(8, 4, None, None),
    )  # fmt: skip


def _extractor() -> nn.Module:
    return _make("extractor", "Extractor", vit=_vit(), detach=False)


def _wwt() -> nn.Module:
    return _make(
        "wwt",
        "WWT",
        image_size=64,
        patch_size=16,
        num_classes=5,
        dim=24,
        depth=2,
        num_slots=4,
        heads=2,
        dim_head=12,
    )


NETWORKS = {
    "vit": _image("vit"),
    "vit_mean_dropout": _image("vit", pool="mean", dropout=0.1, emb_dropout=0.1),
    "simple_vit": _image("simple_vit", "SimpleViT"),
    "ats_vit": _image("ats_vit", max_tokens_per_depth=(12, 8)),
    "attn_residual_dca": _image("attn_residual_with_dca_simple_vit", "SimpleViT"),
    "cait": _image("cait", "CaiT", cls_depth=1, layer_dropout=0.05),
    "cct": Entry(_cct),
    "cct_3d": Entry(_cct_3d, CLIP),
    "cross_vit": Entry(_cross_vit),
    "cvt": Entry(_cvt),
    "deepvit": _image("deepvit", "DeepViT"),
    "distill": Entry(_distilled),
    "efficient": Entry(_efficient),
    "extractor": Entry(_extractor),
    "jet_vit": _image("jet_vit", "JetViT", window_size=2),
    "jumbo_vit": _image("jumbo_vit", "JumboViT", jumbo_cls_k=2),
    "learnable_memory_vit": _image("learnable_memory_vit"),
    "levit": Entry(_levit),
    "look_vit": Entry(
        partial(
            _make, "look_vit", "LookViT", dim=24, image_size=64, num_classes=5, depth=1, patch_size=16, heads=2, dim_head=12,
            highres_patch_size=8, cross_attn_heads=2, cross_attn_dim_head=12,
        )
    ),
    "looped_vit": Entry(
        partial(
            _make, "looped_vit", "LoopedViT", num_classes=5, dim=24, image_size=64, patch_size=16, pre_loop_depth=1,
            num_looped_blocks=1, post_loop_depth=1, loop_depth=2, heads=2, dim_head=12, mlp_dim=48,
        )
    ),
    "max_vit": _pyramid("max_vit", "MaxViT", dim=8, dim_conv_stem=8, dim_head=8, window_size=2),
    "max_vit_registers": _pyramid("max_vit_with_registers", "MaxViT", dim=8, dim_conv_stem=8, dim_head=8, window_size=2),
    "mobile_vit": Entry(_mobile_vit),
    "mp3": _image("mp3"),
    "nest": Entry(_nest),
    "normalized_vit": _image("normalized_vit", "nViT"),
    "parallel_vit": _image("parallel_vit"),
    "pit": Entry(_pit),
    "regionvit": _pyramid("regionvit", "RegionViT", window_size=2),
    "rvt": _image("rvt", "RvT"),
    "rvt_plain": _image("rvt", "RvT", use_rotary=False, use_ds_conv=False, use_glu=False),
    "scalable_vit": Entry(_scalable),
    "sep_vit": _pyramid("sep_vit", "SepViT", 224, dim=8, heads=(1, 2, 2, 2)),
    "simple_uvit": _image("simple_uvit", "SimpleUViT"),
    "simple_vit_3d": Entry(partial(_make, "simple_vit_3d", "SimpleViT", **VIDEO, **DEEP), CLIP),
    "simple_vit_attn_residual": _image("simple_vit_attn_residual", "SimpleViTAttnResidual"),
    "simple_vit_orthogonal_residual": _image("simple_vit_orthog_residual_update", "SimpleViT"),
    "simple_vit_fft": _image("simple_vit_with_fft", "SimpleViT", freq_patch_size=8),
    "simple_vit_hyper_connections": _image("simple_vit_with_hyper_connections", "SimpleViT", num_residual_streams=2),
    "simple_vit_patch_dropout": _image("simple_vit_with_patch_dropout", "SimpleViT"),
    "simple_vit_qk_norm": _image("simple_vit_with_qk_norm", "SimpleViT"),
    "simple_vit_registers": _image("simple_vit_with_register_tokens", "SimpleViT"),
    "simple_vit_relative_bias": _image("simple_vit_with_relative_proj_pos_bias", "SimpleViT"),
    "simple_vit_sparse_gating": _image("simple_vit_with_sparse_gating", "SimpleViTWithSparseGating"),
    "simple_vit_specialized_cls": _image("simple_vit_with_specialized_cls", "SimpleViT"),
    "simple_vit_value_residual": _image("simple_vit_with_value_residual", "SimpleViT"),
    "t2t": Entry(_t2t),
    "twins_svt": Entry(_twins),
    "vat_vit": _image("vat", num_register_tokens=2),
    "vit_3d": Entry(partial(_make, "vit_3d", "ViT", **VIDEO, **DEEP), CLIP),
    "vit_5": _image("vit_5"),
    "vit_detpool": _image("vit_detpool", "ViTDetPool"),
    "vit_small_dataset": _image("vit_for_small_dataset"),
    "vit_decorr": _image("vit_with_decorr"),
    "vit_keel_post_ln": _image("vit_with_keel_post_ln"),
    "vit_patch_dropout": _image("vit_with_patch_dropout"),
    "vit_patch_merger": _image("vit_with_patch_merger", patch_merge_layer=1, patch_merge_num_tokens=4),
    "vivit": Entry(partial(_make, "vivit", "ViViT", **VIDEO, **FACTORIZED), CLIP),
    "vivit_moss": Entry(partial(_make, "vivit_with_moss", "ViViT", **VIDEO, **FACTORIZED), CLIP),
    "wwt": Entry(_wwt),
    "xcit": _image("xcit", "XCiT", cls_depth=1, layer_dropout=0.05),
}  # fmt: skip
__getattr__ = attributes(NETWORKS)

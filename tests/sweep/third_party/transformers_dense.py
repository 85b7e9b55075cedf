"""Segmentation, depth, pose and restoration networks of transformers."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from sweep.third_party.entry import Entry, attributes
from sweep.third_party.transformers_building import (
    PLAIN,
    QUERIES,
    STAGED,
    build,
    config,
    narrow_resnet,
    narrow_swin,
    narrow_vit,
    package,
    plain,
    staged,
)

FOUR = ("stage1", "stage2", "stage3", "stage4")
LEVELS = {"neck_hidden_sizes": [4, 8, 12, 16], "fusion_hidden_size": 8}
HEAD = {"use_auxiliary_head": True, "auxiliary_channels": 8}
MASKS = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "encoder_layers": 2,
    "decoder_layers": 3, "num_attention_heads": 4, "dim_feedforward": 32, "num_queries": 5, "num_labels": 3, "conv_dim": 32,
    "mask_dim": 32, "text_encoder_width": 32, "text_encoder_num_layers": 1, "text_encoder_vocab_size": 99, "is_training": False,
}  # fmt: skip
"""Of networks that classify masks."""


def _masks(network: str, name: str, backbone: Any, **own: Any) -> nn.Module:
    return build(network, name, MASKS, backbone_config=backbone(), **own)


def _maskformer(backbone: Any) -> nn.Module:
    body, decoder = backbone(), config("Detr", QUERIES, backbone_config=narrow_resnet())
    return build(
        "MaskFormerForInstanceSegmentation", "MaskFormer", {}, backbone_config=body, decoder_config=decoder, fpn_feature_size=32,
        mask_feature_size=16, num_labels=3,
    )  # fmt: skip


def _oneformer(backbone: Any) -> nn.Module:
    return build(
        "OneFormerForUniversalSegmentation", "OneFormer", MASKS,
        lambda net, x: net(x, torch.ones((x.shape[0], 77), dtype=torch.float64)), backbone_config=backbone(),
    )  # fmt: skip


def _upernet(backbone: Any) -> nn.Module:
    return build(
        "UperNetForSemanticSegmentation", "UperNet", {}, backbone_config=backbone(), hidden_size=16, num_labels=5, **HEAD,
        auxiliary_in_channels=backbone().hidden_sizes[2] if hasattr(backbone(), "hidden_sizes") else 32,
    )  # fmt: skip


def _depth(network: str, name: str, backbone: str = "Dinov2", **own: Any) -> nn.Module:
    body = narrow_vit(backbone, reshape_hidden_states=False)
    return build(network, name, {"patch_size": 8}, backbone_config=body, **LEVELS | own)


def _prompted() -> nn.Module:
    return build(
        "PromptDepthAnythingForDepthEstimation", "PromptDepthAnything", {"patch_size": 8},
        lambda net, x: net(x, prompt_depth=x[:, :1, ::8, ::8]),
        backbone_config=narrow_vit(reshape_hidden_states=False), reassemble_hidden_size=32, **LEVELS,
    )  # fmt: skip


def _vitpose(simple: bool) -> nn.Module:
    body = narrow_vit("VitPoseBackbone", ("stage4",), image_size=[64, 48], patch_size=[8, 8], part_features=8)
    return build(
        "VitPoseForPoseEstimation",
        "VitPose",
        {"num_labels": 3},
        backbone_config=body,
        use_simple_decoder=simple,
    )


def _sam() -> nn.Module:
    """Return the image encoder of the Segment Anything Model."""
    made = config(
        "SamVision",
        PLAIN,
        output_channels=16,
        window_size=4,
        global_attn_indexes=[1],
        mlp_dim=48,
        num_pos_feats=8,
    )
    model: nn.Module = package.SamVisionModel(made)
    return model


NETWORKS = {
    "beit": plain(
        "BeitForSemanticSegmentation", "Beit", num_hidden_layers=4, out_indices=[1, 2, 3, 4], add_fpn=True, **HEAD
    ),
    "data2vec": plain("Data2VecVisionForSemanticSegmentation", "Data2VecVision", num_hidden_layers=4, out_indices=[0, 1, 2, 3], **HEAD),
    "depth_anything": Entry(
        partial(_depth, "DepthAnythingForDepthEstimation", "DepthAnything", reassemble_hidden_size=32, head_hidden_size=8)
    ),
    "depth_anything_metric": Entry(
        partial(
            _depth, "DepthAnythingForDepthEstimation", "DepthAnything", reassemble_hidden_size=32, head_hidden_size=8,
            depth_estimation_type="metric", max_depth=10,
        )
    ),
    "prompt_depth_anything": Entry(_prompted),
    "dpt_depth": plain(
        "DPTForDepthEstimation", "DPT", num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3], **LEVELS
    ),
    "dpt_segmentation": plain(
        "DPTForSemanticSegmentation", "DPT", num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3],
        use_batch_norm_in_fusion_residual=True, **LEVELS,
    ),
    "dpt_dinov2": Entry(partial(_depth, "DPTForDepthEstimation", "DPT")),
    "eomt": plain(
        "EomtForUniversalSegmentation", "Eomt", num_hidden_layers=3, num_blocks=1, num_queries=5, num_upscale_blocks=1,
        num_register_tokens=2,
    ),
    "eomt_dinov3": plain(
        "EomtDinov3ForUniversalSegmentation", "EomtDinov3", num_hidden_layers=3, num_blocks=1, num_queries=5, num_upscale_blocks=1,
        num_register_tokens=2,
    ),
    "glpn": staged("GLPNForDepthEstimation", "GLPN"),
    "mask2former_resnet": Entry(
        partial(
            _masks, "Mask2FormerForUniversalSegmentation", "Mask2Former", partial(narrow_resnet, features=FOUR)
        ),
        (2, 3, 64, 64),
    ),
    "mask2former_swin": Entry(
        partial(_masks, "Mask2FormerForUniversalSegmentation", "Mask2Former", narrow_swin), (2, 3, 64, 64)
    ),
    "maskformer_resnet": Entry(partial(_maskformer, partial(narrow_resnet, features=FOUR)), (2, 3, 64, 64)),
    "maskformer_swin": Entry(partial(_maskformer, partial(narrow_swin, "MaskFormerSwin")), (2, 3, 64, 64)),
    "oneformer_resnet": Entry(partial(_oneformer, partial(narrow_resnet, features=FOUR)), (2, 3, 64, 64)),
    "oneformer_swin": Entry(partial(_oneformer, narrow_swin), (2, 3, 64, 64)),
    "mobilenet_v2": plain("MobileNetV2ForSemanticSegmentation", "MobileNetV2", depth_multiplier=0.35),
    "mobilevit": plain(
        "MobileViTForSemanticSegmentation", "MobileViT", hidden_sizes=[12, 16, 20], neck_hidden_sizes=[4, 8, 8, 12, 16, 20, 32],
        patch_size=2, aspp_out_channels=16,
    ),
    "mobilevitv2": plain(
        "MobileViTV2ForSemanticSegmentation", "MobileViTV2", patch_size=2, width_multiplier=0.25, base_attn_unit_dims=[32, 32, 64],
        n_attn_blocks=[1, 1, 1], aspp_out_channels=16,
    ),
    "sam_encoder": Entry(_sam),
    "segformer": staged("SegformerForSemanticSegmentation", "Segformer"),
    "swin2sr": staged(
        "Swin2SRForImageSuperResolution", "Swin2SR", (2, 3, 16, 16), image_size=16, embed_dim=12, depths=[1, 1], num_heads=[2, 2],
        window_size=4,
    ),
    "swin2sr_direct": staged(
        "Swin2SRForImageSuperResolution", "Swin2SR", (2, 3, 16, 16), image_size=16, embed_dim=12, depths=[1, 1], num_heads=[2, 2],
        window_size=4, upsampler="pixelshuffledirect",
    ),
    "upernet_convnext": Entry(partial(_upernet, partial(config, "ConvNext", STAGED, out_features=list(FOUR)))),
    "upernet_swin": Entry(partial(_upernet, narrow_swin)),
    "vitpose": Entry(partial(_vitpose, False), (2, 3, 64, 48)),
    "vitpose_simple": Entry(partial(_vitpose, True), (2, 3, 64, 48)),
    "zoedepth": Entry(
        partial(
            _depth, "ZoeDepthForDepthEstimation", "ZoeDepth", bottleneck_features=8, num_attractors=[4, 2, 2, 1], bin_embedding_dim=8,
            num_relative_features=4, bin_configurations=[{"name": "nyu", "n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
        )
    ),
    "tipsv2_depth": Entry(
        partial(_depth, "Tipsv2DptForDepthEstimation", "Tipsv2Dpt", "Tipsv2Vision", num_depth_bins=8)
    ),
}  # fmt: skip
__getattr__ = attributes(NETWORKS)

"""Detectors of transformers.

Left out are those that do not run on one worker as they are built here: DAB-DETR (float32 inside) and RT-DETR with learned queries.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from sweep.third_party.entry import Entry, attributes
from sweep.third_party.transformers_building import (
    QUERIES,
    build,
    narrow_resnet,
    narrow_vit,
    plain,
    querying,
)

WIDTHS = [16, 24, 32]
"""Channels of the last three stages of a narrow backbone."""
HYBRID = {
    "encoder_hidden_dim": 32, "encoder_in_channels": WIDTHS, "decoder_in_channels": [32, 32, 32], "num_denoising": 0,
    "hidden_expansion": 0.5, "decoder_n_points": 2, "freeze_backbone_batch_norms": False,
}  # fmt: skip
"""Of detectors in the manner of RT-DETR."""


def _hybrid(network: str, name: str, **own: Any) -> Entry:
    return querying(
        network, name, **HYBRID | {"backbone_config": partial(narrow_resnet, "RTDetrResNet")} | own
    )


def _light(network: str, name: str, backbone: str, **own: Any) -> nn.Module:
    """Build a detector in the manner of LW-DETR, on windows of a plain transformer."""
    windows = {"LwDetrViT": {"window_block_indices": [0, 2], "num_windows": 4, "pretrain_image_size": 64}}
    body = narrow_vit(backbone, ("stage2", "stage4"), **windows.get(backbone, {"num_windows": 2}))
    return build(
        network, name, QUERIES, backbone_config=body, decoder_self_attention_heads=4, decoder_cross_attention_heads=4,
        decoder_n_points=2, group_detr=2, **{"c2f_num_blocks": 1} | own,
    )  # fmt: skip


NETWORKS = {
    "conditional_detr": querying("ConditionalDetrForObjectDetection", "ConditionalDetr", backbone_config=narrow_resnet),
    "deformable_detr": querying("DeformableDetrForObjectDetection", "DeformableDetr", backbone_config=narrow_resnet),
    "deformable_detr_two_stage": querying(
        "DeformableDetrForObjectDetection", "DeformableDetr", backbone_config=narrow_resnet, two_stage=True, with_box_refine=True,
    ),
    "detr": querying("DetrForObjectDetection", "Detr", backbone_config=narrow_resnet),
    "detr_learned_positions": querying("DetrModel", "Detr", backbone_config=narrow_resnet, position_embedding_type="learned"),
    "detr_segmentation": querying(
        "DetrForSegmentation", "Detr",
        backbone_config=partial(narrow_resnet, features=("stage1", "stage2", "stage3", "stage4")), num_queries=3,
        encoder_attention_heads=8, decoder_attention_heads=8,
    ),
    "table_transformer": querying("TableTransformerForObjectDetection", "TableTransformer", backbone_config=narrow_resnet),
    "rt_detr": _hybrid("RTDetrForObjectDetection", "RTDetr"),
    "rt_detr_v2": _hybrid("RTDetrV2ForObjectDetection", "RTDetrV2"),
    "rt_detr_v2_discrete": _hybrid("RTDetrV2ForObjectDetection", "RTDetrV2", decoder_method="discrete"),
    "d_fine": _hybrid("DFineForObjectDetection", "DFine", max_num_bins=8, lqe_hidden_dim=8),
    "deimv2": _hybrid("Deimv2ForObjectDetection", "Deimv2", max_num_bins=8, lqe_hidden_dim=8),
    "pp_doclayout_v3": _hybrid(
        "PPDocLayoutV3ForObjectDetection", "PPDocLayoutV3", mask_feature_channels=[8, 8], x4_feat_dim=8, num_prototypes=4,
        backbone_config=partial(narrow_resnet, "RTDetrResNet", ("stage1", "stage2", "stage3", "stage4")), global_pointer_head_size=8,
    ),
    "lw_detr": Entry(
        partial(_light, "LwDetrForObjectDetection", "LwDetr", "LwDetrViT", projector_scale_factors=[1.0]), (2, 3, 64, 64)
    ),
    "lw_detr_two_levels": Entry(
        partial(_light, "LwDetrForObjectDetection", "LwDetr", "LwDetrViT", projector_scale_factors=[2.0, 0.5]), (2, 3, 64, 64)
    ),
    "rf_detr": Entry(partial(_light, "RfDetrForObjectDetection", "RfDetr", "RfDetrDinov2", num_feature_levels=1), (2, 3, 64, 64)),
    "rf_detr_segmentation": Entry(
        partial(_light, "RfDetrForInstanceSegmentation", "RfDetr", "RfDetrDinov2", num_feature_levels=1), (2, 3, 64, 64)
    ),
    "yolos": plain("YolosForObjectDetection", "Yolos", image_size=[64, 64], num_detection_tokens=5),
    "yolos_plain": plain(
        "YolosForObjectDetection", "Yolos", image_size=[64, 64], num_detection_tokens=5, use_mid_position_embeddings=False
    ),
    "superpoint": plain(
        "SuperPointForKeypointDetection", "SuperPoint", encoder_hidden_sizes=[8, 8, 8, 8], decoder_hidden_size=8,
        descriptor_decoder_dim=8,
    ),
}  # fmt: skip
__getattr__ = attributes(NETWORKS)

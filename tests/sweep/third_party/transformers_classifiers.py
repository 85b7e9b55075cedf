"""Classifiers, backbones and encoders of transformers."""

from __future__ import annotations

from sweep.third_party.entry import attributes
from sweep.third_party.transformers_building import plain, staged

VIDEO = (2, 4, 3, 32, 32)  # images, frames, channels, rows, columns

NETWORKS = {
    "aimv2": plain("Aimv2VisionModel", "Aimv2Vision"),
    "aimv2_native": plain("Aimv2VisionModel", "Aimv2Vision", is_native=True),
    "beit": plain("BeitForImageClassification", "Beit"),
    "beit_relative": plain("BeitForImageClassification", "Beit", use_relative_position_bias=True),
    "beit_absolute": plain("BeitModel", "Beit", use_absolute_position_embeddings=True, use_shared_relative_position_bias=True),
    "bit": staged("BitForImageClassification", "Bit", num_groups=2),
    "bit_bottleneck": staged("BitBackbone", "Bit", num_groups=2, layer_type="bottleneck", out_features=["stage2", "stage4"]),
    "clip": plain("CLIPVisionModel", "CLIPVision"),
    "clip_projection": plain("CLIPVisionModelWithProjection", "CLIPVision", projection_dim=12),
    "convnext": staged("ConvNextForImageClassification", "ConvNext", drop_path_rate=0.1),
    "convnext_backbone": staged("ConvNextBackbone", "ConvNext", out_features=["stage1", "stage4"]),
    "convnextv2": staged("ConvNextV2ForImageClassification", "ConvNextV2"),
    "cvt": staged(
        "CvtForImageClassification", "Cvt", embed_dim=[8, 16, 24], num_heads=[1, 2, 3], depth=[1, 2, 3],
    ),
    "data2vec": plain("Data2VecVisionForImageClassification", "Data2VecVision", use_relative_position_bias=True),
    "deit": plain("DeiTForImageClassification", "DeiT"),
    "deit_teacher": plain("DeiTForImageClassificationWithTeacher", "DeiT"),
    "deit_masked": plain("DeiTForMaskedImageModeling", "DeiT"),
    "dinov2": plain("Dinov2ForImageClassification", "Dinov2"),
    "dinov2_swiglu": plain("Dinov2Model", "Dinov2", use_swiglu_ffn=True, drop_path_rate=0.1),
    "dinov2_backbone": plain("Dinov2Backbone", "Dinov2", out_features=["stage1", "stage2"]),
    "dinov2_registers": plain("Dinov2WithRegistersForImageClassification", "Dinov2WithRegisters"),
    "dinov2_registers_backbone": plain("Dinov2WithRegistersBackbone", "Dinov2WithRegisters", out_features=["stage1", "stage2"]),
    "dinov3_vit": plain("DINOv3ViTModel", "DINOv3ViT", num_register_tokens=2),
    "dinov3_vit_gated": plain("DINOv3ViTModel", "DINOv3ViT", use_gated_mlp=True, pos_embed_rescale=None),
    "dinov3_vit_backbone": plain("DINOv3ViTBackbone", "DINOv3ViT", out_features=["stage1", "stage2"], pos_embed_rescale=None),
    "dinov3_convnext": staged("DINOv3ConvNextModel", "DINOv3ConvNext"),
    "dinov3_convnext_backbone": staged("DINOv3ConvNextBackbone", "DINOv3ConvNext", out_features=["stage2", "stage4"]),
    "donut_swin": staged("DonutSwinForImageClassification", "DonutSwin"),
    "efficientnet": plain(
        "EfficientNetForImageClassification", "EfficientNet", width_coefficient=0.5, depth_coefficient=0.5, hidden_dim=640,
    ),
    "focalnet": staged("FocalNetForImageClassification", "FocalNet"),
    "focalnet_conv": staged("FocalNetBackbone", "FocalNet", use_conv_embed=True, out_features=["stage1", "stage4"]),
    "focalnet_masked": staged("FocalNetForMaskedImageModeling", "FocalNet"),
    "hgnet_v2": staged(
        "HGNetV2ForImageClassification", "HGNetV2", stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 16, 24],
        stage_mid_channels=[4, 8, 8, 8], stage_out_channels=[8, 16, 24, 32], stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
    ),
    "hiera": staged(
        "HieraForImageClassification", "Hiera", image_size=[64, 64], masked_unit_size=[8, 8], num_heads=[1, 2, 4, 8],
    ),
    "hiera_backbone": staged(
        "HieraBackbone", "Hiera", image_size=[64, 64], num_heads=[1, 2, 4, 8], out_features=["stage1", "stage4"],
    ),
    "ijepa": plain("IJepaForImageClassification", "IJepa"),
    "levit": staged(
        "LevitForImageClassification", "Levit", hidden_sizes=[16, 24, 32], num_attention_heads=[2, 2, 2], depths=[1, 1, 1],
        key_dim=[4, 4, 4],
    ),
    "mlcd": plain("MLCDVisionModel", "MLCDVision"),
    "mobilenet_v1": plain("MobileNetV1ForImageClassification", "MobileNetV1", depth_multiplier=0.25),
    "mobilenet_v2": plain("MobileNetV2ForImageClassification", "MobileNetV2", depth_multiplier=0.35),
    "mobilevit": plain(
        "MobileViTForImageClassification", "MobileViT", hidden_sizes=[12, 16, 20], neck_hidden_sizes=[4, 8, 8, 12, 16, 20, 32],
        patch_size=2,
    ),
    "mobilevitv2": plain(
        "MobileViTV2ForImageClassification", "MobileViTV2", patch_size=2, width_multiplier=0.25, base_attn_unit_dims=[32, 32, 64],
        n_attn_blocks=[1, 1, 1],
    ),
    "pixio": plain("PixioModel", "Pixio", n_cls_tokens=2),
    "pixio_backbone": plain("PixioBackbone", "Pixio", n_cls_tokens=2, out_features=["stage1", "stage2"]),
    "poolformer": staged("PoolFormerForImageClassification", "PoolFormer"),
    "pp_lcnet": staged("PPLCNetForImageClassification", "PPLCNet", scale=0.25, class_expand=32, depths=[1, 2, 2, 6, 2]),
    "pp_lcnet_v3": staged("PPLCNetV3Backbone", "PPLCNetV3", scale=0.25, depths=[1, 2, 2, 5, 4], out_features=["stage2", "stage5"]),
    "pvt": staged("PvtForImageClassification", "Pvt", mlp_ratios=[2, 2, 2, 2]),
    "pvt_v2": staged("PvtV2ForImageClassification", "PvtV2", mlp_ratios=[2, 2, 2, 2]),
    "pvt_v2_linear": staged("PvtV2Backbone", "PvtV2", linear_attention=True, out_features=["stage1", "stage3"]),
    "regnet_x": staged("RegNetForImageClassification", "RegNet", layer_type="x", groups_width=4),
    "regnet_y": staged("RegNetForImageClassification", "RegNet", layer_type="y", groups_width=4),
    "resnet": staged("ResNetForImageClassification", "ResNet", layer_type="basic"),
    "resnet_bottleneck": staged("ResNetBackbone", "ResNet", out_features=["stage1", "stage4"], downsample_in_bottleneck=True),
    "rt_detr_resnet": staged("RTDetrResNetBackbone", "RTDetrResNet", out_features=["stage2", "stage4"]),
    "segformer": staged("SegformerForImageClassification", "Segformer"),
    "siglip": plain("SiglipVisionModel", "SiglipVision"),
    "siglip_no_head": plain("SiglipVisionModel", "SiglipVision", vision_use_head=False),
    "swiftformer": staged("SwiftFormerForImageClassification", "SwiftFormer", embed_dims=[8, 16, 24, 32]),
    "swin": staged("SwinForImageClassification", "Swin"),
    "swin_absolute": staged("SwinBackbone", "Swin", use_absolute_embeddings=True, out_features=["stage1", "stage4"]),
    "swin_masked": staged("SwinForMaskedImageModeling", "Swin"),
    "swinv2": staged("Swinv2ForImageClassification", "Swinv2"),
    "swinv2_backbone": staged("Swinv2Backbone", "Swinv2", out_features=["stage1", "stage4"]),
    "swinv2_masked": staged("Swinv2ForMaskedImageModeling", "Swinv2"),
    "maskformer_swin": staged("MaskFormerSwinBackbone", "MaskFormerSwin", out_features=["stage1", "stage4"]),
    "textnet": plain(
        "TextNetForImageClassification", "TextNet", stem_out_channels=8, hidden_sizes=[8, 8, 16, 24, 32], image_size=[64, 64],
        conv_layer_kernel_sizes=[[[3, 3]], [[3, 3], [1, 3]], [[3, 1]], [[3, 3]]],
        conv_layer_strides=[[1], [2, 1], [2], [2]], depths=[1, 2, 1, 1],
    ),
    "tipsv2": plain("Tipsv2VisionModel", "Tipsv2Vision"),
    "timesformer": plain("TimesformerForVideoClassification", "Timesformer", VIDEO, image_size=32, num_frames=4),
    "videomae": plain("VideoMAEForVideoClassification", "VideoMAE", VIDEO, image_size=32, num_frames=4),
    "vivit": plain(
        "VivitForVideoClassification", "Vivit", VIDEO, image_size=32, num_frames=4, tubelet_size=[2, 8, 8],
    ),
    "vjepa2": plain(
        "VJEPA2ForVideoClassification", "VJEPA2", VIDEO, crop_size=32, frames_per_clip=4, pred_hidden_size=24,
        pred_num_attention_heads=2, pred_num_hidden_layers=1, num_pooler_layers=1,
    ),
    "vit": plain("ViTForImageClassification", "ViT"),
    "vit_masked": plain("ViTForMaskedImageModeling", "ViT"),
    "vit_mae": plain(
        "ViTMAEForPreTraining", "ViTMAE", decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1,
        decoder_intermediate_size=32,
    ),
    "vit_msn": plain("ViTMSNForImageClassification", "ViTMSN"),
    "vitdet": plain(
        "VitDetBackbone", "VitDet", pretrain_image_size=64, window_size=4, window_block_indices=[0], residual_block_indices=[1],
        use_relative_position_embeddings=True, out_features=["stage1", "stage2"],
    ),
    "vitpose_backbone": plain(
        "VitPoseBackbone", "VitPoseBackbone", (2, 3, 64, 48), image_size=[64, 48], patch_size=[8, 8], part_features=8,
        out_features=["stage2"],
    ),
}  # fmt: skip
__getattr__ = attributes(NETWORKS)

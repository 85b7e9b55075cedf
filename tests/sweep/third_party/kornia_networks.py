"""kornia's networks: https://github.com/kornia/kornia."""

from __future__ import annotations

from typing import Any

from torch import nn

from sweep.third_party.entry import Entry, Package, attributes

features = Package("kornia.feature")
models = Package("kornia.models")
efficient_vit = Package("kornia.models.efficient_vit.backbone")
detection = Package("kornia.models.rt_detr.architecture")
PATCHES = (4, 1, 32, 32)


def _rt_detr(backbone: Any) -> nn.Module:
    """Return an RT-DETR without what decodes its answers."""
    encoder = detection.hybrid_encoder.HybridEncoder([128, 256, 512], 32, 32, 0.5)
    head = detection.rtdetr_head.RTDETRHead(
        5, 32, 7, [32, 32, 32], 2, num_heads=4, num_decoder_points=2, num_denoising=0
    )
    network = Package("kornia.models.rt_detr.model")
    built: nn.Module = network.RTDETR(backbone, encoder, head)
    return built


NETWORKS = {
    "dexined": Entry(lambda: Package("kornia.models.dexined").DexiNed(pretrained=False), (1, 3, 64, 64)),
    "efficientvit_b0": Entry(lambda: efficient_vit.efficientvit_backbone_b0(), (3, 3, 64, 64)),
    "efficientvit_b1": Entry(lambda: efficient_vit.efficientvit_backbone_b1(), (3, 3, 64, 64)),
    "efficientvit_l0": Entry(lambda: efficient_vit.efficientvit_backbone_l0(), (2, 3, 64, 64)),
    "hardnet": Entry(lambda: features.HardNet(pretrained=False), PATCHES),
    "hardnet8": Entry(lambda: features.HardNet8(pretrained=False), PATCHES),
    "hynet": Entry(lambda: features.HyNet(pretrained=False), PATCHES),
    "sosnet": Entry(lambda: features.SOSNet(pretrained=False), PATCHES),
    "tfeat": Entry(lambda: features.TFeat(pretrained=False), PATCHES),
    "keynet": Entry(lambda: features.KeyNet(pretrained=False), (2, 1, 64, 64)),
    "disk": Entry(lambda: features.DISK(desc_dim=8).unet, (1, 3, 64, 64)),
    "mobile_vit": Entry(lambda: Package("kornia.models.vit_mobile").MobileViT("xxs"), (2, 3, 64, 64)),
    "rrdbnet": Entry(
        lambda: Package("kornia.models.rrdbnet").RRDBNet(
            3, 3, scale=4, num_feat=8, num_block=2, num_grow_ch=4
        ),
        (2, 3, 16, 16),
    ),
    "small_sr": Entry(
        lambda: Package("kornia.models.small_sr").SmallSRNet(2, pretrained=False), (2, 1, 32, 32)
    ),
    "rt_detr_resnet18": Entry(lambda: _rt_detr(detection.resnet_d.ResNetD.from_config(18)), (2, 3, 64, 64)),
    "sam_encoder": Entry(
        lambda: Package("kornia.models.sam.architecture.image_encoder").ImageEncoderViT(
            64,
            patch_size=8,
            embed_dim=24,
            depth=2,
            num_heads=2,
            out_chans=8,
            use_rel_pos=True,
            window_size=3,
            global_attn_indexes=(1,),
        ),
        (2, 3, 64, 64),
    ),
    "tiny_vit": Entry(
        lambda: Package("kornia.models.tiny_vit").TinyViT(
            64,
            num_classes=5,
            embed_dims=(8, 16, 24, 32),
            depths=(1, 1, 1, 1),
            num_heads=(1, 2, 2, 2),
            window_sizes=(4, 4, 4, 2),
        ),
        (3, 3, 64, 64),
    ),
    "vit": Entry(
        lambda: Package("kornia.models.vit").VisionTransformer(64, 16, embed_dim=24, depth=2, num_heads=2),
        (3, 3, 64, 64),
    ),
    "xfeat": Entry(lambda: Package("kornia.feature.xfeat").XFeatModel(), (2, 1, 64, 64)),
    "yunet": Entry(
        lambda: Package("kornia.models.yunet.model").YuNet("train", pretrained=False), (2, 3, 64, 64)
    ),
}
__getattr__ = attributes(NETWORKS)

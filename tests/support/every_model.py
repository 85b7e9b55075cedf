"""Every model of ours, built small, and the smallest network of each family of timm's backbones."""

import warnings

import torch

from ziggurat.config import ModelConfig, PnnConfig
from ziggurat.models.build import HEADS, NECKS, build_model
from ziggurat.models.listed import BACKBONES
from ziggurat.models.segmenter import DECODERS

CLASSES = 5
TINY = {"levels": "p3-p5", "channels": 16, "head_depth": 1, "pnn": PnnConfig(channels=4, hidden=8, depth=1)}
DETECTORS = [f"{head}-test_resnet-{neck}" for head in HEADS for neck in NECKS] + [
    f"{head}-pnn" for head in HEADS
]
CLASSIFIERS = [
    "pnn", "spp-test_resnet", "pyramidnet-20-12", "pyramidnet-29-18-bottleneck", "pyramidnet-20-12-multiplicative",
    "timm:test_resnet", "timm:mobilenetv3_small_050", "timm:convnext_atto", "timm:pvt_v2_b0", "timm:hrnet_w18_small",
]  # fmt: skip
# manet's gates have a sixteenth of the channels: of the smallest network none that is alive
ENCODERS = dict.fromkeys(DECODERS, "tu-test_resnet") | {
    "dpt": "vit_tiny_patch16_224",
    "manet": "tu-resnet10t",
}
SEGMENTERS = [f"smp:{decoder}/{encoder}" for decoder, encoder in ENCODERS.items()]
OURS = DETECTORS + CLASSIFIERS + SEGMENTERS
TIMM = [
    "resnet18", "resnet10t", "legacy_seresnet18", "resnext26ts", "regnetx_002", "regnety_002",
    "efficientnet_b0", "tf_efficientnet_lite0", "mobilenetv2_035", "mobilenetv3_small_050", "mobilenetv4_conv_small_035",
    "convnext_atto", "convnextv2_atto", "pvt_v2_b0", "swin_tiny_patch4_window7_224", "hrnet_w18_small", "densenet121",
    "dla34", "rexnet_100", "ghostnet_050", "edgenext_xx_small", "mobilevit_xxs", "mobilevitv2_050", "efficientnetv2_rw_t",
    "fastvit_t8", "poolformer_s12", "mnasnet_small", "res2net50_14w_8s", "resnest14d", "skresnet18", "cspresnet50",
    "cspdarknet53", "darknet17", "dpn48b", "hardcorenas_a", "focalnet_tiny_srf", "nextvit_small", "mobileone_s0",
    "repvgg_a0", "hgnetv2_b0", "lcnet_035", "tinynet_e", "fbnetc_100", "gernet_s", "ese_vovnet19b_dw", "selecsls42",
    "xception41", "inception_next_atto", "semnasnet_050", "repghostnet_050",
]  # fmt: skip

FEW = [
    "fcos-test_resnet-bifpn",
    "retinanet-pnn",
    "atss-test_resnet-pafpn",
    "timm:convnext_atto",
    "timm:pvt_v2_b0",
]
FEW += [f"smp:{decoder}/{ENCODERS[decoder]}" for decoder in ("fpn", "pspnet", "manet", "deeplabv3plus")]
LISTED = [f"fcos-{backbone}-fpn" for backbone in BACKBONES]
REST = [name for name in DETECTORS + CLASSIFIERS + SEGMENTERS if name not in FEW]


def tiny(name: str) -> ModelConfig:
    return ModelConfig(name=name, **TINY)


def build(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party advice at construction
        return build_model(tiny(name), CLASSES)


def leaves(outputs) -> list[torch.Tensor]:
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [leaf for value in outputs.values() for leaf in leaves(value)]


def side_of(model) -> int:
    return max(64, model.size_multiple)

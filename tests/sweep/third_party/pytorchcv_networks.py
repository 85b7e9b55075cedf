"""pytorchcv's networks, the smallest of each family: https://github.com/osmr/pytorchcv."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from sweep.third_party.entry import Entry, Package, attributes

provider = Package("pytorchcv.model_provider")

# they pool 7 x 7 at their end: they take images of 224 x 224 only
IMAGENET = """
channelnet condensenet74_c8_g8 darknet_tiny darknet_ref darts diapreresnet10 diaresnet10 dicenet_wd5 dla46c dla46xc
efficientnet_b0 efficientnet_b0b efficientnet_edge_small_b espnetv2_wd2 fbnet_cb fdmobilenet_wd4 ghostnet hardnet39ds
igcv3_wd4 menet108_8x1_g3 mixnet_s mnasnet_small mnasnet_a1 mobilenet_wd4 mobilenetb_wd4 mobilenetv2_wd4
mobilenetv2b_wd4 mobilenetv3_small_w7d20 mobilenetv3_large_w7d20 octresnet10_ad2 peleenet preresnet10 preresnet18_wd4
proxylessnas_cpu regnetx002 regnety002 resnet10 resnet18_wd4 resnext14_16x4d revnet38 sepreresnet10 seresnet10
shufflenet_g1_wd4 shufflenet_g3_wd4 shufflenetv2_wd2 shufflenetv2b_wd2 spnasnet sqnxt23_w1 sqnxt23v5_w1
squeezenet_v1_0 squeezenet_v1_1 squeezeresnet_v1_1 vovnet27s
"""
SLOW = """
airnet50_1x64d_r16 airnext50_32x4d_r2 ibn_resnet50 ibnb_resnet50 ibn_resnext50_32x4d scnet50 scneta50 sknet50
seresnext50_32x4d resnetd50b densenet121 ibn_densenet121 sparsenet121 fishnet99 msdnet22 diracnet18v2 senet16
selecsls42 nasnet_4a1056 sharesnet18 resnesta18 resnestabc14 drnd22 bam_resnet18 cbam_resnet18 bagnet9 dpn68
hrnet_w18_small_v1 bninception resnetabc14b resneta10
"""
CIFAR = """
densenet40_k12_bc diapreresnet20 diaresnet20 msdnet22 nin preresnet20 pyramidnet110_a48 resdropresnet20 resnet20
resnext20_16x4d rir ror3_56 sepreresnet20 seresnet20 shakedropresnet20 shakeshakeresnet20_2x16d xdensenet40_2_k24_bc
"""
CITYSCAPES = """
cgnet ctxnet dabnet danet_resnetd50b edanet enet erfnet esnet espcnet fastscnn fpenet icnet_resnetd50b lednet linknet segnet
sinet sqnet unet deeplabv3_resnetd50b fcn8sd_resnetd50b pspnet_resnetd50b
"""
SIDES = {"danet_resnetd50b": 96, "icnet_resnetd50b": 96, "deeplabv3_resnetd50b": 96, "pspnet_resnetd50b": 96}
SIZED = {
    "bisenet_resnet18_celebamaskhq": (128, 128),
    "centernet_resnet18_voc": (96, 96),
    "lwopenpose2d_mobilenet_cmupan_coco": (96, 96),
    "lwopenpose3d_mobilenet_cmupan_coco": (96, 96),
    "simplepose_mobile_mobilenetv3_small_w1_coco": (96, 64),
    "simplepose_mobile_mobilenetv2b_w1_coco": (96, 64),
    "simplepose_resnet18_coco": (96, 64),
}


def _build(name: str, **named: Any) -> nn.Module:
    network: nn.Module = provider.get_model(name, pretrained=False, **named)
    return network


def _networks() -> dict[str, Entry]:
    """Return the table, the slowest last."""
    found = {
        f"{name}_cifar10": Entry(partial(_build, f"{name}_cifar10"), (3, 3, 32, 32)) for name in CIFAR.split()
    }
    for name, size in SIZED.items():
        found[name] = Entry(partial(_build, name, in_size=size), (3, 3, *size))
    for name in CITYSCAPES.split():
        side = SIDES.get(name, 128)
        full = f"{name}_cityscapes"
        found[full] = Entry(partial(_build, full, in_size=(side, side)), (3, 3, side, side))
    large = [*IMAGENET.split(), *SLOW.split()]
    return found | {name: Entry(partial(_build, name), (2, 3, 224, 224)) for name in large}


NETWORKS = _networks() | {
    "lffd20x5s320v2_widerface": Entry(partial(_build, "lffd20x5s320v2_widerface"), (2, 3, 128, 128)),
    "xception": Entry(partial(_build, "xception"), (2, 3, 299, 299)),
}
__getattr__ = attributes(NETWORKS)

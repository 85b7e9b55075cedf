"""The networks of the sweep, by family."""

from __future__ import annotations

from ziggurat.models.segmenter import DECODERS

OURS = """
fcos-resnet18-fpn fcos-resnet18-pafpn fcos-resnet18-bifpn retinanet-resnet18-fpn retinanet-resnet18-pafpn
retinanet-resnet18-bifpn atss-resnet18-fpn atss-resnet18-pafpn atss-resnet18-bifpn fcos-resnet50-fpn
fcos-tf_efficientnet_lite0-fpn atss-mobilenetv3_large_100-pafpn retinanet-regnety_016-bifpn fcos-hrnet_w18-fpn
fcos-pvt_v2_b0-fpn atss-convnext_tiny-fpn fcos-swin_tiny_patch4_window7_224-fpn fcos-pnn retinanet-pnn atss-pnn pnn
pyramidnet-110-48 pyramidnet-164-270-bottleneck pyramidnet-110-48-multiplicative spp-resnet18 spp-resnet50
spp-tf_efficientnet_lite0 spp-convnext_tiny spp-pvt_v2_b0
"""

TIMM = {
    "resnet": """resnet10t resnet18 resnet18d resnet26t resnet34 resnet50 resnet50_gn resnetaa34d
        resnetaa50 resnetblur18 seresnet18 seresnet50 ecaresnet26t ecaresnetlight
        resnext50_32x4d seresnext26t_32x4d ecaresnext26t_32x4d wide_resnet50_2""",
    "senet": "legacy_seresnet18 legacy_seresnext26_32x4d",
    "resnetv2, bit": "resnetv2_18 resnetv2_50 resnetv2_50d_gn resnetv2_50d_evos resnetv2_50x1_bit",
    "regnet": "regnetx_002 regnetx_008 regnety_002 regnety_008 regnetz_005",
    "efficientnet": """efficientnet_b0 efficientnet_b0_gn efficientnet_b1_pruned efficientnet_lite0 efficientnet_es
        efficientnet_cc_b0_4e efficientnet_blur_b0 tf_efficientnet_b0 tf_efficientnet_lite0 tf_efficientnet_es
        tf_efficientnet_cc_b0_4e mixnet_s tf_mixnet_s tinynet_e tinynet_a""",
    "efficientnetv2": "tf_efficientnetv2_b0 efficientnetv2_rw_t gc_efficientnetv2_rw_t",
    "mobilenet v1 to v5": """mobilenetv1_100 mobilenetv1_100h mobilenetv2_035 mobilenetv2_100 mobilenetv2_110d
        mobilenetv3_small_050 mobilenetv3_large_100 mobilenetv3_rw tf_mobilenetv3_small_minimal_100
        tf_mobilenetv3_large_100 mobilenetv4_conv_small_035 mobilenetv4_conv_aa_medium
        mobilenetv4_hybrid_medium_075 mobilenet_edgetpu_v2_xs""",
    "mnasnet, fbnet, hardcorenas, lcnet": """mnasnet_small mnasnet_100 semnasnet_050 spnasnet_100 fbnetc_100
        fbnetv3_b hardcorenas_a lcnet_035 lcnet_100 lcnetv2_small""",
    "ghostnet, repghost": "ghostnet_050 ghostnetv2_100 ghostnetv3_050 repghostnet_050",
    "convnext": "convnext_atto convnext_atto_ols convnext_atto_rms convnext_zepto_rms convnext_tiny_hnf convnextv2_atto",
    "densenet": "densenet121 densenetblur121d",
    "dla": "dla34 dla46_c dla46x_c dla60_res2net dla60_res2next",
    "dpn": "dpn48b dpn68 dpn68b",
    "hrnet": "hrnet_w18_small hrnet_w18_ssld",
    "inception": "inception_v3 inception_v4 inception_resnet_v2 inception_next_atto",
    "xception": "legacy_xception xception41 xception41p",
    "vgg": "vgg11 vgg11_bn",
    "vovnet": "ese_vovnet19b_slim_dw ese_vovnet19b_dw vovnet39a eca_vovnet39b ese_vovnet39b_evos",
    "repvgg, mobileone": "repvgg_a0 mobileone_s0",
    "res2net": "res2net50_14w_8s res2net50d res2next50",
    "resnest": "resnest14d",
    "sknet": "skresnet18 skresnext50_32x4d",
    "cspnet, darknet": """cspresnet50 cspresnext50 darknet17 sedarknet21
        cs3darknet_s cs3darknet_focus_s cs3sedarknet_xdw cspnext_tiny""",
    "nfnet": "nf_regnet_b0 nf_resnet26 nf_seresnet26 nfnet_l0 eca_nfnet_l0",
    "rexnet": "rexnet_100 rexnetr_100",
    "selecsls": "selecsls42",
    "tresnet": "tresnet_m tresnet_v2_l",
    "gernet, byobnet": """gernet_s regnetz_b16 regnetz_b16_evos resnet32ts resnet33ts seresnet33ts resnet51q
        resnext26ts gcresnet33ts gcresnext26ts eca_resnext26ts bat_resnext26ts resnet50_mlp resnet50_clip""",
    "byoanet": """botnet26t_256 sebotnet33ts_256 halonet26t haloregnetz_b eca_halonext26ts lambda_resnet26t
        lambda_resnet26rpt_256""",
    "nasnet, pnasnet": "nasnetalarge",
    "edgenext": "edgenext_xx_small edgenext_small_rw",
    "mobilevit": "mobilevit_xxs mobilevitv2_050",
    "fastvit": "fastvit_t8 fastvit_sa12 fastvit_mci0",
    "metaformer": "poolformer_s12 poolformerv2_s12 convformer_s18 caformer_s18",
    "pvt_v2": "pvt_v2_b0 pvt_v2_b2_li",
    "swin": "swin_tiny_patch4_window7_224 swin_s3_tiny_224",
    "swin v2": "swinv2_tiny_window8_256 swinv2_cr_tiny_ns_224",
    "twins": "twins_pcpvt_small twins_svt_small",
    "focalnet": "focalnet_tiny_srf focalnet_tiny_lrf",
    "nextvit": "nextvit_small",
    "efficientformer": "efficientformer_l1 efficientformerv2_s0",
    "efficientvit": "efficientvit_b0 efficientvit_l1 efficientvit_m0",
    "hgnet": "hgnet_tiny hgnetv2_b0",
    "maxvit, coatnet": """maxvit_pico_rw_256 maxvit_tiny_tf_224 maxxvit_rmlp_nano_rw_256 maxxvitv2_nano_rw_256
        coatnet_pico_rw_224 coatnet_rmlp_nano_rw_224 coatnext_nano_rw_224""",
    "mambaout": "mambaout_femto",
    "rdnet": "rdnet_tiny",
    "starnet": "starnet_s050 starnet_s1",
    "shvit": "shvit_s1",
    "repvit": "repvit_m0_9 repvit_m1",
    "tiny_vit": "tiny_vit_5m_224",
    "levit": "levit_128s levit_conv_128s",
    "visformer": "visformer_tiny",
    "convmixer": "convmixer_768_32",
    "fasternet": "fasternet_t0",
    "swiftformer": "swiftformer_xs",
    "cpubone, lowformer": "cpubone_nano lowformer_b0",
    "csatv2": "csatv2",
    "davit": "davit_tiny",
    "gcvit": "gcvit_xxtiny",
    "efficientvim": "efficientvim_m1",
    "iformer": "iformer_t",
    "mvitv2": "mvitv2_tiny",
    "hiera": "hiera_tiny_224",
    "nest": "nest_tiny",
    "coat": "coat_lite_tiny",
    "pit": "pit_ti_224",
    "sequencer": "sequencer2d_s",
    "vitamin": "vitamin_small_224",
    "vit": "vit_tiny_patch16_224",
}

ENCODERS = (
    "resnet18",
    "mobilenet_v2",
    "tf_efficientnet_lite0",
    "densenet121",
    "res2net50_14w_8s",
    "convnext_atto",
)
ENCODERS_OF = {
    # these replace strides by dilations, which ConvNeXt and DenseNet do not know
    "deeplabv3": ("resnet18", "mobilenet_v2", "tf_efficientnet_lite0", "regnety_002", "mobilenetv3_small_100", "resnest14d"),
    "deeplabv3plus": ("resnet18", "mobilenet_v2", "tf_efficientnet_lite0", "regnety_002", "mobilenetv3_small_100", "resnest14d"),
    "pan": ("resnet18", "mobilenet_v2", "tf_efficientnet_lite0", "regnety_002", "mobilenetv3_small_100", "resnest14d"),
    "linknet": ("resnet18", "mobilenet_v2", "tf_efficientnet_lite0", "densenet121", "res2net50_14w_8s", "hrnet_w18_small"),
    "unetplusplus": ("resnet18", "mobilenet_v2", "tf_efficientnet_lite0", "densenet121", "res2net50_14w_8s", "hrnet_w18_small"),
    # takes plain transformers only
    "dpt": (
        "vit_tiny_patch16_224", "vit_small_patch16_224", "deit_tiny_patch16_224", "deit3_small_patch16_224",
        "vit_tiny_r_s16_p8_224",
    ),
}  # fmt: skip

TORCHVISION = {
    "classifiers": """alexnet vgg11 vgg11_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121
        squeezenet1_0 squeezenet1_1 googlenet inception_v3 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large
        shufflenet_v2_x0_5 shufflenet_v2_x1_0 mnasnet0_5 mnasnet1_0 efficientnet_b0 efficientnet_v2_s regnet_x_400mf
        regnet_y_400mf convnext_tiny swin_t swin_v2_t maxvit_t vit_b_32""",
    "segmentation": """fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101
        deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large""",
    "backbones with FPN": """resnet18_fpn resnet34_fpn resnet50_fpn resnet101_fpn resnext50_32x4d_fpn
        wide_resnet50_2_fpn mobilenet_v2_fpn mobilenet_v3_large_fpn mobilenet_v3_small_fpn""",
    "dense detectors": """retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 fcos_resnet50_fpn fasterrcnn_resnet50_fpn
        fasterrcnn_resnet50_fpn_v2 fasterrcnn_mobilenet_v3_large_fpn fasterrcnn_mobilenet_v3_large_320_fpn
        maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn ssd300_vgg16 ssdlite320_mobilenet_v3_large""",
    "video": "r3d_18 mc3_18 r2plus1d_18 s3d",
}

SHORT = (
    "timm:test_resnet", "timm:mobilenetv3_small_050", "timm:test_convnext", "timm:regnety_002", "fcos-test_resnet-fpn", "pnn",
    "spp-test_resnet", "smp:unet/tu-test_resnet", "smp:pspnet/tu-test_resnet", "torchvision:resnet18_fpn",
)  # fmt: skip


def all_networks() -> list[tuple[str, str]]:
    """Return the family and the name of every network of the sweep."""
    rows = [("ours", name) for name in OURS.split()]
    for decoder in DECODERS:
        rows += [(f"smp {decoder}", f"smp:{decoder}/{e}") for e in ENCODERS_OF.get(decoder, ENCODERS)]
    for family, names in TORCHVISION.items():
        rows += [(f"torchvision {family}", f"torchvision:{name}") for name in names.split()]
    for family, names in TIMM.items():
        rows += [(f"timm {family}", f"timm:{name}") for name in names.split()]
    return rows


def of_each_axis() -> list[tuple[str, str]]:
    """Return the networks that are run under products of axes: ours, and each decoder of smp with its first encoder."""
    rows = [row for row in all_networks() if row[0] == "ours"]
    first = {family: name for family, name in reversed(all_networks()) if family.startswith("smp ")}
    return rows + sorted(first.items())

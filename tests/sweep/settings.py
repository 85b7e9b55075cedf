"""The settings of the table of bits: small runs of every task, under every plan and product, each in words of the commands.

Each takes seconds: scenes of 64 pixels, a network of some ten thousand weights, two to four steps. Where a plan measures
what it does (the cut of a pipeline), the setting gives the answer, so that two runs are comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

BASE = {
    "device": "cpu", "threads": 1, "dtype": "fp32", "data.crop": 64, "data.workers": 0, "data.flip": "both",
    "data.quarter_turns": "true", "data.color_jitter": 0.2, "model.levels": "p3-p5", "model.channels": 16,
    "model.head_depth": 1, "decode.max_detections": 5, "digits.size": 64, "digits.count_min": 1, "digits.count_max": 2,
    "digits.height_min": 12, "digits.height_max": 48, "digits.train_scenes": 8, "digits.val_scenes": 3,
    "train.batch_size": 4, "train.microbatches": 2, "train.steps": 2, "train.warmup": 0, "train.optimizer": "sgd",
    "train.lr": 0.01, "train.ema": 0,
}  # fmt: skip

FCOS = {"task": "detect", "model.name": "fcos-test_resnet-fpn"}
RETINANET = {"task": "detect", "model.name": "retinanet-test_resnet-pafpn"}
ATSS = {"task": "detect", "model.name": "atss-test_resnet-fpn"}
FCOS_PNN = {"task": "detect", "model.name": "fcos-pnn", "model.pnn.channels": 8}
PNN = {"task": "classify", "model.name": "pnn", "model.pnn.channels": 8, "data.resize": 64}
RESNET = {"task": "classify", "model.name": "timm:test_resnet", "data.resize": 64}
UNET = {"task": "segment", "model.name": "smp:unet/tu-test_resnet"}
FPN = {"task": "segment", "model.name": "smp:fpn/tu-test_resnet"}

ADAMW = {"train.optimizer": "adamw", "train.lr": 1e-3, "train.ema": 0.9}
CLIPPED = {"train.clip_norm": 0.1}
BF16 = {"dtype": "bf16"}
DICE = {"loss.segmentation": "focal+dice"}
CROPS = {"data.crops": "64,96", "train.steps": 4}
UNEVEN = {"train.batch_size": 6, "train.microbatches": 3, "train.steps": 3, "digits.train_scenes": 7}
NARROW = {"tensor.min_width": 8, "model.head_depth": 2}
SHARDED = {"pipeline.unit_bytes": 4096}
CUT = {"plan.cut": "backbone.body.layer3"}
CUTS = {"plan.cut": "backbone.body.layer2,backbone.body.layer4,head.classes", "plan.schedule": "interleaved"}

Promise = Literal["bits", "numbers"]


@dataclass(frozen=True)
class Setting:
    """One line of the table.

    Attributes:
        name: What it is called in the table.
        plan: The plan that it is trained under.
        settings: On top of `BASE`.
        promise: ``bits`` where the plan says that the weights are the same to the last bit, else ``numbers``.
        use: Whether the trained run is evaluated and predicts, under the same plan.
        then: Another plan under which the last two of its steps are made, from a checkpoint; empty for none.
        faults: A fault plan: which worker is killed where.
        tolerance: How far numbers may be apart, relative, where bits are not promised.
    """

    name: str
    plan: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    promise: Promise = "numbers"
    use: bool = False
    then: str = ""
    faults: str = ""
    tolerance: float = 1e-6


def _all() -> list[Setting]:
    """Return the settings, in the order of the table."""
    kill = "kill@forward rank=1 step=2 attempt=0"
    four = {"train.steps": 4, "train.checkpoint_every": 1}
    bits = [
        Setting("fcos", "dp=1", FCOS, use=True),
        Setting("fcos", "dp=2", FCOS),
        Setting("fcos, clipped, uneven batches", "dp=1", FCOS | CLIPPED | UNEVEN),
        Setting("fcos, clipped, uneven batches", "dp=3", FCOS | CLIPPED | UNEVEN),
        Setting("fcos, adamw, average", "dp=2", FCOS | ADAMW | CLIPPED, use=True),
        Setting("fcos, bf16", "dp=2", FCOS | BF16),
        Setting("fcos, group norm", "dp=2", FCOS | {"model.norm": "group"}),
        Setting("fcos, frozen norm", "dp=1", FCOS | {"model.norm": "frozen"}),
        Setting("fcos, crops of two sizes", "dp=2", FCOS | CROPS),
        Setting("retinanet", "dp=1", RETINANET, use=True),
        Setting("atss", "dp=2", ATSS | ADAMW),
        Setting("fcos on an image pyramid", "dp=1", FCOS_PNN),
        Setting("pnn", "dp=1", PNN, use=True),
        Setting("timm", "dp=2", RESNET | CLIPPED),
        Setting("timm, adamw, bf16", "dp=2", RESNET | ADAMW | BF16),
        Setting("unet", "dp=1", UNET, use=True),
        Setting("unet, dice", "dp=2", UNET | DICE | ADAMW),
        Setting("unet, dice, crops of two sizes", "dp=2", UNET | DICE | CROPS),
        Setting("smp:fpn, bf16", "dp=2", FPN | BF16),
        Setting("fcos, resumed", "dp=1", FCOS | ADAMW | four, then="dp=2"),
        Setting("unet, dice, resumed", "dp=2", UNET | DICE | ADAMW | four, then="dp=1"),
        Setting("fcos, killed", "dp=2", FCOS | ADAMW | four, faults=kill),
    ]
    numbers = [
        Setting("fcos, resumed", "dp=2", FCOS | ADAMW | four, then="sp=2"),
        Setting("fcos, resumed", "pp=2", FCOS | ADAMW | CUT | four, then="dp=1"),
        Setting("fcos, resumed", "fsdp=2", FCOS | ADAMW | SHARDED | four, then="tp=2"),
        Setting("fcos", "sp=2", FCOS | ADAMW, use=True),
        Setting("retinanet", "sp=1x2", RETINANET | CLIPPED),
        Setting("atss, bf16", "sp=2", ATSS | BF16),
        Setting("fcos, group norm", "dp=2,sp=2", FCOS | {"model.norm": "group"}),
        Setting("pnn", "sp=2", PNN, use=True),
        Setting("unet, dice", "sp=2", UNET | DICE, use=True),
        Setting("fcos, gpipe", "pp=2", FCOS | CUT | {"plan.schedule": "gpipe"}, use=True),
        Setting("fcos, 1f1b", "pp=2", FCOS | ADAMW | CLIPPED | CUT | UNEVEN),
        Setting("fcos, interleaved", "pp=2", FCOS | CUTS),
        Setting("timm", "dp=2,pp=2", RESNET | {"plan.cut": "body.layer3"}),
        Setting("unet, dice", "pp=2", UNET | DICE | {"plan.cut": "body.encoder.model.layer3"}, use=True),
        Setting("retinanet", "sp=2,pp=2", RETINANET | CUT),
        # which branch lies where is measured, and no setting gives it: another place rounds in another way
        Setting("pnn", "lp=2", PNN, use=True, tolerance=1e-5),
        Setting("fcos", "lp=2", FCOS | CLIPPED, tolerance=1e-5),
        Setting("fcos", "dp=2,tp=2", FCOS | NARROW),
        Setting("pnn", "tp=2", PNN | ADAMW | NARROW, use=True),
        Setting("timm, adamw", "fsdp=2", RESNET | ADAMW | SHARDED | CLIPPED, use=True),
        Setting("fcos, uneven batches", "fsdp=2", FCOS | SHARDED | UNEVEN),
        Setting("unet, dice", "fsdp=2,sp=2", UNET | DICE | SHARDED),
    ]
    promised = [Setting(**(vars(setting) | {"promise": "bits"})) for setting in bits]
    return [*promised, *numbers]


SETTINGS = _all()
SHORT = [
    Setting("timm", "dp=1", RESNET, promise="bits", use=True),
    Setting("timm", "dp=2", RESNET, promise="bits"),
    Setting("timm", "sp=2", RESNET),
]
"""One worker, two with the same bits, and bands."""

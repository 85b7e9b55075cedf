"""Runs of a detector in four cases, in which each choice of head, norm, dtype and optimizer meets each other one.

Every case has a partial last batch and scenes without objects.
"""

import dataclasses
import itertools

from ziggurat.config import DigitsConfig, RunConfig, override

SCENES = DigitsConfig(
    size=64, count_min=0, count_max=1, height_min=12, height_max=48, train_scenes=17, val_scenes=3
)
SMALL = {
    "task": "detect", "data.path": "digits", "data.crop": 64, "data.workers": 0, "device": "cpu", "threads": 1,
    "model.levels": "p3-p5", "model.channels": 16, "model.head_depth": 1, "decode.max_detections": 5,
    "train.batch_size": 8, "train.microbatches": 4, "train.steps": 4, "train.warmup": 0, "train.clip_norm": 0.5,
    "train.report": "numbers",  # tests/report draw
}  # fmt: skip

HEADS = ["fcos", "retinanet"]
NORMS = ["batch", "group"]
DTYPES = ["fp32", "bf16"]
OPTIMIZERS = ["adamw", "sgd"]
# Four cases in which each value of each choice meets each value of each other choice.
PAIRWISE = [
    ("fcos", "batch", "fp32", "adamw"),
    ("fcos", "group", "bf16", "sgd"),
    ("retinanet", "batch", "bf16", "adamw"),
    ("retinanet", "group", "fp32", "sgd"),
]
PRODUCT = [case for case in itertools.product(HEADS, NORMS, DTYPES, OPTIMIZERS) if case not in PAIRWISE]


def config_of(head, norm, dtype, optimizer):
    settings = {
        "model.name": f"{head}-test_resnet-fpn", "model.norm": norm, "dtype": dtype, "train.optimizer": optimizer,
        "train.lr": 1e-3 if optimizer == "adamw" else 1e-2,
    }  # fmt: skip
    return dataclasses.replace(override(RunConfig(), SMALL | settings), digits=SCENES)

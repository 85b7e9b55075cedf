"""`ziggurat demo`: the whole way, from pixels to pictures, on the embedded data set, in a few minutes of two cores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ziggurat.config import DataConfig, DecodeConfig, DigitsConfig, ModelConfig, RunConfig, TrainConfig
from ziggurat.run import next_run_folder
from ziggurat.start import start_pictures, start_training

DEMO = RunConfig(
    model=ModelConfig(name="fcos-resnet18-fpn", levels="p2-p5", channels=64, head_depth=2),
    data=DataConfig(path="digits", crop=128, scale_min=0.8, scale_max=1.25, flip="none", workers=1),
    digits=DigitsConfig(size=128, train_scenes=4000, val_scenes=200),
    decode=DecodeConfig(score_threshold=0.05, nms_threshold=0.5, max_detections=50),
    train=TrainConfig(steps=500, batch_size=16, lr=2e-3, warmup=0.1, ema=0.99, checkpoint_every=0),
)


def run_demo(settings: dict[str, Any], out: str | None) -> dict[str, Any] | None:
    """Train on scenes of digits, evaluate on digits and places that were not trained on, and draw.

    Args:
        settings: From dotted names to values, over the demo's own.
        out: The run's folder; None takes the next ``runs/demo-N``.

    Returns:
        The fields of the command's JSON object, with ``pictures``; None on torchrun's workers but the first.
    """
    folder = out or str(next_run_folder(Path("runs"), "demo"))
    result = start_training("digits", settings, folder, defaults=dataclasses.replace(DEMO))
    if result is None:
        return None
    pictures = start_pictures(Path(folder))
    return result | {"pictures": pictures}

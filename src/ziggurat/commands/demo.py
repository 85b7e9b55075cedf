"""`ziggurat demo`: the whole way, from pixels to pictures, on the embedded data set, in a few minutes of two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ziggurat.commands.start import start_training
from ziggurat.config import (
    DataConfig,
    DecodeConfig,
    DigitsConfig,
    LossConfig,
    ModelConfig,
    PnnConfig,
    RunConfig,
    TrainConfig,
)
from ziggurat.data.formats import open_dataset
from ziggurat.errors import UserError
from ziggurat.report.pictures import draw_examples
from ziggurat.runs.folder import load_run
from ziggurat.tasks.registry import make_task
from ziggurat.visualize.boxes import contact_sheet

NUM_PICTURES = 16
_DETECT = RunConfig(
    task="detect",
    model=ModelConfig(name="fcos-resnet10t-fpn", levels="p3-p4", channels=64, head_depth=2),
    data=DataConfig(path="digits", crop=128, scale_min=0.8, scale_max=1.25, flip="none", workers=1),
    digits=DigitsConfig(size=128, train_scenes=4000, val_scenes=200),
    decode=DecodeConfig(score_threshold=0.05, nms_threshold=0.5, max_detections=50),
    train=TrainConfig(steps=1200, batch_size=8, lr=3e-3, warmup=0.06, ema=0.99, checkpoint_every=0),
)
_CLASSIFY = RunConfig(
    task="classify",
    model=ModelConfig(name="pnn", pnn=PnnConfig(channels=16, pyramid="laplacian")),
    data=DataConfig(path="digits", crop=96, scale_min=0.9, scale_max=1.1, flip="none", workers=1),
    digits=DigitsConfig(
        size=96, count_min=1, count_max=1, height_min=24, height_max=64, train_scenes=12000, val_scenes=500
    ),
    loss=LossConfig(level_weight=1.0),
    train=TrainConfig(steps=1200, batch_size=16, lr=4e-3, warmup=0.06, ema=0.99, checkpoint_every=0),
)
_SEGMENT = RunConfig(
    task="segment",
    model=ModelConfig(name="smp:segformer/tu-test_resnet", channels=64),
    data=DataConfig(path="digits", crop=64, scale_min=0.9, scale_max=1.1, flip="none", workers=1),
    digits=DigitsConfig(
        size=64, count_min=1, count_max=2, height_min=24, height_max=56, train_scenes=6000, val_scenes=300
    ),
    loss=LossConfig(segmentation="ce+dice"),
    train=TrainConfig(steps=2000, batch_size=16, lr=4e-3, warmup=0.06, ema=0.99, checkpoint_every=0),
)
DEMOS: dict[str, RunConfig] = {"detect": _DETECT, "classify": _CLASSIFY, "segment": _SEGMENT}


def run_demo(settings: dict[str, Any], out: str | None) -> dict[str, Any] | None:
    """Train on scenes of digits, evaluate on digits and places that were not trained on, and draw.

    Args:
        settings: From dotted names to values, over the demo's own; ``task`` chooses it.
        out: The run's folder; None takes the next ``runs/demo-N``.

    Returns:
        The fields of the command's JSON object, with ``pictures``; None on torchrun's workers but the first.

    Raises:
        UserError: If there is no such task, or the settings are not usable.
    """
    task = settings.get("task", "detect")
    if task not in DEMOS:
        raise UserError(f"task must be one of {', '.join(DEMOS)}: got '{task}'")
    result = start_training("digits", settings, out, defaults=DEMOS[task], family="demo")
    if result is None:
        return None
    return result | {"pictures": draw_scenes(Path(result["run"]))}


def draw_scenes(folder: Path) -> str:
    """Draw what the run in `folder` predicts for scenes of the validation split, beside what is there.

    Returns:
        The folder of the pictures: one for each scene, and ``sheet.png`` with all of them.
    """
    run = load_run(folder)
    scenes = open_dataset("digits", "val", run.model.task, run.config.data, run.config.digits)
    assert scenes is not None
    out = folder / "predictions"
    out.mkdir(exist_ok=True)
    count = min(NUM_PICTURES, len(scenes))
    task = make_task(run.model, run.config)
    pictures = draw_examples(run.model, task, scenes, range(count), run.config, torch.device("cpu"))
    for index, picture in enumerate(pictures):
        picture.save(out / f"{scenes.record(index).name}.png")
    is_row = pictures[0].width >= 2 * pictures[0].height  # a comparison of labels
    contact_sheet(pictures, columns=2 if is_row else 4).save(out / "sheet.png")
    return str(out)

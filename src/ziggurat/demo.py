"""`ziggurat demo`: the whole way, from pixels to pictures, on the embedded data set, in a few minutes of two cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ziggurat.config import DataConfig, DecodeConfig, DigitsConfig, ModelConfig, RunConfig, TrainConfig
from ziggurat.data.dataset import DetectionDataset, ImageRecord
from ziggurat.data.formats import open_dataset
from ziggurat.inference import detect_as_configured
from ziggurat.parallel.workers import Workers
from ziggurat.run import load_run
from ziggurat.start import start_training
from ziggurat.tasks.detection import make_task
from ziggurat.tasks.drawing import contact_sheet, draw_comparison

NUM_PICTURES = 16
DEMO = RunConfig(
    model=ModelConfig(name="fcos-resnet10t-fpn", levels="p3-p4", channels=64, head_depth=2),
    data=DataConfig(path="digits", crop=128, scale_min=0.8, scale_max=1.25, flip="none", workers=1),
    digits=DigitsConfig(size=128, train_scenes=4000, val_scenes=200),
    decode=DecodeConfig(score_threshold=0.05, nms_threshold=0.5, max_detections=50),
    train=TrainConfig(steps=1200, batch_size=8, lr=3e-3, warmup=0.06, ema=0.99, checkpoint_every=0),
)


def run_demo(settings: dict[str, Any], out: str | None) -> dict[str, Any] | None:
    """Train on scenes of digits, evaluate on digits and places that were not trained on, and draw.

    Args:
        settings: From dotted names to values, over the demo's own.
        out: The run's folder; None takes the next ``runs/demo-N``.

    Returns:
        The fields of the command's JSON object, with ``pictures``; None on torchrun's workers but the first.
    """
    result = start_training("digits", settings, out, defaults=DEMO, family="demo")
    if result is None:
        return None
    return result | {"pictures": draw_scenes(Path(result["run"]))}


def draw_scenes(folder: Path) -> str:
    """Draw what the run in `folder` finds in scenes of the validation split, beside what is there.

    Returns:
        The folder of the pictures: one for each scene, and ``sheet.png`` with all of them.
    """
    run = load_run(folder)
    scenes = open_dataset("digits", "val", run.config.digits, run.config.data.max_pixels)
    assert scenes is not None
    few = _First(scenes, min(NUM_PICTURES, len(scenes)))
    found = detect_as_configured(run.model, make_task(run.model, run.config), few, run.config, Workers())
    out = folder / "predictions"
    out.mkdir(exist_ok=True)
    pictures = [
        draw_comparison(scenes.image(index), detections, scenes.objects(index), run.classes)
        for index, detections in enumerate(found)
    ]
    for index, picture in enumerate(pictures):
        picture.save(out / f"{scenes.record(index).name}.png")
    contact_sheet(pictures, columns=4).save(out / "sheet.png")
    return str(out)


class _First:
    """The first images of a data set."""

    def __init__(self, dataset: DetectionDataset, count: int) -> None:
        self.dataset, self.count = dataset, count

    def __len__(self) -> int:
        return self.count

    def record(self, index: int) -> ImageRecord:
        return self.dataset.record(index)

    def image(self, index: int) -> Tensor:
        return self.dataset.image(index)

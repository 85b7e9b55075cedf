"""`ziggurat demo`: the whole way, from pixels to pictures, on the embedded data set, in a few minutes of two cores."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ziggurat.commands.train import train
from ziggurat.config import check_command, run_task
from ziggurat.errors import UserError
from ziggurat.inference.predictor import Predictor
from ziggurat.report.pictures import draw_examples
from ziggurat.runs.folder import load_run
from ziggurat.system.writing import Pictures
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import TASKS
from ziggurat.visualize.boxes import contact_sheet

NUM_PICTURES = 16


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
    settings = check_command("demo", settings)
    demos = {name: config for name, task in TASKS.items() if (config := task.demo()) is not None}
    task = settings.get("task", next(iter(demos)))
    if task not in demos:
        raise UserError(f"task must be one of {', '.join(demos)}: got '{task}'")
    result = train("digits", settings, out, defaults=demos[task], family="demo")
    if result is None:
        return None
    return result | {"pictures": draw_scenes(Path(result["run"]))}


def draw_scenes(folder: Path) -> str:
    """Draw what the run in `folder` predicts for scenes of the validation split, beside what is there.

    Returns:
        The folder of the pictures: one for each scene, and ``sheet.png`` with all of them.
    """
    run = load_run(folder)
    scenes = open_dataset("digits", "val", run_task(run.config), run.config.data, run.config.digits)
    assert scenes is not None
    out = folder / "predictions"
    written = Pictures()
    with suppress(OSError):  # the pictures say what is in the way
        out.mkdir(exist_ok=True)
    count = min(NUM_PICTURES, len(scenes))
    pictures = draw_examples(Predictor.of_run(run), scenes, range(count))
    for index, picture in enumerate(pictures):
        path = out / f"{scenes.record(index).name}.png"
        with written.write(path):
            picture.save(path)
    is_row = pictures[0].width >= 2 * pictures[0].height  # a comparison of labels
    with written.write(out / "sheet.png"):
        contact_sheet(pictures, columns=2 if is_row else 4).save(out / "sheet.png")
    if written.faults:
        print(f"ziggurat: {written}", file=sys.stderr)
    return str(out)

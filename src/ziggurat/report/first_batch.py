"""The first training samples as the network sees them: cut, scaled, flipped and coloured, each with its target.

Boxes that do not lie on objects, masks that are shifted, classes that are mixed up, objects that are cut away or made too
small: they are seen here before an hour is spent on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ziggurat.data.batch import Sample
from ziggurat.report.sheets import make_sheet, with_bands
from ziggurat.tasks.base import Task
from ziggurat.visualize.composite import SHOWN_AS_THEY_ARE, Composite

NUM_SAMPLES = 16  # most that are shown


def draw_samples(
    samples: Sequence[Sample],
    names: Sequence[str],
    task: Task[Any, Any],
    classes: Sequence[str],
    composite: Composite = SHOWN_AS_THEY_ARE,
) -> Image.Image:
    """Draw training samples with their targets.

    Args:
        samples: One at least, each whole.
        names: Of the image that each is cut from.
        task: Of the run.
        classes: The name of each label.
        composite: What is shown of the images.
    """
    pictures = [task.draw_target(composite(one.image_CHW), one.target, classes) for one in samples]
    captions = [
        (name, "{} x {} pixels".format(*one.image_CHW.shape[1:]))
        for one, name in zip(samples, names, strict=True)
    ]
    title = "First training samples, as the network sees them"
    about = "after all that is done to them at random, with what is to be predicted"
    return make_sheet(pictures, captions, title, with_bands(about, composite))

"""The gradient noise scale of a run: the batch at which a step's gradient is as much noise as direction, so the measure of how much dp still helps.

A microbatch of ``b`` images and the batch of ``B`` of the same step have gradients ``g`` and ``G``. With the noise ``S`` of an image's gradient
around the true one, ``t``:

    E |g|^2 = |t|^2 + S / b        E |G|^2 = |t|^2 + S / B        noise scale = S / |t|^2, in images

A batch much smaller than the noise scale gains nearly as much from twice as many images as from twice as many steps; a much larger one gains
nothing. Both means are over steps before they are divided, as single ones may lie anywhere.

References:
    McCandlish et al., An Empirical Model of Large-Batch Training, 2018, appendix A.1. https://arxiv.org/abs/1812.06162
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST = 50  # measured steps that count: the noise scale grows while a run goes on
FEWEST = 5
FIELDS = ("gradient_norm", "microbatch_gradient_norm", "microbatch_images", "images")


@dataclass(frozen=True)
class NoiseScale:
    """What the steps of a run tell.

    Attributes:
        images: The noise scale; None where the mean of the steps shows no direction: it is far above the batch.
        batch: Images of a step.
        steps: How many were measured.
        last_step: Of them.
    """

    images: float | None
    batch: int
    steps: int
    last_step: int

    def as_json(self) -> dict[str, Any]:
        """Return fields of a JSON object."""
        return {"images": self.images, "batch": self.batch, "steps": self.steps, "last_step": self.last_step}


def noise_scale(rows: Iterable[Mapping[str, Any]]) -> NoiseScale | None:
    """Return the noise scale by the last measured steps of a run; None of too few, or of steps of one microbatch.

    Args:
        rows: Lines of ``metrics.jsonl``, in order.

    Example:
        >>> row = {"step": 1, "gradient_norm": 5**0.5, "microbatch_gradient_norm": 3.0, "microbatch_images": 4, "images": 8}
        >>> noise_scale([row] * 5)  # |t|^2 = 1 and S = 32
        NoiseScale(images=32.0, batch=8, steps=5, last_step=1)
    """
    measured = [row for row in rows if all(row.get(field) for field in FIELDS)]
    if not measured:
        return None
    batch, part = measured[-1]["images"], measured[-1]["microbatch_images"]
    alike = [row for row in measured if (row["images"], row["microbatch_images"]) == (batch, part)][-LAST:]
    if len(alike) < FEWEST or part >= batch:
        return None
    of_batch = sum(row["gradient_norm"] ** 2 for row in alike) / len(alike)
    of_part = sum(row["microbatch_gradient_norm"] ** 2 for row in alike) / len(alike)
    direction = (batch * of_batch - part * of_part) / (batch - part)
    noise = max(0.0, (of_part - of_batch) / (1 / part - 1 / batch))
    images = round(noise / direction, 6) if direction > 0 else None
    return NoiseScale(images, batch, len(alike), alike[-1]["step"])


def noise_of_run(folder: Path) -> NoiseScale | None:
    """Return the noise scale of a run by its log; None where it tells none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a run that was killed may have left half a line
            continue
        if isinstance(row, dict) and row.get("kind") == "train":
            rows.append(row)
    return noise_scale(rows)


def format_noise(found: Mapping[str, Any]) -> list[str]:
    """Return lines for people.

    Args:
        found: As `NoiseScale.as_json` gives it.
    """
    of = f"by {found['steps']} steps up to step {found['last_step']}, of {found['batch']} images each"
    images, batch = found["images"], found["batch"]
    if images is None:
        return [
            f"gradient noise scale: far above {batch} images ({of}): larger batches, and so more places of dp, still help nearly in full"
        ]
    share = images / (images + batch)
    return [
        f"gradient noise scale: {images:.0f} images ({of}): of what twice the batch might save in steps it saves {share:.0%}; beyond about "
        f"{images:.0f} images a step dp is better left to sp and pp"
    ]

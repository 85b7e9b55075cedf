"""Which settings are out of their range, whatever the data and the plan are."""

from __future__ import annotations

from ziggurat.config.fields import settings_of
from ziggurat.config.reading import flatten
from ziggurat.config.records import RunConfig

ORDERED = [
    ("data.scale_min", "data.scale_max"),
    ("digits.count_min", "digits.count_max"),
    ("digits.height_min", "digits.height_max"),
    ("digits.height_max", "digits.size"),
]


def range_faults(config: RunConfig) -> list[str]:
    """Return a sentence for every setting that is out of its range, in the order of the settings, and for every pair."""
    faults = [
        f"{key} must {known.rule.words}: got {value}"
        for key, value, known in settings_of(config)
        if known.rule is not None and not known.rule.holds(value)
    ]
    flat = flatten(config)
    for low, high in ORDERED:
        if flat[low] > flat[high]:
            faults.append(f"{low} must not exceed {high}: got {flat[low]} and {flat[high]}")
    if not config.train.steps and not config.train.epochs:
        faults.append("nothing to do: give train.epochs or train.steps")
    return faults

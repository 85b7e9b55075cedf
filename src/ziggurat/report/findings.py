"""What an evaluation says, as JSON has it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ziggurat.metrics.findings import Findings

MAX_CONFUSED = 50  # pairs of classes that are listed: a matrix of a thousand classes would hide them


def numbers(findings: Findings) -> dict[str, Any]:
    """Return the numbers of all classes, and what is confused most, as JSON has them."""
    classes: dict[str, dict[str, Any]] = {
        row.name: {findings.unit: row.count, **row.values} for row in findings.rows
    }
    if findings.scores is not None:
        for row in findings.rows:
            classes[row.name]["best_score"] = row.best
    said: dict[str, Any] = {
        "metrics": findings.metrics,
        "classes": classes,
        "confused": _most_confused(findings),
    }
    if findings.scores is not None:
        said["best_score"] = findings.scores.numbers()
    if findings.counts is not None:
        said["counts"] = findings.counts.numbers()
    return said


def _most_confused(findings: Findings) -> list[dict[str, Any]]:
    """Return the largest counts beside the diagonal of the confusion matrix, the largest first."""
    if findings.confusion is None:
        return []
    wrong = findings.confusion * ~np.eye(len(findings.labels), dtype=bool)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MAX_CONFUSED].tolist()
    pairs = [divmod(place, len(findings.labels)) for place in largest]
    return [
        {
            "true": findings.labels[true],
            "predicted": findings.labels[predicted],
            findings.unit: int(wrong[true, predicted]),
        }
        for true, predicted in pairs
        if wrong[true, predicted]
    ]

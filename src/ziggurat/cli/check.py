"""``ziggurat check``: list every fault of a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ziggurat.cli.options import DATA_HELP, DONE, NO, Outcome, add_settings, settings_from

MOST_CLASSES = 12  # the most frequent and the rarest that are said
HELP = "list every fault of a data set"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("data", metavar="DATA", help=DATA_HELP)
    add_settings(command, [])


def run(options: argparse.Namespace) -> Outcome:
    """Run the command."""
    from ziggurat.commands.check import check
    from ziggurat.config import read_config

    result = check(options.data, read_config("check", settings_from(options)).data)
    if not options.json:
        for fault in result["faults"]:
            place = "" if fault["id"] is None else f" [{fault['id']}]"
            print(f"{fault['file']}{place}: {fault['fault']}")
        for note in result["notes"]:
            print(f"note: {note}")
        for kind in result["samples"]:
            print(f"images: {_samples(kind)}")
        splits = "; ".join(
            f"{split}: {counts['images']} images, {counts['annotations']} annotations"
            for split, counts in result["splits"].items()
        )
        for line in _balance(result["balance"]):
            print(line)
        for part, counts in (result.get("parts") or {}).items():
            print(f"data.split=blocks, {part}: {_listed(counts)}")
        print(
            f"{result['format']} (to {', '.join(result['tasks'])}); {splits}; {_classes(result['classes'])}; "
            f"{len(result['faults'])} faults{_skipping(result)}"
        )
    return Outcome(DONE if result["ok"] else NO, result)


def _balance(found: dict[str, Any] | None) -> list[str]:
    """Say how often each class occurs in what is trained on, the most frequent first; shortened in the middle."""
    if found is None:
        return []
    rows = sorted(found["classes"].items(), key=lambda row: -row[1]["images"])
    unit = found["unit"]
    said = [
        f"{name} {row['images']:,}" + ("" if unit == "images" else f" ({row['instances']:,} {unit})")
        for name, row in rows
    ]
    if len(said) > 2 * MOST_CLASSES:
        said[MOST_CLASSES:-MOST_CLASSES] = [f"... {len(said) - 2 * MOST_CLASSES} others ..."]
    return [
        f"training images of each class: {', '.join(said)}",
        f"the most frequent class is in {found['ratio']:,.1f} times as many images as the rarest that occurs"
        + ("" if not found["is_unequal"] else ": docs/balance.md says what helps rare classes"),
    ]


def _classes(names: Sequence[str]) -> str:
    """Say which classes there are."""
    return f"classes: {', '.join(names)}" if names else "no classes"


def _skipping(result: dict[str, Any]) -> str:
    """Say what ``data.on_error=skip`` leaves out, or could."""
    skipped = result["skipped"]
    if any(skipped.values()):
        return f", for which {skipped['annotations']} annotations and {skipped['images']} images are left out"
    parts = sum(fault["scope"] in ("annotation", "image") for fault in result["faults"])
    return f"; {parts} of them can be left out: --set data.on_error=skip" if parts else ""


def _listed(counts: dict[str, int]) -> str:
    """Say what a part of the blocks holds."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _samples(kind: dict[str, Any]) -> str:
    """Say what some image files hold."""
    pages = f", {kind['pages']} pages" if kind["pages"] > 1 else ""
    values = "" if kind["low"] is None else f", samples from {kind['low']:g} to {kind['high']:g}"
    bands = f"{kind['bands']} band{'s' if kind['bands'] > 1 else ''}"
    return f"{kind['images']} of {bands} of {kind['type']}{pages}{values}"

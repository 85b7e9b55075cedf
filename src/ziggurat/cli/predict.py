"""``ziggurat predict``: run a model on images: results as JSON and CSV, and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from ziggurat.cli.options import (
    DONE,
    NO,
    RUN_HELP,
    SPLITS,
    TRAINED_FLAGS,
    Outcome,
    add_settings,
    settings_from,
)

HELP = "run a model on images: results as JSON and CSV, and pictures"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("run", metavar="RUN", help=RUN_HELP)
    command.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="files, folders or globs; or a data set: its annotation file, or with --split its folder",
    )
    add_settings(command, list(TRAINED_FLAGS))
    command.add_argument(
        "--split", choices=SPLITS, help="IMAGE is a data set, whose ids the results keep: which of its images"
    )
    command.add_argument(
        "--out", metavar="DIR", type=Path, help="default: predictions, or predictions-2 ..., of the run"
    )
    command.add_argument(
        "--format",
        metavar="NAMES",
        default="coco,csv",
        help="what results are written as, besides predictions.json (coco): csv, gpkg, geojson, shp, ... "
        "(docs/outputs.md); default: coco,csv",
    )
    command.add_argument("--overwrite", action="store_true", help="replace the predictions in --out")


def run(options: argparse.Namespace) -> Outcome:
    """Run the command; images that were left out are an answer of no."""
    from ziggurat.commands.predict import predict

    result = predict(
        options.run,
        options.images,
        options.out,
        settings_from(options),
        split=options.split,
        overwrite=options.overwrite,
        formats=[name.strip() for name in options.format.split(",") if name.strip()],
    )
    if result is None:
        return Outcome(DONE, None)
    if not options.json:
        left = f", {result['skipped']} left out" if result["skipped"] else ""
        print(f"{result['images']} images in {result['seconds']:.1f} s{left}: {result['predictions']}")
        table = f"table: {result['table']}; " if result["table"] else ""
        print(f"{table}pictures: {result['pictures']}")
        for file in result["files"]:
            print(f"also: {file}")
    return Outcome(NO if result["skipped"] else DONE, result)

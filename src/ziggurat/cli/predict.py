"""``ziggurat predict``: run a model on images: results as JSON and CSV, and pictures."""

from __future__ import annotations

import argparse
from pathlib import Path

from ziggurat.cli.options import (
    DONE,
    NO,
    RUNS_HELP,
    SPLITS,
    TILE_FLAGS,
    TRAINED_FLAGS,
    Outcome,
    add_engine,
    add_settings,
    settings_from,
)

HELP = "run a model on images: results as JSON and CSV, and pictures"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("run", metavar="RUN[,RUN]", help=RUNS_HELP)
    command.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="files, folders or globs, lists of them (.txt, a path a line; - reads standard input); or a data set: its annotation "
        "file, or with --split its folder",
    )
    add_engine(command)
    add_settings(command, [*TRAINED_FLAGS, *TILE_FLAGS])
    command.add_argument("--classes", metavar="A,B", help="of what is found only these classes count")
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
        help="what results are written as, besides predictions.json (coco): csv, gpkg, geojson, shp, mask, probabilities, ... "
        "(docs/outputs.md); default: coco,csv",
    )
    command.add_argument(
        "--polygons",
        metavar="RULES",
        help="of masks that --format writes as polygons, in pixels: min_area=50,min_hole=50,simplify=1 leaves smaller areas out, closes "
        "smaller holes, and moves borders by about that for having fewer corners",
    )
    command.add_argument(
        "--pictures",
        choices=("none", "overview", "full"),
        default="auto",
        help="how large pictures are: overviews have at most 2048 pixels a side (default: overviews of images of more than 16 "
        "megapixels, others in full)",
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on with the prediction in --out that has not ended, with the same images and settings; where there is none, begin",
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
        resume=options.resume,
        pictures=options.pictures,
        classes=_names(options.classes),
        formats=_names(options.format),
        polygons=_rules(options.polygons),
        engine=options.engine,
    )
    if result is None:
        return Outcome(DONE, None)
    if not options.json:
        left = f", {result['skipped']} left out" if result["skipped"] else ""
        rate = f"{result['megapixels_per_second']:.3g} megapixels/s"
        print(
            f"{result['images']} images in {result['seconds']:.1f} s ({rate}){left}: {result['predictions']}"
        )
        written = [f"table: {result['table']}"] if result["table"] else []
        written += [f"pictures: {result['pictures']}"] if options.pictures != "none" else []
        if written:
            print("; ".join(written))
        for file in result["files"]:
            print(f"also: {file}")
    return Outcome(NO if result["skipped"] else DONE, result)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _rules(text: str | None) -> dict[str, str]:
    pairs = [one.partition("=") for one in _names(text)]
    return {name.strip(): value.strip() for name, _, value in pairs}

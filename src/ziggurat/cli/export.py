"""``ziggurat export``: write a trained model as a file that other programs run, with a proof."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ziggurat.cli.options import DONE, NO, RUNS_HELP, Outcome, add_settings, settings_from

HELP = "write a trained model as a file that other programs run, with a proof that it finds the same"
FORMATS = ("pt2", "onnx", "openvino")
FLAGS = ["--model", "--threads", "--score"]


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let the command take its arguments."""
    command.add_argument("run", metavar="RUN[,RUN]", help=f"{RUNS_HELP} in one file (not detectors)")
    command.add_argument(
        "--format", choices=FORMATS, required=True, help="of torch.export, of ONNX, or of OpenVINO"
    )
    command.add_argument("--out", metavar="DIR", type=Path, help="default: exports, in the run's folder")
    command.add_argument(
        "--images",
        metavar="N",
        type=int,
        default=16,
        help="validation images that the file is proved on, each at three sizes and in three batches, and measured on "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--licence", metavar="TEXT", default="not stated", help="of the weights, for the file's metadata"
    )
    command.add_argument(
        "--int8",
        metavar="DATA",
        help="compute in integers of 8 bits, with --format openvino: calibrated on DATA's training images, and refused where DATA's "
        "validation images show too large a loss; writes model-int8.xml",
    )
    command.add_argument(
        "--max-drop",
        metavar="POINTS",
        type=float,
        help="that map50, miou or top1 may lose by --int8, of 100, between 0 and 100 (default: 0.5)",
    )
    command.add_argument(
        "--calibration",
        metavar="N",
        type=int,
        help="images that --int8 calibrates on, at least 1 (default: 300)",
    )
    add_settings(command, FLAGS)


def run(options: argparse.Namespace) -> Outcome:
    """Run the command; a file that is not as good as the network is an answer of no."""
    from ziggurat.commands.export import export

    result = export(
        options.run,
        options.format,
        options.out,
        settings_from(options),
        images=options.images,
        licence=options.licence,
        int8=options.int8,
        max_drop=options.max_drop,
        calibration=options.calibration,
    )
    if result is None:
        return Outcome(DONE, None)
    if not options.json:
        parity, worst = result["parity"], result["worst"]
        found = "the same things found" if parity["same_detections"] else "not the same things found"
        print(
            f"{parity['comparisons']} comparisons on {parity['images']} images: largest difference {parity['max_error']}, "
            f"of boxes {parity['max_box_error']} pixels, {found}"
        )
        if accuracy := result["accuracy"]:
            print(_said(accuracy))
        if result["ok"]:
            print(result["file"])
        elif accuracy:
            print(f"refused: it loses more than {accuracy['max_drop_points']} points")
        else:
            print(
                f"refused: not as good as the network; worst: {worst['image']} {worst['difference']}".rstrip()
            )
            if worst["layer"]:
                print(f"first layer that differs: {worst['layer']}")
    return Outcome(DONE if result["ok"] else NO, result)


def _said(accuracy: dict[str, Any]) -> str:
    """Return what a file in int8 loses, in a line."""
    value = accuracy["int8"]
    floats, layers = len(accuracy["float_layers"]), accuracy["layers"]
    lost = "not a number" if value is None else f"{value:.4f}, {accuracy['drop_points']:.2f} points less"
    return (
        f"{accuracy['metric']} on {accuracy['images']} images of {accuracy['data']}: {accuracy['fp32']:.4f}, in int8 {lost} "
        f"({layers - floats} of {layers} layers in int8)"
    )

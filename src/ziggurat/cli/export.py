"""``ziggurat export``: write a trained model as a file that other programs run, with a proof."""

from __future__ import annotations

import argparse
from pathlib import Path

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
        if result["ok"]:
            print(result["file"])
        else:
            print(
                f"refused: not as good as the network; worst: {worst['image']} {worst['difference']}".rstrip()
            )
            if worst["layer"]:
                print(f"first layer that differs: {worst['layer']}")
    return Outcome(DONE if result["ok"] else NO, result)

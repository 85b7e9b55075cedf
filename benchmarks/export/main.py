"""Does every network find the same in every format? And how fast is a file, beside PyTorch?

The matrix: each head with three backbones and each neck, three decoders and four classifiers, as `.pt2`, ONNX and OpenVINO. Files
are run on real images at three sizes and in batches of three numbers, ONNX and OpenVINO by `run_file.py`, which imports nothing of
Ziggurat; what they find is held against the network itself. A cell is

- ``same``: scores or logits within 1e-4, the same detections, sides within 0.05 pixels;
- ``undecided``: the only differences are such that rounding alone decides (`ties.py`);
- ``different``: anything else; or ``refused``, with the reason.

A matrix that is stopped goes on where it was. `--speed` measures images per second instead (`speed.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from networks import Subject, lively_run, subjects
from speed import measure
from ties import SAME_PIXELS, SAME_SCORE, decided_by_rounding
from torch import Tensor

from ziggurat.errors import UserError
from ziggurat.exports.engines import open_engine
from ziggurat.exports.exporting import batching_of
from ziggurat.exports.facts import Facts, FormatName
from ziggurat.exports.formats import FORMATS, OpenVino, Translated
from ziggurat.exports.graph import Traced, trace
from ziggurat.exports.samples import Batch, batches, embedded_images, first_tiles
from ziggurat.models.images import Normalization
from ziggurat.runs.folder import Run
from ziggurat.tasks.detection.graph import compare_detections, padded_detections
from ziggurat.tasks.registry import make_task

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "export.md"
BEGIN, END = "<!-- matrix: benchmarks/export/main.py writes it -->", "<!-- end of the matrix -->"
# each format with what runs its file
WAYS: tuple[tuple[FormatName, str], ...] = (
    ("pt2", "torch"), ("onnx", "onnxruntime"), ("onnx", "openvino"), ("openvino", "openvino"),
)  # fmt: skip
QUICK_SPEED = (Subject("classify", "timm:test_resnet"),)
QUICK = (Subject("detect", "fcos-test_resnet-fpn"),)
MOST = 1_000_000  # detections: no limit
Found = list[dict[str, Tensor]]


def matrix(
    chosen: Sequence[Subject], images: int, side: int, ways: Sequence[tuple[FormatName, str]], **more: Any
) -> Iterator[dict[str, Any]]:
    """Yield a row for each network and way."""
    for subject in chosen:
        begin = time.process_time()
        run = lively_run(subject, side, **more)
        names, tiles = first_tiles(embedded_images(run.config, 3), make_task(run.model, run.config), images)
        writer, reference = Writer(run), None
        for name in dict.fromkeys(form for form, _ in ways):
            runtimes = [runtime for form, runtime in ways if form == name]
            with TemporaryDirectory() as folder:
                row = {"task": subject.task, "model": subject.name, "format": name}
                try:
                    path, facts, traced = writer(name, Path(folder))
                except UserError as error:
                    for runtime in runtimes:
                        yield row | {"runtime": runtime, "verdict": "refused", "said": str(error)}
                    continue
                some = list(batches(names, tiles, batching_of(run, traced)))
                reference = reference or Reference(run, some)
                for runtime in runtimes:
                    try:
                        found = _run(path, facts, runtime, some, Path(folder))
                    except (UserError, subprocess.CalledProcessError) as error:
                        said = getattr(error, "stderr", "") or str(error)
                        yield row | {
                            "runtime": runtime, "verdict": "refused", "said": said.strip().splitlines()[-1]
                        }  # fmt: skip
                        continue
                    seconds = round(time.process_time() - begin, 1)
                    yield (
                        row | {"runtime": runtime} | reference.verdict(found) | {"processor_seconds": seconds}
                    )


class Writer:
    """Writes the files of a network; what ONNX and OpenVINO share is translated once.

    Args:
        run: The network.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._onnx: tuple[Traced, Translated] | None = None

    def __call__(self, name: FormatName, folder: Path) -> tuple[Path, Facts, Traced]:
        """Write a file as `ziggurat export` does, without its proof."""
        form = FORMATS[name]
        if form.dialect == "torch":
            traced = trace(self.run, "torch")
            converted = form.convert(traced)
        else:
            if self._onnx is None:
                traced = trace(self.run, "onnx")
                self._onnx = traced, FORMATS["onnx"].convert(traced)
            traced, translated = self._onnx
            converted = form.of_onnx(translated.model) if isinstance(form, OpenVino) else translated
        facts = Facts.of_run(self.run, name, "fp32", traced.multiple, traced.outputs, "not stated")
        path = folder / f"model{form.suffix}"
        form.save(converted, facts, path)
        return path, facts, traced


def _run(path: Path, facts: Facts, runtime: str, some: Sequence[Batch], folder: Path) -> Found:
    """Return the outputs of a file for each batch; all but ``.pt2`` by a process without Ziggurat."""
    if runtime == "torch":
        engine = open_engine(path, facts, "torch", torch.get_num_threads(), "fp32")
        return [engine(batch.images_BCHW, batch.sizes_B2) for batch in some]
    given, taken = folder / "batches.npz", folder / "found.npz"
    arrays = {f"images-{number}": batch.images_BCHW.numpy() for number, batch in enumerate(some)}
    arrays |= {f"sizes-{number}": batch.sizes_B2.numpy() for number, batch in enumerate(some)}
    np.savez(given, **arrays)
    words = [
        sys.executable, "-I", str(HERE / "run_file.py"), runtime, str(path), str(given), str(taken),
        str(torch.get_num_threads()),
    ]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True, text=True)
    with np.load(taken) as found:
        names = [one["name"] for one in facts.outputs]
        return [
            {name: torch.from_numpy(found[f"{name}-{number}"]) for name in names}
            for number in range(len(some))
        ]


class Reference:
    """What the network itself finds.

    Args:
        run: The network.
        some: Images.
    """

    @torch.no_grad()
    def __init__(self, run: Run, some: Sequence[Batch]) -> None:
        model = run.model.eval()
        normalization = Normalization.of(run.config.data, model)
        self.run, self.batches = run, some
        self.task = make_task(model, run.config)
        self.outputs = [model(normalization(one.images_BCHW, one.sizes)) for one in some]
        decode = replace(run.config.decode, nms_threshold=1.0, max_detections=MOST)
        self._all = make_task(model, replace(run.config, decode=decode))
        self._exact = None if run.config.task == "detect" else self._in_float64(normalization)

    def _in_float64(self, normalization: Normalization) -> float:
        """Return how far the network's own logits in float32 are from those in float64: what rounding does to them."""
        exact = deepcopy(self.run.model).double()
        return max(
            float(
                (outputs["logits"] - exact(normalization(one.images_BCHW, one.sizes).double())["logits"])
                .abs()
                .max()
            )
            for one, outputs in zip(self.batches, self.outputs, strict=True)
        )

    def verdict(self, found: Found) -> dict[str, Any]:
        """Return whether a file finds the same."""
        error = box_error = 0.0
        comparisons = undecided = 0
        said: list[str] = []
        for batch, outputs, graph in zip(self.batches, self.outputs, found, strict=True):
            for index, one in enumerate(self.task.compare_graph(outputs, graph, batch.sizes)):
                comparisons += 1
                error, box_error = max(error, one.error), max(box_error, one.box_error)
                if one.same:
                    continue
                if self.run.config.task == "detect" and self._is_a_tie(batch, outputs, graph, index):
                    undecided += 1
                else:
                    said.append(f"{batch.names[index]} {batch.sizes[index]}: {one.said}")
        good = not said and error <= SAME_SCORE and box_error <= SAME_PIXELS
        return {
            "verdict": ("undecided" if undecided else "same") if good else "different",
            "comparisons": comparisons, "undecided": undecided, "max_error": error, "max_box_error": box_error,
            "things": self._things(found), "rounding": self._exact,
            "said": "; ".join(said[:1]),
        }  # fmt: skip

    def _is_a_tie(self, batch: Batch, outputs: Any, graph: Mapping[str, Tensor], index: int) -> bool:
        ours = self.task.decode(outputs, batch.sizes)[index]
        candidates = self._all.decode(outputs, batch.sizes)[index]
        theirs = padded_detections(dict(graph))[index]
        assert not compare_detections(ours, theirs).same
        return decided_by_rounding(candidates, ours, theirs, self.run.config.decode)

    def _things(self, found: Found) -> int:
        """Return how many detections, or logits, were compared."""
        if self.run.config.task == "detect":
            return sum(int(one["count"].sum()) for one in found)
        return sum(one["logits"].numel() for one in found)


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the matrix as a table of Markdown: a row for each network, a column for each way."""
    ways = list(dict.fromkeys((row["format"], row["runtime"]) for row in rows))
    lines = ["| network | " + " | ".join(f"{form}, {runtime}" for form, runtime in ways) + " |"]
    lines.append("|---" * (len(ways) + 1) + "|")
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = {(row["format"], row["runtime"]): row for row in rows if row["model"] == model}
        lines.append(f"| `{model}` | " + " | ".join(_cell(mine.get(way)) for way in ways) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "not run"
    if row["verdict"] == "refused":
        return f"**refused**: {row['said'][:120]}"
    numbers = f"{row['max_error']:.1e}"
    if row["task"] == "detect":
        numbers += f", {row['max_box_error']:.1e} px"
    if row["verdict"] == "same":
        return numbers
    if row["verdict"] == "undecided":
        return f"{numbers}; undecided {row['undecided']} of {row['comparisons']}"
    said = row["said"][:120] or f"beyond 1e-4; PyTorch's own rounding is {row['rounding']:.1e}"
    return f"**different** {numbers}: {said}"


def text_of(report: Mapping[str, Any]) -> str:
    """Return what docs/export.md says of the matrix."""
    rows = report["rows"]
    count = {
        word: sum(row["verdict"] == word for row in rows)
        for word in ("same", "undecided", "different", "refused")
    }
    known = {row["model"] for row in rows}
    lacking = [f"`{one.name}`" for one in subjects() if one.name not in known]
    return (
        f"{len(rows)} cells: {count['same']} the same, {count['undecided']} undecided in some image, {count['different']} different, "
        f"{count['refused']} refused. Of each: {report['images']} images of {report['side']} pixels, at three sizes and in batches of "
        f"one, two and three, held against the network in PyTorch {report['versions']['torch']} (ONNX Runtime "
        f"{report['versions']['onnxruntime']}, OpenVINO {report['versions']['openvino']}); a cell says the largest difference of a "
        "score or logit, and of a side of a box."
        + (f" Not run yet: {', '.join(lacking)}." if lacking else "")
        + "\n\n"
        + table_of(rows)
    )


def write_docs(report: Mapping[str, Any], path: Path = DOCS) -> None:
    """Put the matrix into the page, between its two marks."""
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{path} lacks the lines {BEGIN} and {END}")
    path.write_text(f"{before}{BEGIN}\n{text_of(report)}\n{END}{after}", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    """Take the matrix, or measure speed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100, help="of each network (default: %(default)s)")
    parser.add_argument(
        "--side", type=int, default=128, help="rows and columns of images (default: %(default)s)"
    )
    parser.add_argument(
        "--only", metavar="TEXT", default="", help="networks whose name has it (default: all)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="that each runtime takes (default: %(default)s)"
    )
    parser.add_argument("--speed", action="store_true", help="measure images per second instead")
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="in each of which every variant takes a turn (default: %(default)s)",
    )
    parser.add_argument(
        "--pixels", type=int, default=400, help="sides of the images of --speed (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="default: results.json, or speed.json, beside this script")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/export.md as it is")
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and writes nothing"
    )
    options = parser.parse_args(words)
    if options.quick:
        torch.set_num_threads(1)
        small = {"model.channels": 16, "model.head_depth": 1, "model.levels": "p3-p5"}
        rows = list(matrix(QUICK, 1, 64, WAYS[1:2], **small))
        speed = measure(64, 1, 1, QUICK_SPEED)
        print(json.dumps({"rows": rows, "table": table_of(rows), "speed": speed}))
        return
    torch.set_num_threads(options.threads)
    if options.speed:
        report = measure(options.pixels, options.rounds, options.threads)
        out = options.out or HERE / "speed.json"
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(report, indent=1))
        return
    _whole(options)


def _whole(options: argparse.Namespace) -> None:
    """Take the networks that the file of results lacks, and write it after each."""
    out = options.out or HERE / "results.json"
    versions = {name: version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino")}
    report: dict[str, Any] = {
        "images": options.images,
        "side": options.side,
        "versions": versions,
        "rows": [],
    }
    if out.is_file():
        before = json.loads(out.read_text(encoding="utf-8"))
        if {**before, "rows": []} == report:
            report = before
    known = {row["model"] for row in report["rows"]}
    for subject in subjects():
        if options.only not in subject.name or subject.name in known:
            continue
        rows = list(matrix([subject], options.images, options.side, WAYS))
        for row in rows:
            print(
                {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in row.items()},
                flush=True,
            )
        report["rows"] += rows
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if not options.no_docs:
            write_docs(report)


if __name__ == "__main__":
    main()

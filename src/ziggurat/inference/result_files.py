"""The files of a prediction beside its pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from ziggurat.system.writing import whole_file, write_text
from ziggurat.tasks.base import ResultTable

RESULTS = "predictions.json"
TABLE = "predictions.csv"
SKIPPED = "skipped.jsonl"


def write_rows(path: Path, rows: Iterable[str]) -> None:
    """Write a list of rows, each as JSON: the bytes that `json.dumps` of all of them has."""
    with (
        whole_file(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        stream.write("[")
        for number, row in enumerate(rows):
            stream.write(f", {row}" if number else row)
        stream.write("]")


def write_table(path: Path, table: ResultTable) -> None:
    """Write the table of results; names of files that are no text in UTF-8 keep their bytes."""
    with (
        whole_file(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
    ):
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(table.columns)
        rows.writerows(table.lines)


def write_skipped(path: Path, spoiled: Mapping[str, str]) -> None:
    """Write a line for each image that was left out; where there is none, there is no file."""
    if not spoiled:
        path.unlink(missing_ok=True)  # that of an earlier prediction, which is replaced
        return
    lines = [json.dumps({"file": file, "fault": fault}) for file, fault in spoiled.items()]
    write_text(path, "\n".join(lines) + "\n")

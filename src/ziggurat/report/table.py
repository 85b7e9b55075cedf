"""A table on the terminal: how good the model is, and at which classes it is worst."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ziggurat.metrics.findings import ClassRow, Findings
from ziggurat.metrics.scores import ScoreCurve
from ziggurat.report.names import readable

MAX_ROWS = 20
_PER_LINE = 4  # metrics beside each other


def print_table(console: Console, findings: Findings) -> None:
    """Print the metrics of all classes together, then a row for each class, the worst first."""
    console.print(_overall(findings.metrics))
    if findings.rows:
        console.print(_by_class(findings))
    if findings.scores is not None:
        console.print(best_score(findings.scores), highlight=False)
    hidden = len(findings.rows) - MAX_ROWS
    if hidden > 0:
        console.print(f"and {hidden} more classes, all of them in report/metrics.json", highlight=False)


def best_score(curve: ScoreCurve) -> str:
    """Return from which score on a prediction is best counted, in words."""
    best = curve.numbers()
    if best is None:
        return "nothing is right at any score"
    of_both = f"precision {best['precision']:.3f}, recall {best['recall']:.3f}"
    return f"best F1 {best['f1']:.3f} from a score of {best['score']:.3f} on: {of_both}"


def _overall(metrics: dict[str, float | None]) -> Table:
    table = Table.grid(padding=(0, 1))
    cells = [
        cell
        for name, value in metrics.items()
        for cell in (Text(name, style="cyan"), Text(f"{_show(value)}  "))
    ]
    for start in range(0, len(cells), 2 * _PER_LINE):
        table.add_row(*cells[start : start + 2 * _PER_LINE])
    return table


def _by_class(findings: Findings) -> Table:
    table = Table(title="Classes, the worst first", title_justify="left", header_style="bold")
    table.add_column("class")
    table.add_column(findings.unit, justify="right")
    for name in findings.rows[0].values if findings.rows else ():
        table.add_column(name, justify="right")
    if findings.scores is not None:
        table.add_column("best F1", justify="right")
        table.add_column("from score", justify="right")
    for row in worst_first(findings.rows)[:MAX_ROWS]:
        numbers = list(row.values.values())
        if findings.scores is not None:
            numbers += [None, None] if row.best is None else [row.best["f1"], row.best["score"]]
        table.add_row(Text(readable(row.name)), f"{row.count:,}", *map(_show, numbers))
    return table


def worst_first(rows: list[ClassRow]) -> list[ClassRow]:
    """Order classes by the first of their values; those that have none come last."""

    def key(row: ClassRow) -> tuple[bool, float]:
        value = next(iter(row.values.values()))
        return value is None, value or 0.0

    return sorted(rows, key=key)


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

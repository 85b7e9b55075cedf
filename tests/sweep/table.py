"""The results of the sweep as a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version

from sweep.run import BATCH, CASES, SIZES, Outcome

VERDICTS = {
    "exact": "every error is within 1e-10",
    "raised": "an operation is refused, with its name: nothing is computed",
    "wrong": "an error is above 1e-10",
    "failed": "it ends by another error, or not in time",
    "not built": "it does not run on one worker either; not counted",
}
MOST_WORDS = 240


def format_page(outcomes: Iterable[Outcome], num_missing: int = 0) -> str:
    """Return the page, in Markdown.

    Args:
        outcomes: In the order of the list.
        num_missing: Networks of the list that have not been run.
    """
    rows = list(outcomes)
    counted = [row for row in rows if row.verdict != "not built"]
    exact = sum(row.verdict == "exact" for row in counted)
    plans = ", ".join(f"`sp={plan}` at {'x'.join(map(str, SIZES[size]))}" for plan, size in CASES)
    lines = [
        "# Networks under spatial plans",
        "",
        f"**{exact} of {len(counted)} networks that were run ({exact / max(1, len(counted)):.1%}) are exact.** Written by `make sweep`; "
        f"do not edit. PyTorch {version('torch')}, timm {version('timm')}, segmentation_models_pytorch "
        f"{version('segmentation_models_pytorch')}, torchvision {version('torchvision')}.",
        "",
        f"Each network takes one training step in float64 with {BATCH} images, on one worker and under {plans} (networks "
        "of one size only: at that size; video: volumes of half these sizes, cut along time and height; inception networks, whose last batch norms "
        "would see a handful of values: larger, see `tests/sweep/run.py`). Models of ours and decoders of smp are built "
        "narrow (`model.channels=64`, `model.head_depth=2`). Outputs, loss, the gradients of all "
        "parameters and of the input, and all buffers are compared as [verify.md](verify.md) says.",
        "",
        *[f"- {name}: {text}" for name, text in VERDICTS.items()],
        *([f"- {num_missing} networks of the list have not been run yet"] if num_missing else []),
        "",
        *_by_family(rows),
        "",
        *_not_exact(rows),
        "## All networks",
        "",
        "| family | network | verdict | largest error | only size | gathered whole (layer operation) |",
        "|---|---|---|---|---|---|",
        *[_line(row) for row in rows],
    ]
    return "\n".join(lines) + "\n"


def _by_family(rows: list[Outcome]) -> list[str]:
    families = list(dict.fromkeys(row.family for row in rows))
    lines = ["| family | networks | " + " | ".join(VERDICTS) + " |", "|---|---|" + "---|" * len(VERDICTS)]
    for family in families:
        counts = Counter(row.verdict for row in rows if row.family == family)
        cells = [str(counts[verdict] or "") for verdict in VERDICTS]
        lines.append(f"| {family} | {sum(counts.values())} | {' | '.join(cells)} |")
    return lines


def _not_exact(rows: list[Outcome]) -> list[str]:
    lines = []
    for verdict in list(VERDICTS)[1:]:
        chosen = [row for row in rows if row.verdict == verdict]
        if chosen:
            lines += [f"## {verdict.capitalize()}", ""]
            lines += [f"- `{row.name}`: {_short(row.why)}" for row in chosen]
            lines.append("")
    return lines


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= MOST_WORDS else words[:MOST_WORDS] + " ..."


def _line(row: Outcome) -> str:
    gathers = Counter(key for case in row.cases.values() for key in case.get("gathers", {}))
    shown = ", ".join(list(gathers)[:2]) + (f" and {len(gathers) - 2} more" if len(gathers) > 2 else "")
    error = f"{row.error:.0e}" if row.error else ""
    return f"| {row.family} | `{row.name}` | {row.verdict} | {error} | {row.size} | {shown} |"

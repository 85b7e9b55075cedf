"""The results of the sweep as a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from sweep.run import (
    BATCH,
    CASES,
    SIZES,
    STAGE_BATCH,
    STAGE_CASES,
    STAGE_MICROBATCHES,
    STAGE_SIZES,
    Outcome,
)

VERDICTS = {
    "exact": "every error is within 1e-10",
    "raised": "an operation is refused, with its name: nothing is computed",
    "rounding": "an error is above 1e-10, and no more than twice what rounding in other ways does to the step on one worker",
    "wrong": "an error is above that",
    "failed": "it ends by another error, or not in time",
    "not built": "it does not run on one worker either; not counted",
}
MOST_WORDS = 240


@dataclass(frozen=True)
class Kind:
    """One sweep.

    Attributes:
        title: Of its page.
        file: Name of its results.
        cases: Plans and sizes.
        how: What is run, in words.
    """

    title: str
    file: str
    cases: tuple[tuple[str, str], ...]
    how: str


def _plans(cases: tuple[tuple[str, str], ...], sizes: dict[str, tuple[int, int]]) -> str:
    return ", ".join(f"`{plan}` at {'x'.join(map(str, sizes[size]))}" for plan, size in cases)


SPACE = Kind(
    "Networks under spatial plans",
    "spatial-models",
    CASES,
    f"with {BATCH} images, on one worker and under {_plans(CASES, SIZES)} (networks of one size only: at that size; "
    "video: volumes of half these sizes, cut along time and height; inception networks, whose last batch norms would see a "
    "handful of values: larger, see `tests/sweep/run.py`)",
)
STAGES = Kind(
    "Networks in stages",
    "pipeline-models",
    STAGE_CASES,
    f"with {STAGE_BATCH} images in {STAGE_MICROBATCHES} microbatches (the last one smaller), on one worker and under "
    f"{_plans(STAGE_CASES, STAGE_SIZES)} (`1f1b`: a stage on each worker; `interleaved`: two), cut where measured times "
    "balance (networks of one size only: at that size; inception networks: larger; video: volumes of half the size)",
)
KINDS = {"space": SPACE, "stages": STAGES}


def format_page(outcomes: Iterable[Outcome], num_missing: int = 0, kind: Kind = SPACE) -> str:
    """Return the page, in Markdown.

    Args:
        outcomes: In the order of the list.
        num_missing: Networks of the list that have not been run.
        kind: Which sweep it was.
    """
    rows = list(outcomes)
    counted = [row for row in rows if row.verdict != "not built"]
    exact = sum(row.verdict == "exact" for row in counted)
    lines = [
        f"# {kind.title}",
        "",
        f"**{exact} of {len(counted)} networks that were run ({exact / max(1, len(counted)):.1%}) are exact.** Written by `make sweep`; "
        f"do not edit. PyTorch {version('torch')}, timm {version('timm')}, segmentation_models_pytorch "
        f"{version('segmentation_models_pytorch')}, torchvision {version('torchvision')}.",
        "",
        f"Each network takes one training step in float64 {kind.how}. Models of ours and decoders of smp are built "
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

"""The results of the sweep as a page of the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from sweep.cases import (
    AXES,
    BATCH,
    HEAVY,
    MICROBATCH,
    MOST_MICROBATCHES,
    SIZES,
    STAGE_SIZE,
    Cases,
    axis_cases,
    spatial_cases,
    stage_cases,
    third_party_cases,
)
from sweep.networks import all_networks, of_each_axis
from sweep.run import NetworkResult
from sweep.third_party import DISTRIBUTIONS, TABLES, is_installed, third_party_networks

VERDICTS = {
    "exact": "every error is within 1e-10",
    "raised": "an operation is refused, with its name: nothing is computed",
    "rounding": "an error is above 1e-10, and no more than four times what rounding in other ways does to the same tensor on one worker, "
    "which is at most 1e-7",
    "unclear": "rounding in other ways does more than that, so that a fault could not be told",
    "nondeterministic": "the step on one worker is not the same twice",
    "wrong": "an error is above that",
    "failed": "it ends by another error, or before all plans were tried, for want of time or memory",
    "not built": "it does not run on one worker either, or has no gradient there; not counted",
}
MOST_WORDS = 240


@dataclass(frozen=True)
class Kind:
    """One sweep.

    Attributes:
        title: Of its page.
        file: Name of its results.
        cases: Of a network, by its number in the list.
        how: What is run, in words.
        networks: Family and name of each.
        distributions: Packages whose versions the page says.
        modules: What is imported before the first network, if it is there.
        builds: How they are built, in words.
        is_there: Says of a family whether its package is installed.
        command: What writes the page.
    """

    title: str
    file: str
    cases: Cases
    how: str
    networks: list[tuple[str, str]]
    distributions: tuple[str, ...] = ("timm", "segmentation_models_pytorch", "torchvision")
    modules: tuple[str, ...] = ()
    builds: str = (
        "Models of ours and decoders of smp are built narrow (`model.channels=64`, `model.head_depth=2`)."
    )
    is_there: Callable[[str], bool] = bool
    command: str = "make sweep"


def _size(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


SPACE = Kind(
    "Networks under spatial plans",
    "spatial-models",
    spatial_cases,
    f"with {BATCH} images, on one worker and under "
    + ", ".join(f"`{case.plan}` at {_size(SIZES[case.size])}" for case in spatial_cases(0))
    + " (networks of one size only: at that size; video: volumes of half these sizes, cut along time and height; inception "
    "networks, whose last batch norms would see a handful of values: larger, see `tests/sweep/cases.py`)",
    all_networks(),
)
STAGES = Kind(
    "Networks in stages",
    "pipeline-models",
    stage_cases,
    f"at {_size(STAGE_SIZE)} with {MICROBATCH} images a microbatch (the last one has one less), on one worker and under "
    "`pp=2`, `pp=3` and `pp=4`, each in another of the schedules gpipe, 1f1b and interleaved (two stages on each worker), one of "
    f"them with 1 to {MOST_MICROBATCHES} microbatches: neighbours in the list take other combinations, 72 in a row take all. "
    "Stages are cut where measured times balance (networks of one size only: at that size; inception networks: larger; video: "
    "volumes of half the size)",
    all_networks(),
)
PRODUCTS = Kind(
    "Networks under all axes",
    "axes-models",
    axis_cases,
    f"at {_size(SIZES['square'])} ("
    + ", ".join(f"{name}, for want of memory: {_size(size)}" for name, size in HEAVY.items())
    + f") with {2 * MICROBATCH - 1} images in two microbatches, on one worker and under "
    + ", ".join(f"`{plan}`" for plan in AXES),
    of_each_axis(),
)
THIRD_PARTY = Kind(
    "Networks of other packages",
    "third-party-models",
    third_party_cases,
    "with the images of its table (`tests/sweep/third_party/`), on one worker and under `sp=2`; every third network of the list also "
    "under `sp=2x2`, and under `pp=2` with two microbatches of as many images",
    third_party_networks(),
    tuple(DISTRIBUTIONS),
    tuple(module for module, _ in TABLES.values()),
    "They are built narrow and shallow, of each family one or a few; as they are, but for those that are called with more than images.",
    is_installed,
    "make zoo",
)
KINDS = {"space": SPACE, "stages": STAGES, "axes": PRODUCTS, "third-party": THIRD_PARTY}


def format_page(outcomes: Iterable[NetworkResult], num_missing: int = 0, kind: Kind = SPACE) -> str:
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
        f"**{exact} of {len(counted)} networks that were run ({exact / max(1, len(counted)):.1%}) are exact.** Written by `{kind.command}`; "
        f"do not edit. {', '.join(_versions(kind))}.",
        "",
        f"Each network takes one training step in float64 {kind.how}. {kind.builds} Outputs, losses, the gradients of all "
        "parameters and of the input, all buffers, and the state after the step are compared as [verify.md](verify.md) says.",
        "",
        *[f"- {name}: {text}" for name, text in VERDICTS.items()],
        *([f"- {num_missing} networks of the list have not been run yet"] if num_missing else []),
        "",
        *_by_plan(rows),
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


def _versions(kind: Kind) -> Iterator[str]:
    yield f"PyTorch {version('torch')}"
    for name in kind.distributions:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"{name} was not installed"


def _by_plan(rows: list[NetworkResult]) -> list[str]:
    cases = [(key.split()[0], case["verdict"]) for row in rows for key, case in row.cases.items()]
    return _counted("plan", cases)


def _by_family(rows: list[NetworkResult]) -> list[str]:
    return _counted("family", [(row.family, row.verdict) for row in rows])


def _counted(what: str, verdicts: list[tuple[str, str]]) -> list[str]:
    """Return a table of how often each verdict was given to whom."""
    lines = [f"| {what} | networks | " + " | ".join(VERDICTS) + " |", "|---|---|" + "---|" * len(VERDICTS)]
    for name in dict.fromkeys(name for name, _ in verdicts):
        counts = Counter(verdict for one, verdict in verdicts if one == name)
        cells = [str(counts[verdict] or "") for verdict in VERDICTS]
        lines.append(f"| {name} | {sum(counts.values())} | {' | '.join(cells)} |")
    return lines


def _not_exact(rows: list[NetworkResult]) -> list[str]:
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


def _line(row: NetworkResult) -> str:
    gathers = Counter(key for case in row.cases.values() for key in case.get("gathers", {}))
    shown = ", ".join(list(gathers)[:2]) + (f" and {len(gathers) - 2} more" if len(gathers) > 2 else "")
    error = f"{row.error:.0e}" if row.error else ""
    return f"| {row.family} | `{row.name}` | {row.verdict} | {error} | {row.size} | {shown} |"

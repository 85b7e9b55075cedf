"""Verify many networks under spatial plans, or in stages, and write what came of it: ``make sweep``.

    python tests/sweep/main.py [--kind space|stages|axes|third-party] [--only TEXT ...] [--plan PLAN ...] [--again VERDICT ...]
                               [--every-pair] [--limit SECONDS] [--jobs NUMBER] [--out FILE]

Results are kept after each network: a sweep that is stopped goes on where it was. Delete the results to begin anew.

The kind third-party takes networks of packages that are not installed by make setup:

    pip install --constraint constraints.txt '.[zoo]'
    pip install --no-deps dynamic-network-architectures==0.4.4   (nnU-Net's, which ask for another timm than is tested here)

Networks of packages that are not there are passed over.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo  # before any fork

from sweep.cases import Case, every_pair
from sweep.run import NetworkResult, Task, run_networks
from sweep.table import KINDS, SPACE, Kind, format_page

WORSE = ("exact", "rounding", "unclear", "raised", "failed", "wrong", "nondeterministic", "not built")
ENDED = ("failed", "nondeterministic", "not built")
DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    """Run every network that lacks a result, and write the page."""
    options = read_options()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the network's processes, too
    kind = KINDS[options.kind]
    cases, out = kind.cases, options.out or DOCS / f"{kind.file}.json"
    if options.every_pair and kind is SPACE:
        cases = every_pair
    results = load(out)
    begin = time.monotonic()
    numbers = {row: number for number, row in enumerate(kind.networks)}
    preload(kind)
    again = {name for name, known in results.items() if known.verdict in options.again}

    def tasks() -> Iterator[Task]:
        for family, name in in_rounds(kind.networks):
            known = None if name in again else results.get(name)
            missing = [
                case
                for case in cases(numbers[family, name])
                if (not options.plan or case.plan in options.plan) and not is_known(case, known)
            ]
            wanted = any(text in name or text in family for text in options.only)
            if missing and wanted and kind.is_there(family):
                yield family, name, missing

    for outcome in run_networks(tasks(), options.limit, options.jobs):
        name = outcome.name
        results[name] = outcome = joined(None if name in again else results.get(name), outcome)
        write(out, results, kind)
        seconds = time.monotonic() - begin
        print(
            f"{seconds:6.0f} s  {outcome.verdict:9} {outcome.error:8.1e}  {name}  {outcome.why[:150]}",
            flush=True,
        )
    write(out, results, kind)


def read_options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=list(KINDS), default="space", help="what is verified")
    parser.add_argument("--only", nargs="*", default=[""], help="networks whose family or name holds a text")
    parser.add_argument("--plan", nargs="*", default=[], help="plans that are tried; all by default")
    parser.add_argument("--again", nargs="*", default=[], help="verdicts of networks that are run again")
    parser.add_argument("--every-pair", action="store_true", help="each spatial plan at each size")
    parser.add_argument("--limit", type=float, default=150, help="seconds for each network")
    parser.add_argument("--jobs", type=int, default=1, help="networks that are verified at a time")
    parser.add_argument("--out", type=Path, help="the results; the page stands beside them")
    return parser.parse_args()


def preload(kind: Kind) -> None:
    """Import before the forks what every network of a package would import after its own."""
    for name in kind.modules:
        if importlib.util.find_spec(name):
            importlib.import_module(name)


def is_known(case: Case, known: NetworkResult | None) -> bool:
    """Say whether a network's result has a case, or the network ended before it came to that."""
    if known is None:
        return False
    return known.verdict in ENDED or any(key.startswith(f"{case.title} ") for key in known.cases)


def joined(known: NetworkResult | None, new: NetworkResult) -> NetworkResult:
    """Return the result of a network whose plans were tried in two runs."""
    if known is None:
        return new
    worst = max(known, new, key=lambda result: WORSE.index(result.verdict))
    return replace(
        worst,
        cases=known.cases | new.cases,
        error=max(known.error, new.error),
        seconds=round(known.seconds + new.seconds, 1),
    )


def in_rounds(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the first network of each family, then the second ones, ...: a part of the sweep is a fair sample."""
    families: dict[str, list[tuple[str, str]]] = {}
    for row in rows:
        families.setdefault(row[0], []).append(row)
    rounds = itertools.zip_longest(*families.values())
    return [row for of_round in rounds for row in of_round if row is not None]


def load(path: Path) -> dict[str, NetworkResult]:
    """Return the results so far, by name."""
    if not path.is_file():
        return {}
    return {row["name"]: NetworkResult(**row) for row in json.loads(path.read_text(encoding="utf-8"))}


def write(path: Path, results: dict[str, NetworkResult], kind: Kind) -> None:
    """Write the results and the page, both in the order of the list."""
    rows = [results[name] for _, name in kind.networks if name in results]
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    page = format_page(rows, len(kind.networks) - len(rows), kind)
    path.with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

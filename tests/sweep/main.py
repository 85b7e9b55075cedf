"""Verify many networks under spatial plans, and write what came of it: ``make sweep``.

    python tests/sweep/main.py [--only TEXT ...] [--limit SECONDS] [--results FILE] [--again VERDICT ...]

Results are kept after each network: a sweep that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo  # before any fork

from sweep.networks import all_networks
from sweep.run import CASES, Outcome, run_network

DOCS = Path(__file__).resolve().parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="networks whose family or name holds a text")
    parser.add_argument("--limit", type=float, default=120, help="seconds for each network")
    parser.add_argument("--results", type=Path, default=DOCS / "spatial-models.json")
    parser.add_argument("--again", nargs="*", default=[], help="verdicts of networks that are run again")
    parser.add_argument("--cases", nargs="*", default=[":".join(case) for case in CASES], help="PLAN:SIZE")
    options = parser.parse_args()
    cases = [tuple(case.split(":")) for case in options.cases]
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the network's processes, too
    results = load(options.results)
    begin = time.monotonic()
    for family, name in all_networks():
        known = results.get(name)
        if not any(text in name or text in family for text in options.only):
            continue
        if known is not None and known.verdict not in options.again:
            continue
        outcome = run_network(family, name, cases, options.limit)
        results[name] = outcome
        save(options.results, results)
        print(
            f"{time.monotonic() - begin:6.0f} s  {outcome.verdict:9} {outcome.error:8.1e}  {name}  {outcome.why[:150]}",
            flush=True,
        )


def load(path: Path) -> dict[str, Outcome]:
    if not path.is_file():
        return {}
    return {row["name"]: Outcome(**row) for row in json.loads(path.read_text(encoding="utf-8"))}


def save(path: Path, results: dict[str, Outcome]) -> None:
    rows = [asdict(results[name]) for _, name in all_networks() if name in results]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

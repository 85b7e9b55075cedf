"""Write random programs, and take each as a training step by one worker and under a plan: ``make fuzz N=1000``.

    python tests/fuzz/main.py [--plan sp=2 ...] [--programs 1000] [--first-seed 0] [--out FILE] [--pools 1]
    python tests/fuzz/main.py --plan sp=2 --seed 17 [--shrink]     one program: what it is, and what comes of it

Results are kept as they come: a run that is stopped goes on where it was. Delete the file to begin anew. It ends with status 1 if a
program was wrong, crashed or hung.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo  # before any fork

from fuzz.generate import Form, generate
from fuzz.pool import LIMIT_SECONDS, Pool, judge_one, run_all
from fuzz.tally import Tally, load, save

PLANS = ("sp=2", "sp=3", "sp=2x2", "pp=2", "lp=2", "tp=2", "dp=2,sp=2")
BLOCK = 100  # programs between two writings


def form_of(plan: str) -> Form:
    """Return what programs must have in them so that a plan can spread them."""
    return "pair" if "tp" in plan else "branches" if "lp" in plan else "any"


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", nargs="*", default=PLANS, help="by default all")
    parser.add_argument("--programs", type=int, default=1000, help="under each plan")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the results; by default they are not kept")
    parser.add_argument("--pools", type=int, default=1, help="programs that are judged at a time")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for each program")
    parser.add_argument("--seed", type=int, help="one program")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        if options.seed is not None:
            return max(show(plan, options.seed, options.limit) for plan in options.plan)
        return fuzz(options)
    except KeyboardInterrupt:
        return 130


def show(plan: str, seed: int, limit: float) -> int:
    """Print a program, and what comes of it; returns 1 where that is a fault."""
    program = generate(seed, form_of(plan))
    pool = Pool(plan, form_of(plan), limit)
    try:
        finding = judge_one(pool, program)
    finally:
        pool.close()
    print(program.describe())
    print(f"{plan}: {finding.verdict} {finding.error:.1e} {finding.why}")
    return int(finding.is_fault)


def fuzz(options: argparse.Namespace) -> int:
    """Judge programs of consecutive seeds under each plan."""
    tallies = load(options.out) if options.out else {}
    for plan in options.plan:
        tally = tallies.setdefault(plan, Tally(plan, options.first_seed))
        run(
            tally,
            options.programs,
            options.pools,
            options.limit,
            lambda: options.out and save(options.out, tallies),
        )
        print(tally.line(), flush=True)
    print(json.dumps({plan: tallies[plan].to_json() | {"kinds": {}, "faults": []} for plan in options.plan}))
    return int(any(tallies[plan].has_faults for plan in options.plan))


def run(tally: Tally, programs: int, num_pools: int, limit: float, keep) -> None:
    """Bring a tally to so many programs."""
    form = form_of(tally.plan)
    pools = [Pool(tally.plan, form, limit) for _ in range(num_pools)]
    try:
        while tally.num_programs < programs:
            begin = time.monotonic()
            first = tally.first_seed + tally.num_programs
            seeds = range(first, min(first + BLOCK, tally.first_seed + programs))
            for finding in run_all(pools, seeds):
                tally.add(finding)
                if finding.is_fault:
                    print(
                        f"  seed {finding.seed}: {finding.verdict} {finding.why.splitlines()[0][:150]}",
                        flush=True,
                    )
            tally.num_programs += len(seeds)
            tally.seconds += time.monotonic() - begin
            keep()
            print(tally.line(), flush=True)
    finally:
        for pool in pools:
            pool.close()


if __name__ == "__main__":
    sys.exit(main())

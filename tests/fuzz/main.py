"""Write random programs, and take each as a training step by one worker and under a plan: ``make fuzz N=1000``.

    python tests/fuzz/main.py [--plan sp=2 ...] [--programs 1000] [--first-seed 0] [--out FILE] [--pools 1]
    python tests/fuzz/main.py --plan sp=2 --seed 17     one program, what comes of it, and if it fails what is left when it is shrunk
    python tests/fuzz/main.py --planted                 faults that are planted in the engine, and what finds them

Results are kept as they come: a run that is stopped (Ctrl-C, SIGTERM) writes what it has counted and goes on there. Delete the file to begin anew. It ends with status 1 if a
program was wrong, crashed or hung.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo  # before any fork

from fuzz.forward import ForwardJudge
from fuzz.generate import Form, generate
from fuzz.judge import Finding, Judge
from fuzz.planted import find_all
from fuzz.pool import LIMIT_SECONDS, Pool, judge_one, run_all
from fuzz.program import Program
from fuzz.shrink import MOST_TRIES, same_way, shrink
from fuzz.tally import Tally, load, save
from ziggurat.errors import UserError
from ziggurat.strategies.plan import parse_plan

PLANS = ("sp=2", "sp=3", "sp=2x2", "pp=2", "lp=2", "tp=2", "dp=2,sp=2")
FEWER_TRIES = 40  # to shrink a program that hangs
QUICK_LIMIT = 4.0  # seconds, to find again that it does
BLOCK = 100  # programs between two writings


def form_of(plan: str) -> Form:
    """Return what programs must have in them so that a plan can spread them."""
    forms: dict[str, Form] = {"tp": "pair", "lp": "branches", "pp": "stages"}
    return next((form for axis, form in forms.items() if axis in plan), "any")


def natural(word: str) -> int:
    """Return a number of things, one at least."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"one or more: got {word}")
    return int(word)


def plan_of(word: str) -> str:
    """Return a plan that there is."""
    try:
        parse_plan(word)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", nargs="*", type=plan_of, default=PLANS, help="by default all")
    parser.add_argument("--programs", type=natural, default=1000, help="under each plan")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the results; by default they are not kept")
    parser.add_argument("--pools", type=natural, default=1, help="programs that are judged at a time")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="seconds for each program")
    parser.add_argument(
        "--shrink", type=int, default=20, help="so many programs that fail, of each plan, are shrunk"
    )
    parser.add_argument("--seed", type=int, help="one program")
    parser.add_argument(
        "--forward", action="store_true", help="forward alone, in evaluation, instead of steps"
    )
    parser.add_argument(
        "--skip",
        nargs="*",
        default=[],
        help="texts: programs with a kind of statement that holds one are passed over",
    )
    parser.add_argument(
        "--planted", action="store_true", help="find the faults that can be planted in the engine"
    )
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the workers, too
    try:
        if options.planted:
            return int(not find_all(limit=options.limit))
        if options.seed is not None:
            return max(show(plan, options.seed, options) for plan in options.plan)
        return fuzz(options)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def pool_of(plan: str, options: argparse.Namespace) -> Pool:
    """Return workers that judge as is asked for."""
    return Pool(plan, options.limit, judge=ForwardJudge if options.forward else Judge)


def show(plan: str, seed: int, options: argparse.Namespace) -> int:
    """Print a program, what comes of it, and the few lines that fail in the same way; returns 1 where it fails."""
    program = generate(seed, form_of(plan))
    pool = pool_of(plan, options)
    try:
        finding = judge_one(pool, program)
        print(f"{program.describe()}\n{plan}: {finding.verdict} {finding.error:.1e} {finding.why}")
        if finding.is_fault:
            small, found = shrunk(pool, program, finding)
            print(f"{small.describe()}\n{plan}: {found.verdict} {found.error:.1e} {found.why}")
    finally:
        pool.close()
    return int(finding.is_fault)


def shrunk(pool: Pool, program: Program, finding: Finding) -> tuple[Program, Finding]:
    """Return the smallest program that fails in the same way, and what comes of it."""
    is_same, found = same_way(finding), finding
    if finding.verdict == "hung":
        pool.close()
        quick = {"start_seconds": QUICK_LIMIT, "follow_seconds": QUICK_LIMIT / 2}
        pool = Pool(pool.plan, QUICK_LIMIT, judge=pool.judge, **quick)

    def fails(candidate: Program) -> bool:
        nonlocal found
        one = judge_one(pool, candidate)
        if is_same(one):
            found = one
        return is_same(one)

    try:
        return shrink(program, fails, MOST_TRIES if finding.verdict != "hung" else FEWER_TRIES), found
    finally:
        pool.close()


def fuzz(options: argparse.Namespace) -> int:
    """Judge programs of consecutive seeds under each plan."""
    tallies = load(options.out) if options.out else {}
    for plan in options.plan:
        tally = tallies.setdefault(name_of(plan, options), Tally(plan, options.first_seed))
        run(tally, options, lambda: options.out and save(options.out, tallies))
        print(tally.line(), flush=True)
    asked = [name_of(plan, options) for plan in options.plan]
    print(json.dumps({name: tallies[name].to_json() | {"kinds": {}, "faults": []} for name in asked}))
    return int(any(tallies[name].has_faults for name in asked))


def name_of(plan: str, options: argparse.Namespace) -> str:
    """Return by which name what came of a plan is kept."""
    return f"{plan} forward" if options.forward else plan


def run(tally: Tally, options: argparse.Namespace, keep: Callable[[], object]) -> None:
    """Bring a tally to as many programs as are asked for."""
    form, last = form_of(tally.plan), tally.first_seed + options.programs
    pools = [pool_of(tally.plan, options) for _ in range(options.pools)]
    try:
        while tally.num_programs < options.programs:
            begin = time.monotonic()
            first = tally.first_seed + tally.num_programs
            seeds = range(first, min(first + BLOCK, last))
            judged: dict[int, Finding | None] = {}
            try:
                for finding in run_all(pools, wanted(seeds, form, options.skip, judged)):
                    judged[finding.seed] = finding
                    if finding.is_fault:
                        print(
                            f"{tally.plan} seed {finding.seed}: {finding.verdict} {first_line_of(finding)}",
                            flush=True,
                        )
            finally:  # also where it is stopped
                tally.seconds += time.monotonic() - begin
                found = count(tally, seeds, judged)
                keep()
                print(tally.line(), flush=True)
            for finding in found:
                if finding.is_fault and tally.num_shrunk < options.shrink:
                    tally.num_shrunk += 1
                    print(report(finding, tally.plan, options), flush=True)
    finally:
        for pool in pools:
            pool.close()


def count(tally: Tally, seeds: Iterable[int], judged: dict[int, Finding | None]) -> list[Finding]:
    """Count the programs of seeds up to the first that is not judged yet; returns what came of them."""
    found = []
    for seed in seeds:
        if seed not in judged:
            break
        tally.num_programs += 1
        if (finding := judged[seed]) is not None:
            tally.add(finding)
            found.append(finding)
    return found


def wanted(
    seeds: Iterable[int], form: Form, skip: Sequence[str], passed_over: dict[int, Finding | None]
) -> Iterator[Program]:
    """Yield the programs of seeds, but for those with a kind of statement that holds one of some texts: they are noted as None."""
    for seed in seeds:
        program = generate(seed, form)
        if any(text in kind for text in skip for kind in program.kinds):
            passed_over[seed] = None
        else:
            yield program


def report(finding: Finding, plan: str, options: argparse.Namespace) -> str:
    """Return what is left of a program that fails when it is shrunk."""
    pool = pool_of(plan, options)
    try:
        small, found = shrunk(pool, generate(finding.seed, form_of(plan)), finding)
    finally:
        pool.close()
    return f"{small.describe()}# {plan}: {found.verdict} {found.error:.1e} {found.why}\n"


def first_line_of(finding: Finding) -> str:
    """Return the first line of why."""
    return finding.why.split("\n", 1)[0][:150]


if __name__ == "__main__":
    sys.exit(main())

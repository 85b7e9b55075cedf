"""Run programs, and print what came of each: ``python tests/programs/main.py``.

    python tests/programs/main.py [--only TEXT ...] [--verdict VERDICT ...] [--plan PLAN ...] [--limit SECONDS] [--json FILE]

It ends with status 1 if a promise is broken: a program is neither exact nor refused by name.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo  # before any fork

from programs.program import CLASSES, given_file, given_programs, own_programs
from programs.run import LIMIT, VERDICTS, Verdict, run_programs


def main() -> int:
    """Run what is asked for, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=[""], help="programs whose class or name holds a text")
    parser.add_argument("--verdict", nargs="*", default=list(VERDICTS), help="verdicts that are shown")
    parser.add_argument("--plan", nargs="*", default=[], help="instead of the plans of each program")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for each program")
    parser.add_argument("--json", type=Path, help="a file for the verdicts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the workers, too
    given = given_programs()
    if not given:
        print(
            f"skipped: the programs that came with the issue are not at {given_file()}; set ZIGGURAT_PROGRAMS"
        )
    programs = [
        p for p in own_programs() + given if any(text in f"{p.kind}.{p.name}" for text in options.only)
    ]
    begin = time.monotonic()
    found = list(
        run_programs([(p, plan) for p in programs for plan in options.plan or p.plans], options.limit)
    )
    for verdict in found:
        if verdict.verdict in options.verdict:
            print(format_line(verdict))
    print("\n".join(["", *format_counts(found)]))
    print(f"\n{len(programs)} programs, {len(found)} steps, {time.monotonic() - begin:.0f} s")
    if options.json:
        rows = [
            {"program": v.program.name, "class": v.program.kind, "plan": v.plan, "verdict": v.verdict}
            | {"error": v.error, "message": v.message, "seconds": round(v.seconds, 2)}
            for v in found
        ]
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(not all(verdict.is_kept for verdict in found))


def format_line(verdict: Verdict) -> str:
    """Return the verdict of a program under a plan in a line."""
    name = f"{verdict.program.kind}.{verdict.program.name}"
    error = f"{verdict.error:8.1e}" if verdict.error else ""
    message = "" if verdict.verdict == "exact" else " ".join(verdict.message.split())
    return f"{name:60} {verdict.plan:8} {verdict.verdict:14} {error:8} {message}".rstrip()


def format_counts(found: list[Verdict]) -> list[str]:
    """Return a table in Markdown: of each class how many programs there are, and how often each verdict was given."""
    shown = [name for name in VERDICTS if any(v.verdict == name for v in found)]
    lines = [
        "| class | programs | steps | " + " | ".join(shown) + " |",
        "|---|---|---|" + "---|" * len(shown),
    ]
    kinds = {kind: title for kind, title in CLASSES.items() if any(v.program.kind == kind for v in found)}
    for kind, title in [*kinds.items(), ("", "all")]:
        rows = [v for v in found if v.program.kind == kind or not kind]
        counts = Counter(v.verdict for v in rows)
        names = {(v.program.kind, v.program.name, v.program.build.__module__) for v in rows}
        cells = " | ".join(str(counts[name] or "") for name in shown)
        lines.append(f"| {title} | {len(names)} | {len(rows)} | {cells} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())

"""Every setting, flag and axis of a plan with bad values, and mutations of configs and tables: ``make settings``.

    python tests/settings_fuzz/main.py [--first 0] [--cases N] [--short]     so many cases, by default all
    python tests/settings_fuzz/main.py --only 17                             one, and all that it says

Each case must end in status 2 with one message, or in a run that is right; silent for ten seconds at most, and without
leaving a process. It ends with status 1 if one did not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch._dynamo  # before any fork

from settings_fuzz.cases import all_cases, short_cases
from settings_fuzz.data import make_place
from settings_fuzz.judge import run_case


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=0, help="how many; 0 for all")
    parser.add_argument("--only", type=int, help="one case")
    parser.add_argument("--short", action="store_true", help="the part that make test runs")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    cases = short_cases() if options.short else all_cases()
    first = options.first if options.only is None else options.only
    count = 1 if options.only is not None else options.cases or len(cases)
    statuses: Counter[int] = Counter()
    wrong, begin, slowest = 0, time.monotonic(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder) / "place")
        for number, case in list(enumerate(cases))[first : first + count]:
            ending, faults = run_case(case, place, Path(folder) / f"case-{number}")
            statuses[ending.status] += 1
            slowest = max(slowest, ending.seconds)
            wrong += bool(faults)
            if faults or options.only is not None:
                said = ending.errors if options.only is not None else ending.errors[-400:]
                print(
                    f"{number}: {case.name[:80]}: status {ending.status}, {'; '.join(faults)[:300]}\n{said}",
                    flush=True,
                )
    total = sum(statuses.values())
    print(
        f"{total} cases in {time.monotonic() - begin:.0f} s, the slowest {slowest:.1f} s: "
        f"{', '.join(f'{count} with status {status}' for status, count in sorted(statuses.items()))}; {wrong} wrong"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

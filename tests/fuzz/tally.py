"""What came of many programs: counts, reasons of refusal, and the programs that failed; kept, so that a stopped run goes on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.judge import FAULTS, VERDICTS, Finding, shortened

MOST_KEPT = 2000  # faults


@dataclass
class Tally:
    """Counts over the programs of consecutive seeds.

    Attributes:
        plan: Under which.
        first_seed: Of the first program.
        num_programs: How many, from there on.
        verdicts: How often each was given.
        kinds: Of each kind of statement, how often a program that has it was given each verdict.
        refusals: Reasons, with counts.
        invalid: Reasons, with counts.
        faults: Programs that were wrong, crashed or hung.
        seconds: All together.
        num_shrunk: Programs that failed and were shrunk, in this run.
    """

    plan: str
    first_seed: int = 0
    num_programs: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    refusals: Counter[str] = field(default_factory=Counter)
    invalid: Counter[str] = field(default_factory=Counter)
    faults: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    num_shrunk: int = 0

    def add(self, finding: Finding) -> None:
        """Count a program."""
        self.verdicts[finding.verdict] += 1
        for kind in finding.kinds:
            self.kinds.setdefault(kind, Counter())[finding.verdict] += 1
        if finding.verdict == "refused":
            self.refusals[shortened(finding.why)] += 1
        if finding.verdict == "invalid":
            self.invalid[shortened(finding.why)] += 1
        if finding.is_fault and len(self.faults) < MOST_KEPT:
            one = {
                "seed": finding.seed,
                "verdict": finding.verdict,
                "error": finding.error,
                "why": finding.why[-1500:],
            }
            self.faults.append(one | {"first": finding.why.split("\n", 1)[0]})

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON has them."""
        judged = sum(self.verdicts[name] for name in VERDICTS if name != "invalid")
        return {
            "plan": self.plan,
            "first_seed": self.first_seed,
            "num_programs": self.num_programs,
            "seconds": round(self.seconds, 1),
            "verdicts": {name: self.verdicts[name] for name in VERDICTS},
            "share_exact": round(self.verdicts["exact"] / judged, 4) if judged else None,
            "refusals": dict(self.refusals.most_common()),
            "invalid": dict(self.invalid.most_common()),
            "kinds": {name: dict(counts) for name, counts in sorted(self.kinds.items())},
            "faults": sorted(self.faults, key=lambda one: one["seed"]),
        }

    @staticmethod
    def from_json(found: dict[str, Any]) -> Tally:
        """Return counts from what `to_json` gave."""
        return Tally(
            found["plan"], found["first_seed"], found["num_programs"], Counter(found["verdicts"]),
            {name: Counter(counts) for name, counts in found["kinds"].items()}, Counter(found["refusals"]),
            Counter(found["invalid"]), list(found["faults"]), found["seconds"],
        )  # fmt: skip

    def line(self) -> str:
        """Return the counts in a line."""
        counts = ", ".join(f"{self.verdicts[name]} {name}" for name in VERDICTS if self.verdicts[name])
        rate = self.num_programs / self.seconds if self.seconds else 0.0
        return f"{self.plan}: {self.num_programs} programs in {self.seconds:.0f} s ({rate:.1f} a second): {counts}"

    @property
    def has_faults(self) -> bool:
        """Whether a program was wrong, crashed or hung."""
        return any(self.verdicts[name] for name in FAULTS)


def load(path: Path) -> dict[str, Tally]:
    """Return the tallies of a file, by plan; none where there is no file."""
    if not path.is_file():
        return {}
    return {
        plan: Tally.from_json(found) for plan, found in json.loads(path.read_text(encoding="utf-8")).items()
    }


def save(path: Path, tallies: dict[str, Tally]) -> None:
    """Write tallies, so that a reader never sees half of them."""
    new = path.with_suffix(".new")
    new.write_text(
        json.dumps({plan: one.to_json() for plan, one in tallies.items()}, indent=1) + "\n", encoding="utf-8"
    )
    new.replace(path)

"""What do several models give for the same work? Members, soups and local SGD on digits, against one model that is trained as long.

Every way sees as many samples: three members of S steps, one model of 3 S steps, or S steps of a batch three times as large, on one model or on
four replicas that are joined every H steps. Each seed is another training set, another validation set and other first weights, the same for
every way: so differences are taken seed by seed, and their 95 % interval is that of their mean (Student's t). An interval that has 0 in
it says nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from ziggurat.commands.evaluate import evaluate
from ziggurat.commands.soup import soup
from ziggurat.commands.train import train
from ziggurat.system.platform import processor_name

FIXED: dict[str, Any] = {
    "task": "classify", "model.name": "pnn", "model.pnn.channels": 12, "model.pnn.levels": 2, "data.crop": 24, "data.resize": 24,
    "digits.size": 24, "digits.count_min": 1, "digits.count_max": 1, "digits.height_min": 14, "digits.height_max": 22,
    "digits.train_scenes": 1000, "digits.val_scenes": 600, "train.lr": 4e-3, "data.scale_min": 0.95, "data.scale_max": 1.05,
    "data.workers": 0, "data.flip": "none", "train.ema": 0, "train.warmup": 0.06, "train.checkpoint_every": 0, "train.report": "numbers",
    "threads": 1, "dtype": "fp32", "plan": "dp=1",
}  # fmt: skip
QUICK: dict[str, Any] = {
    "digits.train_scenes": 12,
    "digits.val_scenes": 6,
    "model.pnn.channels": 8,
    "train.warmup": 0,
}
MEMBERS, REPLICAS, BASELINE = 3, 4, "one model, as long"


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        seed: Of data and weights.
        steps: Of a member.
        batch: Of a member's step.
        small: Settings that make it smaller.
    """

    seed: int
    steps: int = 200
    batch: int = 32
    small: tuple[tuple[str, Any], ...] = ()

    def train(self, folder: Path, times: float = 1, batch: int = 1, **more: Any) -> dict[str, Any]:
        """Train, and return the command's result.

        Args:
            folder: Of the run.
            times: A multiple of a member's steps.
            batch: A multiple of its batch.
            more: Settings, with ``__`` for the dot.
        """
        given = FIXED | {"train.microbatches": 1} | dict(self.small)
        given |= {"seed": self.seed, "digits.seed": self.seed}
        given |= {"train.steps": round(times * self.steps), "train.batch_size": batch * self.batch}
        given |= {name.replace("__", "."): value for name, value in more.items()}
        result = train("digits", given, folder)
        assert result is not None
        return result


def of(result: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a single model."""
    return {"top1": result["metrics"]["top1"], "sha256": result["weights_sha256"]}


def members(how: str) -> Callable[[Work, Path], dict[str, Any]]:
    """Return what trains members on some of the data, and evaluates their average."""

    def way(work: Work, folder: Path) -> dict[str, Any]:
        several = work.train(folder / "run", members__count=MEMBERS, members__data=how)
        average = evaluate(folder / "run", "digits")
        assert average is not None
        found: dict[str, Any] = {"top1": average["metrics"]["top1"], "of_each": several["metrics"]["top1"]}
        if how == "all":
            found["soup"] = of_soup(folder)
        return found

    return way


def of_soup(folder: Path) -> float:
    """Return the accuracy of the mean of the members' weights."""
    soup(folder / "run", str(folder / "soup"))
    result = evaluate(folder / "soup", "digits")
    assert result is not None
    return float(result["metrics"]["top1"])


def soup_of_one_start(work: Work, folder: Path) -> dict[str, Any]:
    """Train one model, go on from its weights with three members, and average their weights: the same work altogether."""
    work.train(folder / "start")
    several = work.train(
        folder / "run",
        2 / 3,
        members__count=MEMBERS,
        model__weights=str(folder / "start"),
        train__lr=FIXED["train.lr"] / 4,
    )
    average = evaluate(folder / "run", "digits")
    assert average is not None
    return {
        "top1": of_soup(folder),
        "of_each": several["metrics"]["top1"],
        "average": average["metrics"]["top1"],
    }


def replicas(every: int, outer_lr: float, outer_momentum: float) -> Callable[[Work, Path], dict[str, Any]]:
    """Return what trains by local SGD, on two workers."""

    def way(work: Work, folder: Path) -> dict[str, Any]:
        settings = {
            "replicas": REPLICAS,
            "sync_every": every,
            "outer_lr": outer_lr,
            "outer_momentum": outer_momentum,
        }
        return large_batch(work, folder, **{f"local_sgd__{name}": value for name, value in settings.items()})

    return way


def large_batch(work: Work, folder: Path, **more: Any) -> dict[str, Any]:
    """Train with a batch three times as large, in as many microbatches as there are replicas, on two workers."""
    result = work.train(folder / "run", batch=MEMBERS, train__microbatches=REPLICAS, plan="dp=2", **more)
    return of(result) | {"bytes_per_step": result["exchanged_bytes"] / result["steps"]}


WAYS: dict[str, Callable[[Work, Path], dict[str, Any]]] = {
    BASELINE: lambda work, folder: of(work.train(folder / "run", MEMBERS)),
    "one model, a third of the steps": lambda work, folder: of(work.train(folder / "run")),
    "members, all": members("all"),
    "members, disjoint": members("disjoint"),
    "members, bootstrap": members("bootstrap"),
    "soup, from one start": soup_of_one_start,
    "large batch": large_batch,
    "local SGD, H=10": replicas(10, 0.7, 0.9),
    "local SGD, H=50": replicas(50, 0.7, 0.9),
    "local SGD, H=10, mean": replicas(10, 1.0, 0.0),
    "local SGD, H=50, mean": replicas(50, 1.0, 0.0),
}
QUICK_WAYS = ("members, disjoint", "local SGD, H=10")


def measure(name: str, work: Work) -> dict[str, Any]:
    """Train one way; return its accuracy, and what else it has."""
    with tempfile.TemporaryDirectory() as folder:
        return {"way": name, "seed": work.seed, **WAYS[name](work, Path(folder))}


def difference(runs: list[dict[str, Any]], others: dict[int, float], key: str) -> str:
    """Return the mean of differences to others, seed by seed, with half the width of its 95 % interval."""
    each = [run[key] - others[run["seed"]] for run in runs if key in run and run["seed"] in others]
    if not each:
        return ""
    if len(each) == 1:
        return f"{each[0]:+.3f}"
    half = stats.t.ppf(0.975, len(each) - 1) * statistics.stdev(each) / len(each) ** 0.5
    return f"{statistics.fmean(each):+.3f} ± {half:.3f}"


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Return a line for each way: accuracy, its difference to one model that is trained as long, and bytes."""
    base = {line["seed"]: line["top1"] for line in lines if line["way"] == BASELINE}
    rows = [
        "| | seeds | top1 | against one model, as long | each member | bytes a step |",
        "|---|---|---|---|---|---|",
    ]
    for name, key, shown in itertools.chain.from_iterable(_rows_of(name) for name in WAYS):
        runs = [line for line in lines if line["way"] == name and key in line]
        if not runs:
            continue
        score = statistics.fmean(run[key] for run in runs)
        each = f"{statistics.fmean(run['of_each'] for run in runs):.3f}" if "of_each" in runs[0] else ""
        sent = (
            f"{statistics.fmean(run['bytes_per_step'] for run in runs):,.0f}"
            if "bytes_per_step" in runs[0]
            else ""
        )
        rows.append(
            f"| {shown} | {len(runs)} | {score:.3f} | {difference(runs, base, key)} | {each} | {sent} |"
        )
    return "\n".join(rows)


def _rows_of(name: str) -> list[tuple[str, str, str]]:
    """Return the rows of a way: its name, what of its lines is shown, and what it is called."""
    rows = [(name, "top1", name)]
    if name == "members, all":
        rows.append((name, "soup", "soup of these"))
    if name == "soup, from one start":
        rows.append((name, "average", "average of these members"))
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Train every way with every seed, print the table and add a line for each to results.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=list(range(5)), help="each way is trained with each"
    )
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--table", action="store_true", help="print the table of what is measured already")
    parser.add_argument(
        "--quick", action="store_true", help="a form of seconds, which shows that it runs and is not written"
    )
    options = parser.parse_args(words)
    if options.quick:
        work = Work(0, steps=2, batch=4, small=tuple(QUICK.items()))
        print(table([measure(name, work) for name in QUICK_WAYS]), flush=True)
        return
    file = Path(__file__).with_name("results.jsonl")
    versions = {"torch": torch.__version__, "processor": processor_name()}
    for seed, name in itertools.product(options.seeds, () if options.table else options.ways):
        if not any((line["way"], line["seed"]) == (name, seed) for line in measured(file)):
            line = measure(name, Work(seed))  # what is measured stays; several processes may share the work
            with file.open("a") as lines:
                lines.write(json.dumps(line | versions) + "\n")
    print(table(measured(file)), flush=True)


def measured(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file, if it is there."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


if __name__ == "__main__":
    main()

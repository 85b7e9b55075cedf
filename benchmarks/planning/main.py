"""How far is a forecast of `ziggurat plan` from the step that is taken? A row for each network, size and plan, kept in cells.csv.

Each step is forecast, then taken by real workers on this machine. Beside it stands what others say of the same cell: ParaDL's formulas,
PyTorch's count of memory, and the step of one worker divided by the workers. Rows that are in the table already are not taken again, so a run
that is stopped goes on; a row that was taken while the machine had other work is taken again with --quiet.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from cells import Cell, Place, num_workers, places, read_cells, write_cells
from peers import ParaDL, tracked_bytes
from summary import errors_of, format_regret

from ziggurat.errors import UserError
from ziggurat.planning.judging import Judge
from ziggurat.planning.place import Tools, config_under, tools_of
from ziggurat.planning.program import Kernel, Start
from ziggurat.planning.record import Recorded, record_step
from ziggurat.planning.request import PlanRequest, read_plan_request
from ziggurat.planning.search import Candidate
from ziggurat.planning.stepping import Taken, measure_steps
from ziggurat.planning.work import sizes_of
from ziggurat.strategies.plan import Plan, parse_plan

CELLS = Path(__file__).with_name("cells.csv")
STEPS = 5  # that count, of each plan


class Group:
    """Cells of one network, size and purpose: what is known of the step of one worker serves all of them.

    Args:
        place: One of them.
        learns: Whether what is beside kernels is measured, if it is not known.
    """

    def __init__(self, place: Place, learns: bool = True) -> None:
        self.workers = num_workers(place.plan)
        self.request: PlanRequest = read_plan_request(
            place.network, {"threads": "1", "device": "cpu", "train.microbatches": "2"}, workers=str(self.workers), shape=place.shape,
            purpose=place.purpose, memory="1T",
        )  # fmt: skip
        self.tools: Tools = tools_of(self.request, lambda what: None, learns=learns)
        alone = self.judge.alone(Candidate(Plan()))
        if isinstance(alone, str):
            raise UserError(f"{place.network} does not take a step: {alone}")
        self.alone = alone.seconds
        (program,) = self.judge.record(Candidate(Plan())).programs
        self.paradl = ParaDL.of(program, self.judge.costs.seconds, self.request.pieces)

    @property
    def judge(self) -> Judge:
        """What forecasts steps."""
        return self.tools.judge

    def cell(self, place: Place, steps: int, before: Cell | None = None) -> Cell | str:
        """Return a cell; or why the network does not go with the plan.

        Args:
            place: Which one.
            steps: That are taken.
            before: The cell as it was; then only its forecast is new.
        """
        candidate = candidate_of(place.plan)
        recorded = self.judge.record(candidate)
        if recorded.refused is not None:
            return recorded.refused
        step = self.judge.step_of(candidate, recorded.programs, measures_all=True)
        if before is not None:
            taken, counted, tracked = (
                Taken(before.taken, before.processor, before.others),
                before.counted_bytes,
                before.torch_bytes,
            )
        else:
            taken, counted, tracked = self._take(candidate, recorded, steps), 0, 0
        self.tools.keep()
        plan, costs = candidate.plan, self.judge.costs
        cores = os.cpu_count() or 1
        events = [event for program in recorded.programs for event in program.events]
        processor = sum(costs.seconds(event) for event in events if isinstance(event, Kernel))
        processor += len(recorded.programs) * self.judge.before
        processor += sum(
            costs.begin(event) + self.judge.carry(event) for event in events if isinstance(event, Start)
        )
        link = self.judge.links.links["machine"]
        return Cell(
            *place, round(step.seconds, 6), round(taken.seconds, 6), round(taken.processor, 6), taken.others,
            round(processor * self.request.amount(plan).times, 6), round(step.guessed, 4),
            round(self.alone / min(plan.num_workers, cores), 6), round(self.paradl.seconds(plan, link, cores) or 0.0, 6),
            max(step.peak_bytes), counted, self.paradl.num_bytes(plan) or 0, tracked,
        )  # fmt: skip

    def _take(self, candidate: Candidate, recorded: Recorded, steps: int) -> Taken:
        """Take steps with the cut and the branches of the forecast."""
        config, amount = config_under(candidate, self.request.config), self.request.amount(candidate.plan)
        taken = measure_steps(
            self.request.build, config, self.request.recorded_shape, amount.pieces, self.request.purpose, steps,
            recorded.decisions,
        )  # fmt: skip
        return taken._replace(seconds=taken.seconds * amount.times, processor=taken.processor * amount.times)

    def counted(self, cell: Cell) -> Cell:
        """Return a cell with the bytes that a step which computes has, and what PyTorch's own count says where it says something."""
        candidate, request = candidate_of(cell.plan), self.request
        config, amount = config_under(candidate, request.config), request.amount(candidate.plan)
        recorded = record_step(
            request.build(config), config, candidate.plan, request.recorded_shape, amount.pieces, request.purpose,
            self.judge.record(candidate).decisions, hollow=False,
        )  # fmt: skip
        counted = max((one.peak_bytes for one in recorded.programs), default=0)
        tracked = 0
        if set(candidate.plan.degrees) == {"dp"}:
            training = request.purpose == "train"
            size = sizes_of(request.shape[0], request.pieces)[0] if training else request.recorded_shape[0]
            shape = (size, *request.shape[1:])
            try:
                tracked = tracked_bytes(lambda: request.build(config), shape, training)
            except (
                RuntimeError,
                TypeError,
                NotImplementedError,
            ) as error:  # its hooks do not go with every network
                print(
                    f"MemTracker does not count {cell.network}: {str(error).splitlines()[0][:100]}",
                    file=sys.stderr,
                )
        return dataclasses.replace(cell, counted_bytes=counted, torch_bytes=tracked)


def candidate_of(text: str) -> Candidate:
    """Return the candidate of a cell's plan."""
    plan, *settings = text.split()
    return Candidate(
        parse_plan(plan), tuple((key, value) for key, _, value in (one.partition("=") for one in settings))
    )


class Table:
    """The cells so far, on disk after each.

    Args:
        file: Where; None for nowhere.
        learns: As `Group` has it.
    """

    def __init__(self, file: Path | None, learns: bool = True) -> None:
        self.file, self.learns = file, learns
        self.cells = {one.place: one for one in read_cells(file)} if file else {}
        self.groups: dict[tuple[str, str, str, int], Group] = {}

    def put(self, cell: Cell) -> None:
        """Take a cell into the table."""
        self.cells[cell.place] = cell
        if self.file is not None:
            write_cells(self.file, self.cells.values())

    def group(self, place: Place) -> Group:
        """Return the group of a place."""
        key = (*place[:3], num_workers(place.plan))
        if key not in self.groups:
            self.groups[key] = Group(place, self.learns)
        return self.groups[key]

    def take(self, asked: Iterable[Place], steps: int, seconds: float, again: bool, quiet: bool) -> None:
        """Fill the table.

        Args:
            asked: In order.
            steps: That are taken.
            seconds: No cell begins later.
            again: Whether cells that are there are forecast again, from what was measured of kernels and messages; none is taken.
            quiet: Whether cells are taken again that were taken while the machine had other work.
        """
        end = time.monotonic() + seconds
        for place in asked:
            before = self.cells.get(place)
            is_done = before is not None and (before.is_quiet or not quiet)
            if is_done != again or time.monotonic() > end:
                continue
            try:
                cell = self.group(place).cell(place, steps, before if again else None)
            except (UserError, RuntimeError) as error:
                cell = str(error)
            if isinstance(cell, str):
                print(f"{' '.join(place)}: {cell.strip().splitlines()[-1][:140]}", file=sys.stderr)
                continue
            self.put(cell)
            print(
                f"{' '.join(place)}: {cell.forecast:.3f} s, taken {cell.taken:.3f} s ({cell.forecast / cell.taken - 1:+.1%}); of the processor "
                f"{cell.forecast_processor:.3f} s, taken {cell.processor:.3f} s ({cell.forecast_processor / cell.processor - 1:+.1%}); "
                f"others {cell.others:.0%}",
                file=sys.stderr,
            )

    def count(self, seconds: float) -> None:
        """Count the bytes of cells whose bytes were not counted yet; this needs no quiet machine."""
        end = time.monotonic() + seconds
        for place, cell in list(self.cells.items()):
            if not cell.counted_bytes and time.monotonic() < end:
                self.put(self.group(place).counted(cell))


def main(words: Sequence[str] | None = None) -> None:
    """Fill the table, and print what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two cells of a small network, written nowhere")
    parser.add_argument(
        "--only",
        choices=("times", "bytes", "summary"),
        help="take steps, count bytes, or neither; by default both",
    )
    parser.add_argument("--networks", nargs="*", help="of these only")
    parser.add_argument("--purposes", nargs="*", default=("train", "predict"))
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="no cell begins later; cells come in an order that mixes all",
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="forecast the cells that are there again, by what was measured; take none",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="take cells again that were taken while the machine had other work",
    )
    parser.add_argument(
        "--regret",
        action="store_true",
        help="print what it costs to take the plan that is forecast as the best",
    )
    parser.add_argument("--out", type=Path, default=CELLS)
    asked = parser.parse_args(words)
    if asked.quick:
        quick()
        return
    table = Table(asked.out)
    wanted = [
        one
        for one in places()
        if (not asked.networks or one.network in asked.networks) and one.purpose in asked.purposes
    ]
    if asked.only in (None, "times"):
        table.take(wanted, STEPS, asked.seconds, asked.again, asked.quiet)
    if asked.only in (None, "bytes"):
        table.count(asked.seconds)
    print(errors_of(list(table.cells.values())))
    if asked.regret:
        print(format_regret(list(table.cells.values())))


def quick() -> None:
    """Take two cells with a cache of their own."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            table = Table(None, learns=False)
            some = [Place("timm:test_resnet", "2x3x32x32", "predict", plan) for plan in ("dp=2", "sp=2")]
            table.take(some, 1, math.inf, again=False, quiet=False)
            table.count(math.inf)
            cells = [
                dataclasses.replace(one, others=0.0) for one in table.cells.values()
            ]  # for what is printed
            print(errors_of(cells))
            print(format_regret(cells))
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if before is not None:
                os.environ["XDG_CACHE_HOME"] = before


if __name__ == "__main__":
    main()

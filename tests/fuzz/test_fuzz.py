"""A short form of the fuzzer (all of it: ``make fuzz N=100000``), and tests of its parts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from fuzz.forward import ForwardJudge
from fuzz.generate import MAKERS, STEM, generate
from fuzz.judge import Finding, Judge, drawing_from
from fuzz.kinds import KINDS
from fuzz.main import PLANS, form_of, main, wanted
from fuzz.overlap import NothingReadAndWritten
from fuzz.planted import dropout_is_drawn_for_the_band, find, halo_is_one_row_short, two_dims_of_one_axis
from fuzz.pool import Pool, judge_one, run_all
from fuzz.program import Program, Statement
from fuzz.scope import Scope, Template, Unwritable
from fuzz.shrink import same_way, shrink
from fuzz.tally import Tally
from ziggurat.errors import UserError
from ziggurat.parallel.spatial import SpatialTensor

# 300 programs, most of them under the plan that most depends on.
SHORT = {"sp=2": 150, "sp=3": 40, "sp=2x2": 20, "pp=2": 30, "lp=2": 20, "tp=2": 20, "dp=2,sp=2": 20}
FEWEST_EXACT = 0.7  # of those that are judged; of many more programs 0.8

STATEMENTS = (
    Statement("conv", "self.m1(x)", "v1", ("x",), ("self.m1 = nn.Conv2d(3, 4, 3, padding=1)",)),
    Statement("activation", "torch.tanh(v1)", "v2", ("v1",)),
    Statement("conv", "self.m2(v2)", "v3", ("v2",), ("self.m2 = nn.Conv2d(4, 4, 3, padding=1)",)),
)
PLAIN = Program(3, (2, 3, 8, 7), False, STATEMENTS, ("v3",), "tensor")


def with_code(code: str) -> Program:
    """Return a program one statement of which is another."""
    changed = Statement("changed", code, "v2", ("v1",))
    return Program(3, (2, 3, 8, 7), False, (STATEMENTS[0], changed, STATEMENTS[2]), ("v3",), "tensor")


# -- the short form ---------------------------------------------------------------------------------------------------------


def test_short_form_takes_300_programs_under_all_plans() -> None:
    assert sum(SHORT.values()) == 300
    assert tuple(SHORT) == PLANS


@pytest.mark.parametrize("plan", SHORT)
def test_nothing_is_silently_wrong(plan: str) -> None:
    judge_programs(plan, SHORT[plan], Judge)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("plan", SHORT)
def test_nothing_is_silently_wrong_in_evaluation(plan: str) -> None:
    judge_programs(plan, SHORT[plan] // 2, ForwardJudge)


def judge_programs(plan: str, number: int, judge: type[Judge]) -> None:
    programs = wanted(range(number), form_of(plan), (), {})
    tally, faults = Tally(plan), []
    pools = [Pool(plan, judge=judge)]
    try:
        for finding in run_all(pools, programs):
            tally.add(finding)
            if finding.is_fault:
                faults.append(f"seed {finding.seed}: {finding.verdict} {finding.why.splitlines()[0]}")
    finally:
        pools[0].close()
    assert not faults, "\n".join([tally.line(), *faults])
    assert tally.to_json()["share_exact"] >= FEWEST_EXACT, tally.line()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plan", "zz=2"], "unknown axis 'zz'"),
        (["--plan", "sp=x"], "sp=x"),
        (["--programs", "0"], "one or more: got 0"),
        (["--pools", "-1"], "one or more: got -1"),
        (["--pools", "two"], "one or more: got two"),
    ],
)
def test_what_cannot_be_is_said_in_one_message(words, said, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert said in capsys.readouterr().err.splitlines()[-1]


# -- the generator ----------------------------------------------------------------------------------------------------------


def test_a_program_is_a_function_of_its_seed_alone() -> None:
    first = [generate(seed) for seed in range(20)]
    random.seed(7)
    torch.manual_seed(7)
    assert [generate(seed) for seed in reversed(range(20))] == first[::-1]
    assert len({one.source() for one in first}) == 20
    assert generate(3, "pair") != generate(3, "branches")


def test_a_program_survives_json() -> None:
    program = generate(11)
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_kind_is_written(kind: Template) -> None:
    """Each in one of a few programs that have variables of all roles."""
    for seed in range(60):
        if _is_written(kind, seed):
            return
    pytest.fail(f"{kind.text} fits none of 60 programs")


def _is_written(kind: Template, seed: int) -> bool:
    scope = Scope(random.Random(seed), (2, 4, 12, 12), False)
    for made in (STEM, *MAKERS):
        if kind.fields <= scope.fields() and made is not STEM:
            break
        try:
            scope.write(made)
        except Unwritable:
            continue
    try:
        scope.write(kind)
    except (Unwritable, StopIteration):
        return False
    return True


OVERLAPPING = (
    "x[:, :, 1:].copy_(x[:, :, :-1])", "x.add_(x[:, :, :1])", "x[:, :, 1:5] = x[:, :, 2:6]", "x.mul_(x.transpose(2, 3))",
    "torch.add(x[:, 1:], 1, out=x[:, :-1]).add_(x[:, :1])", "x += x.mean(1, keepdim=True) * x[:, :1]\nx -= x[:, :, -1:]",
)  # fmt: skip
APART = (
    "x[:, :, :4] = x[:, :, 4:]", "x.add_(x)", "x[:, :, ::2].add_(x[:, :, 1::2])", "x += x[:, :, :1].clone()", "x.mul_(x.mean())",
    "x[:, 0] = x[:, 1]", "x.relu_().add_(x * 2)",
)  # fmt: skip


@pytest.mark.parametrize("code", OVERLAPPING + APART)
def test_what_reads_what_it_writes_elsewhere_is_not_written(code: str) -> None:
    with (
        NothingReadAndWritten(),
        torch.device("meta") if code in APART else pytest.raises(RuntimeError, match="elsewhere"),
    ):
        exec(code, {"x": torch.empty(2, 3, 8, 8, device="meta"), "torch": torch})


def test_no_program_reads_what_it_writes_elsewhere() -> None:
    """Among these seeds are some whose first choice did."""
    for seed in (500003, 500047, 500095, *range(12)):
        program = generate(seed)
        with drawing_from(seed), NothingReadAndWritten(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = program.build().double()
            network(torch.rand(program.shape, dtype=torch.float64).requires_grad_() * 1)


def test_names_of_kinds_differ() -> None:
    assert len({kind.kind for kind in KINDS}) == len(KINDS)


def test_most_programs_run_on_one_worker() -> None:
    programs = [generate(seed) for seed in range(100)]
    assert sum(map(_runs, programs)) >= 80


def _runs(program: Program) -> bool:
    """Return whether forward and backward of a program run on one worker, with finite numbers."""
    with warnings.catch_warnings(), drawing_from(program.seed):
        warnings.simplefilter("ignore")
        try:
            images = program.images().requires_grad_()
            outputs = program.build().train()(images)
            found = list(outputs.values()) if isinstance(outputs, dict) else outputs
            found = [found] if isinstance(found, torch.Tensor) else found
            torch.stack([one.sum() for one in found]).sum().backward()
        except (RuntimeError, ValueError):
            return False
    return all(bool(one.isfinite().all()) for one in found)


def test_what_is_printed_is_what_runs() -> None:
    names = {"nn": nn, "torch": torch}
    exec(PLAIN.source(), names)
    torch.manual_seed(PLAIN.seed)
    network = names["Program"]().double()
    assert torch.equal(network(PLAIN.images()), PLAIN.build()(PLAIN.images()))


# -- the shrinker -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["activation", "slice of rows", "scale in place"])
def test_shrinking_leaves_what_fails(kind: str) -> None:
    """What fails here are programs with a statement of a kind, whose images have more than four rows."""

    def fails(program: Program) -> bool:
        return kind in program.kinds and program.shape[2] > 4 and _runs(program)

    program = next(one for seed in range(500) if fails(one := generate(seed)))
    small = shrink(program, fails)
    assert fails(small)
    assert len(small.statements) <= 3
    assert len(small.outputs) == 1
    assert small.shape[:3] == (1, program.shape[1], 5)


def test_shrinking_keeps_to_faults_of_one_kind() -> None:
    wrong = same_way(Finding("wrong", "outputs 5.0e-01", 0.5))
    assert wrong(Finding("wrong", "gradient 1.0e-01", 0.1))
    assert not wrong(Finding("wrong", "outputs 1.0e-09", 1e-9))
    assert not wrong(Finding("crashed", "outputs 5.0e-01"))
    crashed = same_way(Finding("crashed", "ValueError: got 3"))
    assert crashed(Finding("crashed", "ValueError: got 4\n  frames"))
    assert not crashed(Finding("crashed", "TypeError: got 3"))


# -- verdicts ---------------------------------------------------------------------------------------------------------------


def verdict(program: Program, fault=None, limit: float = 20.0) -> Finding:
    """Judge a program under sp=2, with a fault in one or both of the workers."""
    pool = Pool("sp=2", limit, fault)
    try:
        return judge_one(pool, program)
    finally:
        pool.close()


def at_tanh(do) -> None:
    """Call a function in the place of a spatial tensor's tanh, in this process."""
    rightly = SpatialTensor.dispatch

    def dispatch(func, args, named):
        if getattr(func, "__name__", "") == "tanh":
            do(args[0].mesh.ranks[0])
        return rightly(func, args, named)

    SpatialTensor.dispatch = staticmethod(dispatch)


def raise_error() -> None:
    def do(rank: int) -> None:
        raise RuntimeError("planted")

    at_tanh(do)


def refuse() -> None:
    def do(rank: int) -> None:
        raise UserError("planted: got tanh; take relu")

    at_tanh(do)


def refuse_on_one() -> None:
    def do(rank: int) -> None:
        if rank == 1:
            raise UserError("planted: got tanh; take relu")

    at_tanh(do)


def abort_on_one() -> None:
    at_tanh(lambda rank: os.abort() if rank == 1 else None)


def pause_on_one() -> None:
    at_tanh(lambda rank: signal.pause() if rank == 1 else None)


def test_exact() -> None:
    found = verdict(PLAIN)
    assert (found.verdict, found.kinds, found.seed) == ("exact", ("conv", "activation"), 3)
    assert found.error < 1e-12


def test_wrong() -> None:
    found = verdict(PLAIN, halo_is_one_row_short)
    assert found.verdict == "wrong"
    assert found.error > 1e-3
    assert "outputs" in found.why


def test_refused() -> None:
    found = verdict(PLAIN, refuse)
    assert (found.verdict, found.why) == ("refused", "UserError: planted: got tanh; take relu")


def test_crashed_by_an_error() -> None:
    found = verdict(PLAIN, raise_error)
    assert found.verdict == "crashed"
    assert found.why.startswith("RuntimeError: planted")
    assert "v2 = torch.tanh(v1)" in found.why


def test_crashed_by_the_death_of_a_worker() -> None:
    found = verdict(PLAIN, abort_on_one)
    assert found.verdict == "crashed"
    assert "worker 1 died: exit code -6" in found.why


@pytest.mark.parametrize("fault", [pause_on_one, refuse_on_one])
def test_hung(fault) -> None:
    """One worker is silent, or refuses what the other computes."""
    pool = Pool("sp=2", limit=2.0, fault=fault, start_seconds=1.0, follow_seconds=0.5)
    try:
        found = judge_one(pool, PLAIN)
        assert found.verdict in ("hung", "crashed")
        assert fault is not pause_on_one or "worker 1: silent" in found.why
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("v1 / 0", "not finite"),
        ("v1.view(3, 5)", "does not run"),
        ("v1 * float(np.random.default_rng().random())", "not repeatable"),
        ("torch.sin(v1.mean((2, 3), keepdim=True) * 1e9) + v1", "ill-conditioned"),
        ("F.kl_div(v1.log_softmax(1), v1.softmax(1), reduction='batchmean') * v1", "ill-conditioned"),
    ],
)
def test_invalid(code: str, why: str) -> None:
    found = verdict(with_code(code))
    assert found.verdict == "invalid"
    assert why in found.why


def test_workers_go_on_after_each_verdict() -> None:
    """A refusal, an error and a program that does not run leave nothing behind that spoils the next."""
    programs = [PLAIN, with_code("v1.view(3, 5)"), PLAIN, with_code("torch.fft.fft2(v1).real"), PLAIN]
    pool = Pool("sp=2")
    try:
        verdicts = [judge_one(pool, program).verdict for program in programs]
    finally:
        pool.close()
    assert verdicts[::2] == ["exact"] * 3
    assert verdicts[1] == "invalid"


# -- planted faults, and the command ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "seeds"),
    [
        (halo_is_one_row_short, range(60)),
        (dropout_is_drawn_for_the_band, range(60)),
        (two_dims_of_one_axis, range(20080, 20140)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_is_found(fault, seeds) -> None:
    """All of them: ``python tests/fuzz/main.py --planted``."""
    search = find(fault, seeds)
    assert search.program is not None
    assert search.finding is not None
    assert search.finding.is_fault


def test_a_run_that_was_stopped_goes_on(tmp_path, capsys) -> None:
    out = tmp_path / "fuzz.json"
    words = ["--plan", "sp=2", "--first-seed", "5", "--out", str(out), "--shrink", "0", "--programs"]
    main([*words, "3"])
    before = json.loads(out.read_text())["sp=2"]
    main([*words, "5"])
    after = json.loads(out.read_text())["sp=2"]
    assert (before["first_seed"], before["num_programs"]) == (5, 3)
    assert (after["first_seed"], after["num_programs"]) == (5, 5)
    assert sum(after["verdicts"].values()) == 5
    assert sum(before["verdicts"].values()) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["sp=2"]["verdicts"] == after["verdicts"]


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(one) for one in found.split()]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_is_stopped_by_a_signal(tmp_path, number: int, status: int) -> None:
    """No process is left, and what was judged is written, though no block of programs was finished; the run goes on from there."""
    out = tmp_path / "fuzz.json"
    script = str(Path(__file__).with_name("main.py"))
    words = ["--plan", "sp=2", "--first-seed", "5", "--out", str(out), "--shrink", "0", "--programs"]
    # what a shell runs in the background ignores Ctrl-C, and so does what it starts
    start = f"import runpy, signal, sys; signal.signal(2, signal.default_int_handler); sys.argv[:1] = []; runpy.run_path({script!r}, run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", start, script, *words, "90"], stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(children_of(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    workers = children_of(process.pid)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert len(workers) == 2
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    kept = json.loads(out.read_text())["sp=2"]
    assert sum(kept["verdicts"].values()) == kept["num_programs"] < 90
    main([*words, str(kept["num_programs"] + 1)])
    assert json.loads(out.read_text())["sp=2"]["num_programs"] == kept["num_programs"] + 1

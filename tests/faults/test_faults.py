"""Kill any worker at any instant: the run goes on by itself and ends in the bits of the undisturbed run.

The short form is part of `make test`; `make faults` runs the long one (more than 200 kills). Each planned kill is shown
to have happened by the attempts that the launcher tells of; a hang fails the test by its time-out.
"""

import contextlib
import fcntl
import itertools
import json
import os
import random
import re
import shutil
import time

import psutil
import pytest

from faults.runs import STEPS, run
from ziggurat.parallel.runtime.launch import WorkerLost
from ziggurat.system.forking import fork_context
from ziggurat.training.snapshot import MEMORY, OWNER, PREFIX

KILLED = {  # phases that a run of this version passes through, with a step where they have one
    "set-up": None, "process group": None, "data": 3, "forward": 3, "backward": 4, "exchange": 3, "optimizer": 2,
    "checkpoint data": None, "checkpoint manifest": None, "checkpoint publishing": None, "checkpoint": None,
    "evaluation": None, "report": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("undisturbed") / "run", "dp=1")["weights_sha256"]


def attempts(capfd):
    """How often the launcher has started workers again."""
    return len(
        re.findall(r"^ziggurat: .*; attempt \d+, with \d+ workers$", capfd.readouterr().err, re.MULTILINE)
    )


def kill(phase, rank, attempt=0):
    # a later attempt begins at a step that depends on what survived: there the first step it comes to is hit
    step = "" if KILLED[phase] is None or attempt else f" step={KILLED[phase]}"
    return f"kill@{phase} rank={rank} attempt={attempt}{step}"


@pytest.mark.parametrize(
    ("plan", "faults"),
    [
        ("dp=2", [kill("forward", 1)]),
        ("dp=4", [kill("exchange", 0), kill("optimizer", 2, 1)]),
        ("dp=2", [kill("checkpoint data", 0), kill("process group", 1, 1)]),
        ("dp=2", [kill("checkpoint manifest", 1), kill("checkpoint publishing", 0, 1)]),
    ],
)
def test_a_killed_worker_changes_nothing(tmp_path, undisturbed, capfd, plan, faults):
    assert run(tmp_path / "run", plan, "; ".join(faults))["weights_sha256"] == undisturbed
    assert attempts(capfd) == len(faults)
    assert no_state_in_memory()


def test_a_worker_that_takes_its_stages_along(tmp_path, capfd):
    """No survivor has them, so the run goes on from the newest checkpoint; cut as before, it has the same bits."""
    whole = run(tmp_path / "whole", "pp=2", pipeline__cut="neck")["weights_sha256"]
    assert run(tmp_path / "run", "pp=2", kill("forward", 1), pipeline__cut="neck")["weights_sha256"] == whole
    assert attempts(capfd) == 1


def test_a_worker_that_computes_branches(tmp_path, capfd):
    """The others have all weights, and the costs of the calls are kept: the same placement, the same bits."""
    expected = run(tmp_path / "whole", "lp=2")["weights_sha256"]
    (tmp_path / "run").mkdir()
    shutil.copy(tmp_path / "whole" / "costs.json", tmp_path / "run")
    result = run(tmp_path / "run", "lp=2", kill("backward", 1), train__checkpoint_every=0)
    assert (result["weights_sha256"], result["samples"]) == (expected, 8 + 4)
    assert attempts(capfd) == 1


def test_a_worker_that_takes_its_rows_along(tmp_path, capfd):
    """No survivor has its rows of the weights: the run goes on from the newest checkpoint, in the same bits."""
    whole = run(tmp_path / "whole", "fsdp=2")["weights_sha256"]
    result = run(tmp_path / "run", "fsdp=2", kill("forward", 1))
    assert (result["weights_sha256"], result["plan"]) == (whole, "fsdp=2")
    assert attempts(capfd) == 1
    assert no_state_in_memory()


def test_a_worker_that_takes_its_parts_along(tmp_path, capfd):
    """No survivor has its parts of wide layers: the run goes on from the newest checkpoint, in the same bits."""
    whole = run(tmp_path / "whole", "tp=2", tensor__min_width=8)["weights_sha256"]
    result = run(tmp_path / "run", "tp=2", kill("backward", 1), tensor__min_width=8)
    assert (result["weights_sha256"], result["world_size"]) == (whole, 2)
    assert attempts(capfd) == 1
    assert no_state_in_memory()


def no_state_in_memory():
    """Other runs of this machine may have states of their own there, which are locked."""
    return all(is_locked(folder / OWNER) for folder in MEMORY.glob(f"{PREFIX}*"))


def is_locked(path):
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # of another run, which has just ended, or begun
        return True
    return False


def test_survivors_hand_over_the_last_step(tmp_path, undisturbed, capfd):
    result = run(tmp_path / "run", "dp=2", "kill@backward rank=0 step=4 attempt=0", train__checkpoint_every=0)
    assert result["weights_sha256"] == undisturbed
    # Steps 5 and 6 of batches of 8 and 4: nothing before the interrupted step is taken again.
    assert result["samples"] == 8 + 4
    assert attempts(capfd) == 1


def test_a_step_that_only_survivors_have_completed_is_in_the_log(tmp_path, undisturbed, capfd):
    """The first worker writes the log; where it is killed as it changes the weights, another has done the step, and says what it was."""
    fault = "kill@optimizer rank=0 step=3 attempt=0"
    result = run(tmp_path / "run", "dp=2", fault, train__checkpoint_every=0)
    assert result["weights_sha256"] == undisturbed
    assert attempts(capfd) == 1
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [row for line in lines if (row := json.loads(line))["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 7))


def test_without_survivors_the_newest_checkpoint_is_used(tmp_path, undisturbed):
    result = run(tmp_path / "run", "dp=2", "kill@forward step=5 attempt=0")
    assert result["weights_sha256"] == undisturbed
    # The checkpoint of step 4 is there, unless it was being written: then it is that of step 2.
    assert result["samples"] in (8 + 4, 4 + 8 + 8 + 4)


def test_a_survivor_that_is_killed_while_it_hands_over_costs_steps_and_no_bit(tmp_path, undisturbed, capfd):
    result = run(tmp_path / "run", "dp=2", f"{kill('backward', 1)}; kill@handover rank=0 attempt=0")
    assert result["weights_sha256"] == undisturbed
    assert result["samples"] in (8 + 4, 4 + 8 + 8 + 4)
    assert attempts(capfd) == 1
    assert no_state_in_memory()


def test_an_evaluation_that_was_interrupted_is_done_by_the_next_attempt(tmp_path, undisturbed, capfd):
    result = run(tmp_path / "run", "dp=2", kill("evaluation", 0))
    assert result["weights_sha256"] == undisturbed
    assert result["samples"] == 4 + 16  # the evaluation is after step 3, of 4 samples: nothing is taken again
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    kinds = [(row["kind"], row["step"]) for row in rows]
    assert kinds == [*(("train", step) for step in (1, 2, 3)), ("val", 3),
                     *(("train", step) for step in (4, 5, 6)), ("val", 6)]  # fmt: skip
    assert attempts(capfd) == 1


@pytest.mark.slow
def test_before_the_first_checkpoint_it_starts_from_the_beginning(tmp_path, undisturbed):
    result = run(tmp_path / "run", "dp=2", "kill@forward step=1 attempt=0")
    assert result["weights_sha256"] == undisturbed
    assert result["samples"] == 40


@pytest.mark.slow
def test_bands_go_on_in_the_same_bits(tmp_path, capfd):
    expected = run(tmp_path / "undisturbed", "sp=2")["weights_sha256"]
    result = run(tmp_path / "run", "sp=2", kill("backward", 1), train__checkpoint_every=0)
    assert (result["weights_sha256"], result["samples"]) == (expected, 8 + 4)
    assert attempts(capfd) == 1


def test_what_dies_at_the_same_place_again_and_again_gets_fewer_workers_and_an_end(
    tmp_path, undisturbed, capfd
):
    result = run(tmp_path / "run", "dp=3", "kill@forward rank=2 step=3")
    assert (result["weights_sha256"], result["world_size"]) == (undisturbed, 2)
    assert attempts(capfd) == 2
    with pytest.raises(WorkerLost, match="worker 0 was killed by SIGKILL in step 3, forward, microbatch 0"):
        run(tmp_path / "other", "dp=2", "kill@forward rank=0 step=2", launch__max_restarts=1)
    assert attempts(capfd) == 1
    assert no_state_in_memory()


def test_the_number_of_workers_changes_from_resume_to_resume(tmp_path, undisturbed):
    folder = tmp_path / "run"
    for number, (plan, step) in enumerate([("dp=4", 1), ("dp=2", 3), ("dp=3", 5)]):
        faults = f"kill@data step={step}"  # all workers, in every attempt
        with pytest.raises(WorkerLost):
            run(folder, plan, faults, resume=number > 0, launch__max_restarts=0, train__checkpoint_every=1)
    result = run(folder, "dp=1", resume=True, launch__max_restarts=0, train__checkpoint_every=1)
    assert result["weights_sha256"] == undisturbed
    # The checkpoint of step 5 may not have been published when all workers were killed; that of step 4 was.
    assert result["samples"] in (4, 8 + 4)


def test_a_run_that_was_killed_before_its_first_checkpoint_goes_on_from_the_beginning(tmp_path, undisturbed):
    folder = tmp_path / "run"
    with pytest.raises(WorkerLost):
        run(folder, "dp=2", "kill@forward step=1", launch__max_restarts=0)
    assert run(folder, "dp=3", resume=True)["weights_sha256"] == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "rank", "plan"), list(itertools.product(KILLED, [0, 1], ["dp=2", "dp=4"])))
def test_every_phase_alone_twice_and_during_recovery(tmp_path, undisturbed, capfd, phase, rank, plan):
    alone = [kill(phase, rank)]
    twice = [kill(phase, rank), kill(phase, rank, 1)]
    recovering = [kill(phase, rank), kill("process group", 1 - rank, 1)]
    for number, faults in enumerate([alone, twice, recovering]):
        assert run(tmp_path / str(number), plan, "; ".join(faults))["weights_sha256"] == undisturbed
        assert attempts(capfd) == len(faults)
    assert no_state_in_memory()


def workers_of(launcher):
    """Return the processes that a launcher has forked, but for this one; Python's resource tracker is another program."""
    command, found = launcher.cmdline(), []
    for process in launcher.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if process.pid != os.getpid() and process.cmdline() == command:
                found.append(process)
    return found


def kill_at_random(launcher, seed, stop):
    """Kill one of the launcher's workers at a random instant of its life, and then another (a process of its own)."""
    choice = random.Random(seed)
    for _ in range(2):
        moment = time.monotonic() + choice.uniform(0.05, 1.5)
        while time.monotonic() < moment and not stop.is_set():
            time.sleep(0.005)  # the instant is what is random here; nothing waits for it
        workers = workers_of(psutil.Process(launcher))
        if stop.is_set() or not workers:
            return
        try:
            choice.choice(workers).kill()
        except psutil.NoSuchProcess:
            return


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_instants(tmp_path, undisturbed, capfd, seed):
    context = fork_context()
    stop = context.Event()
    killer = context.Process(target=kill_at_random, args=(os.getpid(), seed, stop))
    killer.start()
    try:
        result = run(tmp_path / "run", "dp=4" if seed % 2 else "dp=2", launch__max_restarts=5)
    finally:
        stop.set()
        killer.join()
    assert killer.exitcode == 0
    assert result["weights_sha256"] == undisturbed
    with capfd.disabled():
        print(f" restarts: {attempts(capfd)}")


LIMITS = {f"launch__{section}_seconds": 4.0 for section in ("step", "checkpoint", "evaluation")}


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("stop@forward rank=1 step=3", r"step 4, forward, microbatch 2, samples .*the process is stopped"),
        ("loop@forward rank=1 step=3", r"step 4, forward, microbatch 2, samples .*its stack:.*in train"),
    ],
)
def test_a_worker_that_hangs_is_found_named_and_replaced(tmp_path, undisturbed, capfd, fault, told):
    result = run(tmp_path / "run", "dp=2", f"{fault} attempt=0", **LIMITS)
    assert result["weights_sha256"] == undisturbed
    message = capfd.readouterr().err
    head = (
        r"ziggurat: worker 1 \(process \d+ on .*\) hangs: \d+\.\d s without a sign of life, more than the 4 s"
    )
    assert re.search(head + r".*" + told, message, re.DOTALL), message
    assert result["steps"] == STEPS

"""Ctrl-C at every instant of a run, from its first import to its report: one sentence, and what was done is kept.

The instants are named (an import, a phase of a worker), not hit by a clock. How it reaches whole process groups is in `test_preemption`.
"""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from PIL import Image

from faults.runs import STEPS, run
from ziggurat.config import DataConfig
from ziggurat.data.formats import find_faults
from ziggurat.errors import Preempted
from ziggurat.parallel.runtime.failures import Interrupted
from ziggurat.parallel.runtime.preemption import Preemption, is_ctrl_c, raised_signals
from ziggurat.runs.checkpoint import published_steps
from ziggurat.system.forking import fork_context


@pytest.fixture(autouse=True)
def hearing():
    """Hear Ctrl-C, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("module", ["argparse", "torch", "ziggurat.commands.evaluate"])
def test_while_it_is_imported(tmp_path, module):
    program = f"""
        import os, signal, sys
        from ziggurat.cli.main import main

        class CtrlC:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    os.kill(os.getpid(), signal.SIGINT)

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.meta_path.insert(0, CtrlC())
        sys.exit(main())
    """
    words = [sys.executable, "-c", textwrap.dedent(program), "evaluate", "nowhere", "nothing"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert ended.stderr == "\nziggurat: interrupted before it began; nothing was written\n"
    assert ended.returncode == 130


# of the instant: whether the run goes on after some step, or is over but for its evaluation
INSTANTS = {
    "process group": "again",
    "set-up": "again",
    "data step=0": 0,
    "data step=3": 3,
    "forward step=3": 4,
    "backward step=3": 4,
    "exchange step=3": 4,
    "optimizer step=3": 4,
    "checkpoint data attempt=0": "noted",
    "checkpoint publishing": "noted",
    "evaluation": "noted",
    "report": "over",
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("instant", INSTANTS)
def test_at_an_instant_of_two_workers(tmp_path, instant):
    comes = INSTANTS[instant]
    folder = tmp_path / "run"
    with pytest.raises((Preempted, Interrupted)) as caught:
        run(folder, "dp=2", f"interrupt@{instant} rank=0")
    error, steps = caught.value, published_steps(folder / "checkpoints")
    resume = f"`ziggurat train --out {folder} --resume`"
    if comes == "again":
        assert type(error) is Interrupted
        assert str(error) == "interrupted; the run had not begun: the same command starts it again"
    elif comes == "over":
        assert type(error) is Interrupted
        weights = f"the weights are in {folder / 'weights.safetensors'}"
        assert str(error) == f"interrupted; {resume} goes on after step {STEPS}; {weights}"
    else:
        assert type(error) is Preempted
        assert error.by_user
        step = steps[-1]
        assert str(error) == f"stopped by a signal after step {step}; {resume} goes on after step {step}"
        assert step in (range(1, STEPS) if comes == "noted" else [comes])


def check_and_press(folder, file):
    """Check a data set in a process group of its own, and press Ctrl-C at all of it when the first images are decoded."""
    os.setsid()
    os.dup2(file, 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    pressed = []

    def press_once(done, total):
        if not pressed:
            pressed.append(done)
            os.killpg(0, signal.SIGINT)

    try:
        find_faults(str(folder), DataConfig(), press_once)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


def check_pressed_at_forks(folder, file):
    """Check a data set; Ctrl-C reaches each process before it has run a line of its own."""
    os.dup2(file, 2)
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGINT))
    find_faults(str(folder), DataConfig())
    os._exit(0)


@pytest.mark.parametrize(("check", "status"), [(check_and_press, 130), (check_pressed_at_forks, 0)])
def test_processes_that_check_a_data_set(tmp_path, check, status):
    """They leave it to the one that has started them, and say nothing."""
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(70):
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / "a" / f"{number}.png")
    file = os.memfd_create("said")
    process = fork_context().Process(target=check, args=(tmp_path, file))
    process.start()
    process.join()
    said = os.pread(file, 1 << 16, 0)
    os.close(file)
    assert (process.exitcode, said) == (status, b"")


def test_what_goes_on_ends_in_the_bits_of_the_undisturbed_run(tmp_path):
    whole = run(tmp_path / "whole", "dp=2")
    with pytest.raises(Preempted):
        run(tmp_path / "run", "dp=2", "interrupt@forward rank=1 step=2")
    assert run(tmp_path / "run", "dp=2", resume=True)["weights_sha256"] == whole["weights_sha256"]


def press():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_process_that_takes_note_ends_the_second_time():
    with Preemption() as preemption:
        press()
        assert (preemption.requested, preemption.by_user) == (True, True)
        with pytest.raises(KeyboardInterrupt):
            press()


def test_a_scheduler_before_it_leaves_ctrl_c_its_first_time():
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGTERM)
        press()
        assert (preemption.requested, preemption.by_user) == (True, False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_when_there_is_nothing_more_to_keep_any_signal_ends(number):
    with raised_signals(), Preemption() as preemption:
        preemption.end_at_once()
        with pytest.raises(KeyboardInterrupt) as caught:
            os.kill(os.getpid(), number)
        assert is_ctrl_c(caught.value) == (number == signal.SIGINT)


def test_a_scheduler_ends_a_run_in_a_shells_background_with_all_cleaned_up():
    """Where SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with raised_signals(), Preemption() as preemption:
        preemption.end_at_once()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_what_is_ignored_stays_ignored():
    """As of a run that a shell has started in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Preemption() as preemption:
        press()
        assert not preemption.requested

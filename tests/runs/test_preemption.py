"""Signals of schedulers, terminals and users to whole runs: a checkpoint, exit status 75 or 130, and no process left."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from support.commands import TINY
from support.forked import forked_command

TRAIN = ["train", "digits", "--steps", "4000"]
SETTINGS = [word for word in TINY if word not in ("--steps", "2")]


def hear_signals():
    """What a shell's background or nohup ignores, these runs hear."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def start(folder, plan, loaders, how):
    """Start a long run in a process group of its own, and return when its first step is done."""
    arguments = [
        "--plan",
        plan,
        "--microbatches",
        "2",
        "--out",
        str(folder),
        "--set",
        f"data.workers={loaders}",
        *(["tensor.min_width=16"] if "tp" in plan else []),
    ]
    words = [*TRAIN, *SETTINGS, *arguments]
    if how == "fork":
        process = forked_command(words, hear_signals)
    else:
        process = subprocess.Popen(
            [sys.executable, "-m", "ziggurat", *words],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_signals,
        )
    for line in process.stderr:
        if line.startswith("step 1/"):
            return process
    raise AssertionError("the run ended before its first step")


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("plan", "loaders", "number", "whom", "how"),
    [
        ("dp=1", 1, signal.SIGINT, "group", "command"),
        ("dp=2", 1, signal.SIGINT, "group", "command"),
        ("dp=2", 0, signal.SIGHUP, "group", "fork"),
        ("dp=1", 1, signal.SIGTERM, "group", "fork"),
        ("dp=2", 0, signal.SIGTERM, "launcher", "command"),
        ("lp=2", 0, signal.SIGTERM, "second worker", "fork"),
        ("dp=2", 1, signal.SIGUSR1, "group", "fork"),
        ("dp=2", 0, signal.SIGUSR1, "second worker", "fork"),
        ("fsdp=2", 0, signal.SIGTERM, "second worker", "fork"),
        ("tp=2", 0, signal.SIGTERM, "second worker", "fork"),
    ],
)
def test_a_scheduler_gets_its_checkpoint_and_its_status(tmp_path, plan, loaders, number, whom, how):
    """A process that is forked saves the imports; how a command ends, of itself and by Ctrl-C, is shown by three."""
    process = start(tmp_path / "run", plan, loaders, how)
    with process:
        children = psutil.Process(process.pid).children(recursive=True)
        if whom == "group":
            os.killpg(process.pid, number)
        else:
            process_id = process.pid if whom == "launcher" else max(child.pid for child in children)
            os.kill(process_id, number)
        error = process.stderr.read()
        assert process.wait(timeout=60) == (130 if number == signal.SIGINT else 75), error
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    step = checkpoint.name.removeprefix("step-")
    again = f"`ziggurat train --out {tmp_path / 'run'} --resume` goes on after step {step}"
    assert error.splitlines()[-1] == f"ziggurat: stopped by a signal after step {step}; {again}"
    assert "Traceback" not in error
    assert not psutil.wait_procs(children, timeout=10)[1], "no process is left"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_before_the_first_step_nothing_is_written_and_the_status_is_the_same(tmp_path, number):
    """The workers of this program never train: the signals end them at once."""
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal, sys\n"
        "from ziggurat.errors import Preempted\n"
        "from ziggurat.parallel.runtime.launch import WorkerSettings, launch\n"
        "def work(workers):\n"
        "    os.write(1, b'ready\\n')\n"
        "    signal.pause()\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        "        launch(work, (), 2, WorkerSettings(1, 'cpu'))\n"
        "    except Preempted as error:\n"
        "        print(error)\n"
        "        sys.exit(75)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    with process:
        assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
        process.send_signal(number)
        assert "stopped by a signal before the first step" in process.stdout.read()
        assert process.wait(timeout=30) == 75

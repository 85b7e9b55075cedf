"""Starting workers: results, errors and deaths of real processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest
import torch

from support.forked import STDOUT, Forked
from support.ranks import run_ranks
from ziggurat.errors import CollectiveFailed, Preempted, UserError
from ziggurat.parallel.runtime import heartbeat
from ziggurat.parallel.runtime.launch import (
    Interrupted,
    WorkerFailed,
    WorkerSettings,
    join_world,
    launch,
    world_from_environment,
)
from ziggurat.parallel.runtime.preemption import Preemption
from ziggurat.system.forking import fork_context

CPU = WorkerSettings(threads=1, device="cpu")


def ranks_and_threads(workers, word):
    return workers.gather((workers.rank, torch.get_num_threads(), word))


def fail_on_second(workers, how):
    if workers.rank == 1:
        if how == "user":
            raise UserError(["first fault", "second fault"])
        if how == "bug":
            raise KeyError("missing part")
        os.kill(os.getpid(), signal.SIGKILL)
    workers.barrier()


def test_every_worker_takes_part_and_the_first_one_answers():
    assert launch(ranks_and_threads, ("hello",), 3, CPU) == [(rank, 1, "hello") for rank in range(3)]


def test_one_worker_needs_no_process_group():
    assert launch(ranks_and_threads, ("hello",), 1, CPU) == [(0, 1, "hello")]


def test_the_users_fault_arrives_whole():
    with pytest.raises(UserError) as caught:
        launch(fail_on_second, ("user",), 2, CPU)
    assert caught.value.faults == ["first fault", "second fault"]


def test_a_bug_arrives_with_its_worker_and_traceback():
    with pytest.raises(WorkerFailed, match=r"(?s)worker 1 failed:.*fail_on_second.*KeyError: 'missing part'"):
        launch(fail_on_second, ("bug",), 2, CPU)


def test_a_killed_worker_is_named():
    with pytest.raises(WorkerFailed, match="worker 1 was killed by SIGKILL"):
        launch(fail_on_second, ("kill",), 2, CPU)


def test_outside_of_torchrun_there_is_no_world():
    assert world_from_environment() is None


def work(workers, how):
    if how == "note":
        with Preemption() as preemption:
            os.write(1, f"{os.getpid()}\n".encode())
            while not preemption.requested:
                time.sleep(0.01)  # `pause` would miss a signal that comes before it
            os.write(1, b"noted\n")
            time.sleep(600)
    os.write(1, f"{os.getpid()}\n".encode())  # at once: two workers write to one pipe
    if how == "collective" and workers.rank == 1:
        workers.barrier()
    while how.startswith("/") and not os.path.exists(how):
        time.sleep(0.01)
    time.sleep(0 if how.startswith("/") else 600)


@contextlib.contextmanager
def program(tmp_path, how, *ignored):
    """Start a program whose two workers say who they are, in a process that ignores signals."""

    def run():
        tempfile.tempdir = str(tmp_path)  # a killed process cannot clean up
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # ignored by what a shell runs in the background
        for number in (signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)  # likewise
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        try:
            launch(work, (how,), 2, CPU)
        except Interrupted:
            return 130
        except Preempted:
            return 75
        return 0

    with Forked(run, STDOUT) as process:
        try:
            yield process, [int(process.stdout.readline()) for _ in range(2)]
        finally:
            process.kill()


def wait_until_gone(pids, seconds):
    deadline = time.monotonic() + seconds
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} are still there after {seconds} s"
        os.sched_yield()


@pytest.mark.parametrize("how", ["sleep", "collective"])
def test_an_interrupt_ends_every_worker_within_five_seconds(tmp_path, how):
    with program(tmp_path, how) as (process, pids):
        process.send_signal(signal.SIGINT)
        wait_until_gone(pids, 5)
        assert process.wait(timeout=5) == 130


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
@pytest.mark.parametrize("is_ignored", [True, False])
def test_a_signal_that_is_ignored_stays_so_for_all(tmp_path, number, is_ignored):
    """What a closed terminal sends to its processes: nohup has them ignore it."""
    end = tmp_path / "end"
    ignored = [number] if is_ignored else []
    with program(tmp_path, str(end), *ignored) as (process, pids):
        os.killpg(process.pid, number)
        if not is_ignored:
            wait_until_gone(pids, 5)
        end.touch()
        ended = 75 if number == signal.SIGHUP else 130
        assert process.wait(timeout=60) == (0 if is_ignored else ended)


def test_the_first_ctrl_c_asks_and_the_second_ends(tmp_path):
    """As a terminal sends it, to all processes of the group."""
    with program(tmp_path, "note") as (process, pids):
        os.killpg(process.pid, signal.SIGINT)
        assert [process.stdout.readline() for _ in range(2)] == ["noted\n"] * 2
        os.killpg(process.pid, signal.SIGINT)
        wait_until_gone(pids, 5)
        assert process.wait(timeout=60) == 130


UNGUARDED_PROGRAM = """
    import ziggurat
    print("imported", flush=True)
    ziggurat.verify("pnn", "2x3x32x32", "sp=2", settings={"threads": 2, "model.pnn.channels": 8})
"""
# It holds a folder before its workers start.
UNGUARDED_TRAINING = """
    import ziggurat
    print("imported", flush=True)
    ziggurat.train("digits", {"model.name": "timm:test_resnet", "plan": "dp=2", "threads": 2, "train.steps": 1, "train.batch_size": 2,
                              "data.crop": 64, "digits.size": 64, "digits.train_scenes": 2, "digits.val_scenes": 2}, out="run")
"""


@pytest.mark.sampled(0)
@pytest.mark.parametrize(
    ("program", "guard"),
    [(UNGUARDED_PROGRAM, True), (UNGUARDED_TRAINING, False)],
    ids=["verify with a guard", "train"],
)
def test_a_script_that_its_workers_import(tmp_path, program, guard):
    text = textwrap.dedent(program)
    if guard:
        text = text.replace("ziggurat.verify", "if __name__ == '__main__':\n    ziggurat.verify")
    script = tmp_path / "script.py"
    script.write_text(text)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=200, check=False, cwd=tmp_path
    )
    assert done.stdout.count("imported") == 3, "it is spawned"
    if guard:
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1, "of the script itself"
    assert 'must call ziggurat under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


def test_workers_end_with_the_process_that_started_them(tmp_path):
    with program(tmp_path, "collective") as (process, pids):
        process.kill()
        wait_until_gone(pids, 5)


def test_torchrun_workers_join_the_given_world(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent("""
        import json
        from ziggurat.parallel.runtime.launch import WorkerSettings, launch

        def work(workers):
            return workers.gather(workers.rank)

        if __name__ == "__main__":
            result = launch(work, (), 2, WorkerSettings(1, "cpu"))
            if result is not None:
                print(json.dumps(result))
        """)
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(script),
    ]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert (result.returncode, result.stdout) == (0, "[0, 1]\n"), result.stderr


def state_of_process():
    """What a caller of `join_world` had before, and wants to have again."""
    return (
        signal.getsignal(signal.SIGINT),
        torch.get_num_threads(),
        torch.distributed.is_initialized(),
        heartbeat._record,
        dict(os.environ),
    )


def threads_of_gloo():
    names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def join_and_leave(pipe, rank, port, how):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = state_of_process()
    try:
        with join_world(WorkerSettings(2, "cpu")) as workers:
            inside = (signal.getsignal(signal.SIGINT), torch.get_num_threads(), workers.gather(rank))
            groups = [workers.background(), workers.scope().background(), workers.background().background()]
            assert [group.gather(rank) for group in groups] == [[0, 1]] * 3
            assert threads_of_gloo()
            if how == "out of memory":
                raise torch.OutOfMemoryError("the GPU is full")
            if how == "shapes":
                torch.ones(2) @ torch.ones(3)
            if how == "collective":
                if rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                while True:
                    workers.barrier()
    except RuntimeError as error:
        pipe.send((inside, state_of_process() == before, torch.distributed.is_initialized(), type(error)))
    else:
        assert (
            not threads_of_gloo()
        )  # a thread that is late would abort a process whose interpreter has ended
        pipe.send((inside, state_of_process() == before, torch.distributed.is_initialized(), None))
    pipe.close()
    os._exit(0)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize(
    ("how", "kind", "group_is_left"),
    [
        ("well", None, False),
        ("out of memory", torch.OutOfMemoryError, False),
        ("shapes", RuntimeError, False),
        ("collective", CollectiveFailed, True),  # a thread may wait in it: the process ends it
    ],
)
def test_join_world_leaves_the_process_as_it_was(how, kind, group_is_left):
    context, port = fork_context(), free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [
        context.Process(target=join_and_leave, args=(send, rank, port, how))
        for rank, (_, send) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    try:
        for rank in range(1 if how == "collective" else 2):
            assert pipes[rank][0].poll(60)
            inside, is_as_before, has_group, found = pipes[rank][0].recv()
            assert inside == (signal.SIG_DFL, 2, [0, 1])
            assert (has_group, found) == (group_is_left, kind)
            assert is_as_before != group_is_left
    finally:
        for process in processes:
            process.kill()
            process.join()
        for end in (end for ends in pipes for end in ends):
            end.close()


def join_alone(_):
    before = state_of_process()
    with join_world(WorkerSettings(2, "cpu")) as workers:
        inside = (workers.size, torch.get_num_threads())
    return inside, state_of_process() == before


def test_outside_of_torchrun_the_process_is_as_it_was_too():
    assert run_ranks(join_alone, 1) == [((1, 2), True)]


def fail_first_and_be_missed(workers):
    if workers.rank == 1:
        raise ValueError("the cause")
    workers.barrier()


def test_the_cause_is_told_not_its_consequence():
    for _ in range(5):
        with pytest.raises(WorkerFailed, match=r"(?s)worker 1 failed:.*ValueError: the cause"):
            launch(fail_first_and_be_missed, (), 2, CPU)

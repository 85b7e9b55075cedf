"""Messages within a machine: random conversations held against what they shall say, mistakes, losses, and what they leave behind."""

import ctypes
import multiprocessing
import os
import random
import signal
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from support.ranks import run_ranks
from ziggurat.errors import CollectiveFailed
from ziggurat.parallel.collectives.workers import Workers

SIZES = (0, 1, 3, 1000, 16384, 16385, 300_000)  # numbers: from nothing to more than the kernel takes at once
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8)


def of(rank, number, size, dtype):
    """Return what a worker says as the n-th: small whole numbers, whose sums are exact in every type."""
    return ((torch.arange(size) * 7 + 11 * rank + 13 * number) % 9).to(dtype)


class Conversation:
    """A worker that begins one thing after the other, as a seed has it, and ends them in an order of its own."""

    def __init__(self, workers, seed):
        self.workers, self.open = workers, []
        self.shared, self.own = random.Random(seed), random.Random(1000 * seed + workers.rank)

    def hold(self, steps):
        for number in range(steps):
            kind = self.shared.choice(("swap", "sum", "max", "gather", "pieces", "first", "one", "barrier"))
            size, dtype = self.shared.choice(SIZES), self.shared.choice(TYPES)
            self.open.append(getattr(self, f"begin_{kind}")(number, size, dtype))
            while self.open and self.own.random() < 0.4:
                self.end(self.own.randrange(len(self.open)))
        while self.open:
            self.end(self.own.randrange(len(self.open)))

    def end(self, place):
        request, found, expected = self.open.pop(place)
        if request is not None:
            request.wait()
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)

    def all_say(self, number, size, dtype):
        return [of(rank, number, size, dtype) for rank in range(self.workers.size)]

    def begin_swap(self, number, size, dtype):
        """Some workers send to some others, as all of them know."""
        mine, size_of = self.workers.rank, {}
        for sender in range(self.workers.size):
            for receiver in range(self.workers.size):
                if sender != receiver and self.shared.random() < 0.7:
                    size_of[sender, receiver] = self.shared.choice((size, *SIZES))
        found = {pair: torch.empty(size_of[pair], dtype=dtype) for pair in size_of if pair[1] == mine}
        sends = [(pair[1], of(mine, number, size_of[pair], dtype)) for pair in size_of if pair[0] == mine]
        request = self.workers.start_swap(sends, [(pair[0], room) for pair, room in found.items()])
        return request, [*found.values()], [of(pair[0], number, size_of[pair], dtype) for pair in found]

    def begin_sum(self, number, size, dtype):
        tensor = of(self.workers.rank, number, size, dtype)
        total = sum(self.all_say(number, size, dtype)).to(dtype)
        return self.workers.start_add_up(tensor), [tensor], [total]

    def begin_max(self, number, size, dtype):
        tensor = of(self.workers.rank, number, size, dtype)
        largest = torch.stack(self.all_say(number, size, dtype)).amax(0)
        return self.workers.start_add_up(tensor, "max"), [tensor], [largest]

    def begin_gather(self, number, size, dtype):
        whole = torch.empty(size * self.workers.size, dtype=dtype)
        request = self.workers.start_all_gather(whole, of(self.workers.rank, number, size, dtype))
        return request, [whole], [torch.cat(self.all_say(number, size, dtype))]

    def begin_pieces(self, number, size, dtype):
        """Each gives each other a piece of another size; some none."""
        count, mine = self.workers.size, self.workers.rank
        sizes = [[self.shared.choice((0, 1, size // 3)) for _ in range(count)] for _ in range(count)]
        said = [of(rank, number, sum(sizes[rank]), dtype) for rank in range(count)]
        coming = [sizes[rank][mine] for rank in range(count)]
        room = torch.empty(sum(coming), dtype=dtype)
        request = self.workers.start_all_to_all(room, said[mine], coming, sizes[mine])
        expected = torch.cat([said[rank].split(sizes[rank])[mine] for rank in range(count)])
        return request, [room], [expected]

    def begin_first(self, number, size, dtype):
        tensor = of(self.workers.rank, number, size, dtype)
        self.workers.broadcast([tensor])
        return None, [tensor], [of(0, number, size, dtype)]

    def begin_one(self, number, size, dtype):
        owner = self.shared.randrange(self.workers.size)
        parts = self.workers.gather_to(of(self.workers.rank, number, size, dtype), owner)
        said = self.all_say(number, size, dtype) if self.workers.rank == owner else None
        return None, parts or [], said or []

    def begin_barrier(self, number, size, dtype):
        return self.workers.start_barrier(), [], []


def converse(workers, seeds):
    for seed in seeds:
        Conversation(workers, seed).hold(40)
    return True


@pytest.mark.sampled(1)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_random_conversations(world):
    assert run_ranks(converse, world, (range(10),)) == [True] * world


def converse_in_threads(workers):
    """Two groups, a thread each, at the same time."""
    beside, faults = workers.background(), []

    def talk():
        try:
            converse(beside, range(3))
        except BaseException as error:  # noqa: BLE001 - it is the test's to raise
            faults.append(error)

    thread = threading.Thread(target=talk)
    thread.start()
    converse(workers, range(3, 6))
    thread.join()
    return faults


def test_conversations_in_two_threads():
    assert run_ranks(converse_in_threads, 2) == [[], []]


MEBIBYTE = 1 << 18  # numbers


def send_before_anybody_reads(workers):
    """All send several times what the kernel takes, and go on; they read last what came last."""
    other = 1 - workers.rank
    sends = [workers.start_send(torch.full((4 * MEBIBYTE,), float(number)), other) for number in range(4)]
    rooms = [torch.empty(4 * MEBIBYTE) for _ in range(4)]
    receives = [workers.start_receive(room, other) for room in rooms]
    for request in reversed(receives):
        request.wait()
    for request in sends:
        request.wait()
    return [room.unique().tolist() for room in rooms]


def test_a_send_never_waits_for_its_receiver():
    assert run_ranks(send_before_anybody_reads, 2) == [[[0.0], [1.0], [2.0], [3.0]]] * 2


def send_and_end(workers):
    """The second worker sends what the kernel does not take at once, and ends before anybody reads."""
    if workers.rank == 1:
        workers.start_send(torch.ones(16 * MEBIBYTE), 0).wait()
        return 0.0
    room = torch.zeros(16 * MEBIBYTE)
    workers.start_receive(room, 1).wait()
    return float(room.sum())


def test_what_was_sent_arrives_though_its_sender_ends():
    assert run_ranks(send_and_end, 2) == [16.0 * MEBIBYTE, 0.0]


def begin_after_the_end_of_another(workers, pipe):
    """The second worker begins a barrier, and ends; the first begins it later, and may or may not wait for it."""
    if workers.rank == 1:
        workers.start_barrier()
        workers.let_go()
        pipe[1].send("ended")
        return []
    assert pipe[0].recv() == "ended"
    begun = workers.start_barrier()
    sent = workers.start_send(torch.ones(3), 1)
    said = []
    for request in (begun, sent):
        try:
            request.wait()
        except CollectiveFailed as error:
            said.append("did not answer" in str(error))
    return said


def test_what_is_begun_with_a_worker_that_has_ended_fails_where_one_waits():
    pipe = multiprocessing.Pipe(duplex=False)
    assert run_ranks(begin_after_the_end_of_another, 2, (pipe,)) == [[True, True], []]


def disagree(workers, ways):
    """Each worker does something else; say what comes of it."""
    try:
        ways[workers.rank](workers)
    except CollectiveFailed as error:
        return str(error)
    return "nothing"


def swap_of(size):
    def swap(workers):
        room, other = torch.empty(size), 1 - workers.rank
        workers.start_swap([(other, torch.zeros(size))], [(other, room)]).wait()

    return swap


def swap_around_a_collective(workers):
    """A worker begins its swaps before what all do together, the other one after it: what comes early is kept, in order."""
    other, rooms = 1 - workers.rank, [torch.empty(300_000), torch.empty(3), torch.empty(0)]

    def swaps():
        return [
            workers.start_swap([(other, torch.full_like(room, number))], [(other, room)])
            for number, room in enumerate(rooms, 1)
        ]

    found = []
    for first in (0, 1):
        begun = swaps() if workers.rank == first else []
        found.append(workers.add_up(torch.full((5,), 1.0 + workers.rank)).tolist())
        workers.barrier()
        for request in reversed(begun or swaps()):
            request.wait()
        found.append([room.unique().tolist() for room in rooms])
    return found


def test_a_swap_and_a_collective_are_begun_in_any_order():
    assert run_ranks(swap_around_a_collective, 2) == [[[3.0] * 5, [[1.0], [2.0], []]] * 2] * 2


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ((swap_of(3), swap_of(4)), ("16 bytes as part of its swap where this one wants 12 of its swap", "12 bytes")),
        ((lambda w: w.add_up(torch.zeros(3)), lambda w: w.add_up(torch.zeros(5))), ("20 bytes as part of its all-reduce", "12 bytes")),
        ((lambda w: w.barrier(), lambda w: w.all_gather(torch.zeros(2))), ("8 bytes as part of its all-gather", "0 bytes as part of its barrier")),
    ],
)  # fmt: skip
def test_workers_that_do_not_do_the_same_find_out(ways, said):
    found = run_ranks(disagree, 2, (ways,))
    assert all(part in text for part, text in zip(said, found, strict=True)), found


def wait_for_a_silent_one(workers, pipe):
    """The second worker says nothing until the first has given up."""
    patient = Workers(workers.rank, 2, group=dist.group.WORLD, timeout=timedelta(seconds=0.3))
    if workers.rank == 1:
        return pipe[0].recv()
    said = disagree(patient, [lambda w: w.barrier()])
    pipe[1].send("go on")
    return said


def test_who_is_silent_is_given_up():
    pipe = multiprocessing.Pipe(duplex=False)
    said, other = run_ranks(wait_for_a_silent_one, 2, (pipe,))
    assert "one of the workers [0, 1] did not answer worker 0 in its barrier" in said
    assert "Timed out after 0 s of waiting" in said
    assert other == "go on"


def lose_a_parent(workers, pipe):
    """The second worker dies while a child of it lives, which has all its files."""
    if workers.rank == 1:
        if os.fork() == 0:
            pipe[0].recv()  # until the first worker has seen it
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    said = disagree(workers, [lambda w: w.start_receive(torch.empty(1), 1).wait()])
    pipe[1].send("end")
    pipe[2].send(said)


def test_a_dead_worker_is_seen_though_its_child_lives():
    pipe, answer = multiprocessing.Pipe(duplex=False), multiprocessing.Pipe(duplex=False)
    with pytest.raises(RuntimeError, match="worker 1 died without a word"):
        run_ranks(lose_a_parent, 2, ((*pipe, answer[1]),), grace=20)
    assert "it has ended, or is stuck" in (answer[0].recv() if answer[0].poll(10) else "nothing")


def sockets_and_threads():
    """Return how many local sockets this process has, and how many threads that write what is left of messages."""
    known = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    names = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    places = [os.readlink(name) for name in names if name.is_symlink()]
    inodes = [place[len("socket:[") : -1] for place in places if place.startswith("socket:[")]
    writing = sum(thread.name == "messages" and thread.is_alive() for thread in threading.enumerate())
    return len(known.intersection(inodes)), writing


def leave_nothing(workers):
    counts = [sockets_and_threads()]
    for _ in range(2):
        scope = workers.scope()
        beside = scope.background()
        send_large(beside)
        counts.append(sockets_and_threads())
        scope.close()
        for thread in threading.enumerate():
            if thread.name == "messages":
                thread.join(20)
        counts.append(sockets_and_threads())
    return counts


def send_large(workers):
    other, room = 1 - workers.rank, torch.empty(16 * MEBIBYTE)
    workers.start_swap([(other, torch.ones(16 * MEBIBYTE))], [(other, room)]).wait()
    assert room.sum() == 16 * MEBIBYTE


def test_closed_groups_leave_no_socket_and_no_thread():
    for first, made, left, again, last in run_ranks(leave_nothing, 2):
        assert first == left == last
        assert made[0] == again[0] == first[0] + 1


CLONE_NEWNET = 0x40000000


def leave_the_machine(workers):
    """The last worker goes where nobody of the others can be called: as on another machine, or in a container."""
    libc = ctypes.CDLL(None, use_errno=True)
    if workers.rank == workers.size - 1 and libc.unshare(CLONE_NEWNET) != 0:
        alone = os.strerror(ctypes.get_errno())
    else:
        alone = ""
    if any(found := workers.gather(alone)):
        return "".join(found)
    before = sockets_and_threads()[0]
    anew = Workers(workers.rank, workers.size, group=dist.group.WORLD)
    more = sockets_and_threads()[0] - before
    converse(anew, range(3))
    return more


def test_workers_of_two_machines_talk_by_gloo_between_them():
    found = run_ranks(leave_the_machine, 3)
    if isinstance(found[0], str):
        pytest.skip(f"this process may not make a network of its own: {found[0]}")
    assert found == [1, 1, 0]  # two of them have each other


def test_one_machine_is_connected():
    assert run_ranks(lambda workers: sockets_and_threads()[0] >= 2, 3) == [True] * 3


def talk_of_what_requires_grad(workers):
    """What a collective gives has no history, whatever it was given, as under gloo."""
    given = torch.ones(4, requires_grad=True)
    part, other = given * (1 + workers.rank), 1 - workers.rank
    room = torch.empty(4)
    workers.start_all_to_all(room, part, [2, 2], [2, 2]).wait()
    gathered, total = workers.all_gather(part), workers.add_up(part.detach().clone())
    swapped = torch.empty(4)
    workers.start_swap([(other, part)], [(other, swapped)]).wait()
    return [(one.requires_grad, one.tolist()) for one in (gathered, room, total, swapped)]


def test_what_comes_of_messages_has_no_history():
    found = run_ranks(talk_of_what_requires_grad, 2)
    for rank, (gathered, room, total, swapped) in enumerate(found):
        assert gathered == (False, [1.0] * 4 + [2.0] * 4)
        assert room == (False, [1.0, 1.0, 2.0, 2.0])
        assert total == (False, [3.0] * 4)
        assert swapped == (False, [2.0 - rank] * 4)

"""What workers say to each other: each kind of collective, alone and together, its mistakes, its failures, and its groups."""

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch

from support.groups import open_groups
from support.ranks import run_ranks
from ziggurat.errors import CollectiveFailed, UserError
from ziggurat.parallel.collectives.requests import converted
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh

# Every way to talk that `Workers` has, as a call of one worker that all others make, too.
WAYS = {
    "gather": lambda w: w.gather({"rank": w.rank, "text": "x" * (3 + w.rank)}),
    "broadcast_object": lambda w: w.broadcast_object(["first", w.rank]),
    "decide_on_first": lambda w: w.decide_on_first(lambda: w.rank + 7),
    "broadcast": lambda w: broadcast(w),
    "sum": lambda w: w.sum([w.rank + 1, 5]),
    "add_up": lambda w: w.add_up(torch.tensor([w.rank + 1.0, 2.0])).tolist(),
    "largest": lambda w: w.add_up(torch.tensor([float(w.rank), -1.0]), "max").tolist(),
    "start_add_up": lambda w: finished(tensor := torch.ones(2), w.start_add_up(tensor)),
    "all_gather": lambda w: w.all_gather(torch.full((2, 1), float(w.rank))).tolist(),
    "start_all_gather": lambda w: finished(
        whole := torch.empty(w.size), w.start_all_gather(whole, torch.tensor([float(w.rank)]))
    ),
    "all_gather of several sizes": lambda w: all_gather_of(w),
    "gather_to": lambda w: parts_of(w.gather_to(torch.tensor([float(w.rank)]), w.size - 1)),
    "start_all_to_all": lambda w: all_to_all(w),
    "barrier": lambda w: w.barrier(),
    "start_barrier": lambda w: w.start_barrier().wait(),
    "swap": lambda w: swap(w),
    "subgroup": lambda w: w.subgroup(range(w.size)).size,
    "subgroup of some": lambda w: w.subgroup(pair_of(w)).gather(w.rank),
    "background": lambda w: w.background().gather(w.rank),
    "close": lambda w: w.scope().close(),
}


def broadcast(workers):
    tensor = torch.full((2, 3), float(workers.rank)).t()  # dense, not contiguous
    workers.broadcast([tensor])
    return tensor.tolist()


def finished(tensor, request):
    request.wait()
    return tensor.tolist()


def all_gather_of(workers):
    """The second worker has nothing."""
    sizes = [(2, 0, 3)[rank % 3] for rank in range(workers.size)]
    part, whole = torch.full((sizes[workers.rank],), float(workers.rank)), torch.empty(sum(sizes))
    return finished(whole, workers.start_all_gather(whole, part, sizes))


def parts_of(parts):
    return None if parts is None else [part.tolist() for part in parts]


def all_to_all(workers):
    sent = torch.arange(float(workers.size)) + 10 * workers.rank
    received = torch.empty(workers.size)
    ones = [1] * workers.size
    return finished(received, workers.start_all_to_all(received, sent, ones, ones))


def swap(workers):
    """Send to every other worker, and receive from each."""
    others = [rank for rank in range(workers.size) if rank != workers.rank]
    received = {rank: torch.empty(1) for rank in others}
    mine = torch.tensor([float(workers.rank)])
    workers.start_swap([(rank, mine) for rank in others], [*received.items()]).wait()
    return [received[rank].item() for rank in others]


def pair_of(workers):
    first = workers.rank // 2 * 2
    return [rank for rank in (first, first + 1) if rank < workers.size]


def talk(workers, way):
    return WAYS[way](workers)


TOGETHER = {
    "gather": [{"rank": r, "text": "x" * (3 + r)} for r in range(3)],
    "broadcast_object": ["first", 0],
    "decide_on_first": 7,
    "broadcast": [[0.0, 0.0]] * 3,
    "sum": [6, 15],
    "add_up": [6.0, 6.0],
    "largest": [2.0, -1.0],
    "start_add_up": [3.0, 3.0],
    "all_gather": [0.0, 0.0, 1.0, 1.0, 2.0, 2.0],
    "start_all_gather": [0.0, 1.0, 2.0],
    "all_gather of several sizes": [0.0, 0.0, 2.0, 2.0, 2.0],
    "barrier": None,
    "start_barrier": None,
    "subgroup": 3,
    "background": [0, 1, 2],
    "close": None,
}
EACH = {
    "gather_to": [None, None, [[0.0], [1.0], [2.0]]],
    "start_all_to_all": [[0.0, 10.0, 20.0], [1.0, 11.0, 21.0], [2.0, 12.0, 22.0]],
    "swap": [[1.0, 2.0], [0.0, 2.0], [0.0, 1.0]],
    "subgroup of some": [[0, 1], [0, 1], [2]],
}
ALONE = {
    "gather": [{"rank": 0, "text": "xxx"}], "broadcast_object": ["first", 0], "decide_on_first": 7,
    "broadcast": [[0.0, 0.0]] * 3, "sum": [1, 5], "add_up": [1.0, 2.0], "largest": [0.0, -1.0],
    "start_add_up": [1.0, 1.0], "all_gather": [0.0, 0.0], "start_all_gather": [0.0], "all_gather of several sizes": [0.0, 0.0], "gather_to": [[0.0]],
    "start_all_to_all": [0.0], "barrier": None, "start_barrier": None, "swap": [], "subgroup": 1,
    "subgroup of some": [0], "background": [0], "close": None,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_talk(way):
    expected = EACH[way] if way in EACH else [TOGETHER[way]] * 3
    assert run_ranks(talk, 3, (way,)) == expected
    assert talk(Workers(), way) == ALONE[way]


# Messages and bytes of the first and the second of three workers.
SENT = {
    "broadcast": [(2, 48), (0, 0)],
    "add_up": [(4, 10), (4, 10)],
    "all_gather": [(2, 16), (2, 16)],
    "all_gather of several sizes": [(2, 16), (0, 0)],
    "gather_to": [(1, 4), (1, 4)],
    "start_all_to_all": [(2, 8), (2, 8)],
    "swap": [(2, 8), (2, 8)],
    "barrier": [(2, 0), (2, 0)],
    "sum": [(4, 21), (4, 21)],
}


def counted(workers, way):
    before = workers.sent.copy()
    talk(workers, way)
    sent = workers.sent - before
    return sent.messages, sent.bytes


@pytest.mark.parametrize("way", SENT)
def test_what_is_sent_is_counted(way):
    assert run_ranks(counted, 3, (way,))[:2] == SENT[way]
    assert counted(Workers(), way) == (0, 0)


def talk_through_host(workers, way):
    host = Workers(workers.rank, workers.size, group=torch.distributed.group.WORLD, through_host=True)
    return WAYS[way](host)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_talk_through_the_memory_of_the_host(way):
    """As workers on one GPU do over gloo, which cannot reach it; here what passes is a copy."""
    expected = EACH[way] if way in EACH else [TOGETHER[way]] * 3
    assert run_ranks(talk_through_host, 3, (way,)) == expected


def refuse_on_first(workers):
    def refuse():
        raise UserError("bands must be tall enough")

    try:
        workers.decide_on_first(refuse)
    except UserError as error:
        return str(error)
    return None


def test_all_raise_what_the_first_one_raises():
    assert run_ranks(refuse_on_first, 2) == ["bands must be tall enough"] * 2
    assert refuse_on_first(Workers()) == "bands must be tall enough"


def meet_a_killed_peer(workers, way, pipes):
    """The last worker is killed; the others are in the midst of a collective, or begin one."""
    if workers.rank == workers.size - 1:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        time.sleep(60)
    said = "nothing"
    try:
        for _ in range(3):  # a small message may have left before
            WAYS[way](workers)
            workers.barrier()
    except CollectiveFailed as error:
        said = str(error)
    pipes[workers.rank][1].send(said)


# Whoever makes a group waits in the store, for as long as groups wait: the launcher ends such a wait.
@pytest.mark.parametrize("way", [way for way in WAYS if way != "background"])
def test_a_killed_peer_is_a_failed_collective(way):
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(2)]
    with pytest.raises(RuntimeError, match="worker 2 died without a word"):
        run_ranks(meet_a_killed_peer, 3, (way, pipes), grace=20)
    said = [receive.recv() if receive.poll(5) else "killed before" for receive, _ in pipes]
    for end in (end for ends in pipes for end in ends):
        end.close()
    assert all("has ended, or is stuck; see its own last message" in text for text in said), said


def mistakes(workers):
    """Return what mistakes of one worker are; none of them may reach the others, who do not take part."""
    turned = torch.ones(3, 2).t()
    flat, ones = torch.ones(2), [1, 1]
    wrong = [
        lambda: workers.add_up(turned),
        lambda: workers.all_gather(turned),
        lambda: workers.start_all_gather(torch.empty(3), flat),
        lambda: workers.start_all_gather(torch.empty(4, dtype=torch.float64), flat),
        lambda: workers.gather_to(turned, 0),
        lambda: workers.start_all_to_all(torch.empty(3), flat, ones, ones),
        lambda: workers.start_all_to_all(flat, torch.ones(2, 3).t()[:, 0], ones, ones),
        lambda: workers.start_swap([(workers.rank, flat)], []),
        lambda: workers.start_swap([], [(2, flat)]),
        lambda: workers.start_send(turned, 1 - workers.rank),
        lambda: workers.add_up(torch.empty(2, device="meta")),
        lambda: workers.subgroup([1 - workers.rank]),
        lambda: workers.subgroup([1, 0]),
    ]
    kinds = []
    for call in wrong:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - its kind is what is asked
            kinds.append(type(error))
    workers.barrier()
    return kinds


def test_a_mistake_is_found_before_anything_is_sent():
    kinds = run_ranks(mistakes, 2)
    assert kinds == [[ValueError] * 13] * 2


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("broken"), KeyError("x")]
)
def test_what_is_this_workers_own_stays_what_it_is(error):
    with pytest.raises(type(error)) as caught, converted(lambda: "worker 1 did not answer"):
        raise error
    assert caught.value is error


def test_what_a_backend_raises_is_converted_once():
    with (
        pytest.raises(
            CollectiveFailed, match=r"worker 1 did not answer: it has ended.* \(closed\)$"
        ) as caught,
        converted(lambda: "worker 0 did not answer"),
        converted(lambda: "worker 1 did not answer"),
    ):
        raise RuntimeError("closed\nin a file")
    assert type(caught.value.__cause__) is RuntimeError


def told_of_a_loss(workers):
    sub = workers.scope().subgroup(range(workers.size))
    workers.confirm()
    workers.barrier()
    workers.abort("worker 7 was killed")  # from the launcher, by another thread
    said = []
    for call in (
        workers.confirm,
        workers.barrier,
        sub.barrier,
        lambda: sub.gather(1),
        lambda: sub.background(),
    ):
        try:
            call()
        except CollectiveFailed as error:
            said.append(str(error))
    return said


def test_who_is_told_of_a_loss_believes_no_result_any_more():
    assert run_ranks(told_of_a_loss, 2) == [["worker 7 was killed"] * 5] * 2


PLANS = [
    ("dp=2", 2), ("sp=2", 2), ("pp=2", 2), ("tp=2", 2), ("lp=2", 2), ("fsdp=2", 2), ("sp=2x2", 4), ("dp=2,sp=2", 4),
    ("dp=2,pp=2", 4), ("sp=2,pp=2", 4), ("dp=2,tp=2", 4), ("sp=2,lp=2", 4), ("sp=2,fsdp=2", 4),
]  # fmt: skip


def groups_of_a_mesh(workers, plan):
    counts = [open_groups()]
    for _ in range(2):
        with make_mesh(workers, plan) as mesh:
            mesh.workers.background().barrier()
            counts.append(open_groups())
        counts.append(open_groups())
    workers.barrier()
    return counts


@pytest.mark.parametrize(("plan", "world"), PLANS)
def test_a_mesh_leaves_no_group_behind(plan, world):
    for first, made, left, again, last in run_ranks(groups_of_a_mesh, world, (plan,)):
        assert first == left == last == 1
        assert made == again > 1


def use_after_close(workers):
    scope = workers.scope()
    beside = scope.background()
    scope.close()
    with pytest.raises(ValueError, match="have been closed"):
        beside.barrier()
    workers.barrier()  # the world stays
    return open_groups()


def test_closed_workers_say_so():
    assert run_ranks(use_after_close, 2) == [1, 1]

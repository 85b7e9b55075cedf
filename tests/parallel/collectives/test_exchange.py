"""The exchange of subtree roots: by messages and through shared memory, the bits of one worker."""

import os
import signal
from pathlib import Path

import pytest
import torch

from support.ranks import run_ranks
from ziggurat.parallel.collectives import shared_memory
from ziggurat.parallel.collectives.canonical import Accumulator, Span, fold, partition, subtrees
from ziggurat.parallel.collectives.exchange import Exchange
from ziggurat.parallel.collectives.hierarchy import even_slices, slices
from ziggurat.parallel.collectives.pieces import PartSum
from ziggurat.parallel.collectives.shared_memory import Arena, arena_bytes, share_memory
from ziggurat.parallel.collectives.tiers import MessageTier, Room, SharedTier, meetings


def leaf_values(num_leaves, length, seed=0):
    generator = torch.Generator().manual_seed(100 * seed + num_leaves)
    scale = 10.0 ** torch.randint(-4, 5, (num_leaves, length), generator=generator)
    return torch.randn((num_leaves, length), generator=generator) * scale


def expected_sum(num_leaves, length, seed=0):
    rows = leaf_values(num_leaves, length, seed)
    return fold({Span(i, i + 1): row.clone() for i, row in enumerate(rows)}, Span(0, num_leaves)).numpy()


def exchanged_sums(workers, num_leaves, length, way):
    """Exchanges in a row, in the same shared memory: of slices alone, then of all, and at last of other slices than the sum's."""
    parts = partition(num_leaves, workers.size)
    node, sizes = Span(0, num_leaves), even_slices(length, workers.size)
    if way == "shared":
        capacity = max(len(subtrees(part, node)) for part in parts)
        pieces = [((workers.size, capacity, sum(sizes)), torch.float32), ((sum(sizes),), torch.float32)]
        arena = Arena(share_memory(workers, arena_bytes(pieces)))
        room = Room(*(arena.tensor(*piece) for piece in pieces))
    sums = []
    for seed in range(3):
        values = leaf_values(num_leaves, length, seed)
        accumulator = Accumulator(parts[workers.rank], num_leaves)
        for leaf in parts[workers.rank]:
            accumulator.add(leaf, values[leaf].clone())
        groups = [workers] if workers.size > 1 else []
        tiers = [
            SharedTier(meeting, room) if way == "shared" else MessageTier(meeting, torch.empty(0))
            for meeting in meetings(groups, workers.rank, parts, sizes)
        ]
        exchange = Exchange(accumulator.roots, node, tiers, length, stops=seed != 1)
        if seed == 0:
            mine = slices([workers.size], sizes)[workers.rank]
            padded = torch.cat([torch.zeros(length), torch.zeros(sum(sizes) - length)])
            padded[mine.start : mine.stop] = exchange.slice()
            exchange.leave()
            sums.append(workers.add_up(padded)[:length].numpy())
            continue
        if seed == 2:
            exchange.share(2 * exchange.slice())
        result = exchange.result()
        sums.append((result / seed).numpy())
        result.mul_(2)  # the caller's own memory: clipping writes into it
    return sums


@pytest.mark.sampled(21)
@pytest.mark.parametrize("way", ["messages", "shared"])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("num_leaves", "length"), [(8, 1000), (5, 7), (4, 1), (7, 3), (2, 11), (1, 5)])
def test_the_same_bits_on_any_number_of_workers(way, world, num_leaves, length):
    for sums in run_ranks(exchanged_sums, world, (num_leaves, length, way)):
        for seed, total in enumerate(sums):
            assert (total == expected_sum(num_leaves, length, seed)).all()


def summed_on_uneven_slices(workers, tiers, sizes, way):
    """Return where this worker's slice lies with its elements, and the whole, by tiers of which the innermost may share memory."""
    workers.arrange(tiers)
    num_leaves, length = 7, sum(sizes)
    parts, node = partition(num_leaves, workers.size), Span(0, num_leaves)
    accumulator = Accumulator(parts[workers.rank], num_leaves)
    for leaf in parts[workers.rank]:
        accumulator.add(leaf, leaf_values(num_leaves, length)[leaf].clone())
    used = [
        MessageTier(meeting, torch.empty(0))
        for meeting in meetings(workers.tiers, workers.rank, parts, sizes)
    ]
    if way == "shared":
        shape = (tiers[0], max(len(subtrees(part, node)) for part in parts), length)
        pieces = [(shape, torch.float32), ((length,), torch.float32)]
        arena = Arena(share_memory(workers.tiers[0], arena_bytes(pieces)))
        used[0] = SharedTier(used[0].meeting, Room(*(arena.tensor(*piece) for piece in pieces)))
    exchange = Exchange(accumulator.roots, node, used, length, stops=True)
    place, mine = slices(tiers, sizes)[workers.rank], exchange.slice().clone()
    exchange.share(exchange.slice())
    return place, mine.numpy(), exchange.result().numpy()


@pytest.mark.parametrize("way", ["messages", "shared"])
@pytest.mark.parametrize(
    ("tiers", "sizes"), [((2,), [3, 8]), ((3,), [0, 5, 1]), ((2, 2), [4, 0, 7, 1]), ((2, 2), [0, 0, 9, 2])]
)
def test_slices_may_be_of_any_sizes(tiers, sizes, way):
    expected = expected_sum(7, sum(sizes))
    found = run_ranks(summed_on_uneven_slices, len(sizes), (tiers, sizes, way))
    for (place, mine, whole), size in zip(found, sizes, strict=True):
        assert len(place) == size
        assert (mine == expected[place.start : place.stop]).all()
        assert (whole == expected).all()
    assert sorted(n for place, *_ in found for n in place) == list(range(sum(sizes)))


def seen_by_all(workers):
    memory = share_memory(workers, 1000)
    memory[workers.rank] = workers.rank + 7
    workers.barrier()
    left = [descriptor for descriptor in os.listdir("/proc/self/fd") if is_ours(descriptor)]
    return memory[: workers.size].tolist(), len(left)


def is_ours(descriptor, process="self"):
    try:
        return "memfd:ziggurat-" in os.readlink(f"/proc/{process}/fd/{descriptor}")
    except OSError:  # the descriptor of the listing itself
        return False


def test_all_workers_see_what_one_writes_and_no_descriptor_is_left():
    assert run_ranks(seen_by_all, 3) == [([7, 8, 9], 0)] * 3


def without_room(workers, reason):
    if reason == "no such call":
        del os.memfd_create
    elif reason == "no room":
        os.posix_fallocate = fail
    elif workers.rank == 1:  # as on another machine, whose process of this number has other files
        shared_memory.MemoryOffer.path = Path(f"/proc/{os.getpid()}/fd/0")
    memory = share_memory(workers, 1000)
    return memory is None, len([one for one in os.listdir("/proc/self/fd") if is_ours(one)])


def fail(*arguments):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("reason", ["no such call", "no room", "another machine"])
def test_all_workers_do_without_where_one_cannot(reason):
    assert run_ranks(without_room, 2, (reason,)) == [(True, 0)] * 2


def killed_in_between(workers, folder):
    """The second worker is killed when the memory is there, and not mapped yet."""
    if workers.rank == 1:
        shared_memory._map = lambda offer, size: os.kill(os.getpid(), signal.SIGKILL)
    else:
        create = shared_memory._create

        def create_and_tell(size, reserve):
            offer = create(size, reserve)
            (folder / "offer").write_text(f"{offer.pid} {offer.descriptor} {is_ours(offer.descriptor)}")
            return offer

        shared_memory._create = create_and_tell
    share_memory(workers, 1000)


def test_workers_that_are_killed_in_between_leave_nothing_behind(tmp_path):
    before = set(os.listdir("/dev/shm"))
    with pytest.raises(RuntimeError, match="worker"):
        run_ranks(killed_in_between, 2, (tmp_path,))
    process, descriptor, made = (tmp_path / "offer").read_text().split()
    assert made == "True"
    assert not is_ours(descriptor, process), "the memory is gone with the process that made it"
    assert not {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("ziggurat")}


def sums_of_parts(workers, room, dtype, way):
    if way == "messages":
        os.posix_fallocate = fail
    add_up = PartSum(workers, room)
    sums = []
    for seed in (0, 1):  # the memory of the first sum is used again
        part = torch.from_numpy(leaf_values(workers.size, 1003, seed)[workers.rank].numpy()).to(dtype)
        sums.append(add_up(part).clone().numpy())
    return sums, add_up.memory is not None


@pytest.mark.parametrize("way", ["messages", "shared"])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("room", [256, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_of_parts_is_that_of_all_workers(way, world, room, dtype):
    for sums, is_shared in run_ranks(sums_of_parts, world, (room, dtype, way)):
        assert is_shared == (way == "shared" and world > 1)
        for seed, total in enumerate(sums):
            expected = leaf_values(world, 1003, seed).double().sum(0)
            scale = leaf_values(world, 1003, seed).double().abs().sum(0)
            error = (torch.from_numpy(total).double() - expected).abs() / scale
            assert error.max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sum_of_parts_has_the_same_bits_wherever_an_element_is_and_however_it_travels(dtype):
    expected = [
        fold({Span(i, i + 1): row.to(dtype) for i, row in enumerate(leaf_values(3, 1003, seed))}, Span(0, 3))
        for seed in (0, 1)
    ]
    for way, room in (("messages", 256), ("shared", 256), ("shared", 1 << 20)):
        for sums, _ in run_ranks(sums_of_parts, 3, (room, dtype, way)):
            for total, true in zip(sums, expected, strict=True):
                assert (total == true.numpy()).all()

"""Messages as NCCL handles them: in batches, one after the other on each worker, none of which ends without its counterparts."""

from typing import NamedTuple


class Op(NamedTuple):
    """One end of a message."""

    kind: str  # send or receive
    peer: int
    name: object


def stuck(streams):
    """Return the workers that never end, each with the number of the batch that it is in; nothing where all end.

    A batch begins when the one before it has ended. A message passes when the batches of both its ends have begun; a batch ends
    when all its messages have passed. The k-th message that a worker sends to another in a batch meets the k-th that this one
    receives from it: their names must agree.
    """
    places = [0] * len(streams)
    passed = set()
    begun = {}  # ends that are waiting: (sender, receiver, number of the message between them) -> name
    counts = {}
    keys = []
    for worker, batches in enumerate(streams):
        keys.append([])
        for batch in batches:
            keys[-1].append([])
            for op in batch:
                pair = (worker, op.peer) if op.kind == "send" else (op.peer, worker)
                number = counts[op.kind, pair] = counts.get((op.kind, pair), 0) + 1
                keys[-1][-1].append((op.kind, (*pair, number), op.name))
    moved = True
    while moved:
        moved = False
        for worker, batches in enumerate(keys):
            while places[worker] < len(batches):
                for kind, key, name in batches[places[worker]]:
                    other = begun.setdefault(key, {})
                    other[kind] = name
                    if len(other) == 2:
                        assert other["send"] == other["receive"], f"{other} are taken for each other"
                        passed.add(key)
                if not all(key in passed for _, key, _ in batches[places[worker]]):
                    break
                places[worker] += 1
                moved = True
    return {w: place for w, place in enumerate(places) if place < len(streams[w])}


def batches_of(tables, is_long=lambda name: False):
    """Return the batches that each worker issues under a timetable: heads, the rest of long heads, bodies."""
    streams = []
    for table in tables:
        stream = []
        for slot in table:
            ops = [Op("receive", peer, name) for peer, name in slot.receives]
            ops += [Op("send", peer, name) for peer, name in slot.sends]
            for part in ("head", "rest", "body"):
                batch = [
                    op._replace(name=(part, op.name)) for op in ops if part != "rest" or is_long(op.name)
                ]
                if batch:
                    stream.append(batch)
        streams.append(stream)
    return streams

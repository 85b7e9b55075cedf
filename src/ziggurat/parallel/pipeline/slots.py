"""The timetable of a pipeline: in which slot each action is done, and what is sent and received after it.

    slot        0      1      2      3      4
    worker 0   F0@0   F1@0          B0@0   ...     after slot 0: worker 0 sends, worker 1 receives
    worker 1          F0@1   B0@1   F1@1   ...     after slot 2: worker 1 sends, worker 0 receives

A slot is one action, of whatever length: the earliest in which all that the action needs was done before. A pure function of
the orders, so that every worker has the same timetable. How long actions take in truth changes only who waits for whom.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

A = TypeVar("A", bound=Hashable)  # an action
M = TypeVar("M", bound=Hashable)  # the address of a message


class Slot(NamedTuple, Generic[A, M]):
    """What a worker does in one slot.

    Attributes:
        action: Done first; None if it has none.
        sends: Receivers and messages, that the action has made.
        receives: Senders and messages; from each worker in the order in which it sends.
    """

    action: A | None
    sends: tuple[tuple[int, M], ...]
    receives: tuple[tuple[int, M], ...]


def slots_of(orders: Sequence[Sequence[A]], needs: Callable[[A], Iterable[A]]) -> dict[A, int]:
    """Return the earliest slot of each action: after its worker's action before, and after what it needs.

    Raises:
        ValueError: If workers wait for each other for ever.

    Example:
        >>> slots_of([["a", "b"], ["c"]], {"a": "", "b": "", "c": "b"}.get)
        {'a': 0, 'b': 1, 'c': 2}
    """
    slots: dict[A, int] = {}
    places = [0] * len(orders)
    while any(place < len(order) for place, order in zip(places, orders, strict=True)):
        before = len(slots)
        for worker, order in enumerate(orders):
            while places[worker] < len(order):
                action = order[places[worker]]
                earlier = [*order[max(0, places[worker] - 1) : places[worker]], *needs(action)]
                if not all(one in slots for one in earlier):
                    break
                slots[action] = max((slots[one] + 1 for one in earlier), default=0)
                places[worker] += 1
        if len(slots) == before:
            stuck = [str(order[p]) for p, order in zip(places, orders, strict=True) if p < len(order)]
            raise ValueError(f"the orders never end: {', '.join(stuck)} wait for each other")
    return slots


def timetable(
    orders: Sequence[Sequence[A]],
    needs: Callable[[A], Iterable[A]],
    messages: Callable[[A], Iterable[tuple[int, M]]],
) -> list[list[Slot[A, M]]]:
    """Return the slots of each worker, as many for all.

    Args:
        orders: Of each worker.
        needs: From an action to those that must have been done; for each of its messages among them the sender's.
        messages: From an action to receivers and addresses of what it sends to other workers, in its order.

    Raises:
        ValueError: If workers wait for each other for ever.
    """
    slots = slots_of(orders, needs)
    count = max(slots.values(), default=-1) + 1
    at: list[dict[int, A]] = [{slots[action]: action for action in order} for order in orders]
    tables = []
    for worker in range(len(orders)):
        table = []
        for slot in range(count):
            action = at[worker].get(slot)
            sends = () if action is None else tuple(messages(action))
            receives = tuple(
                (source, address)
                for source, actions in enumerate(at)
                if source != worker and slot in actions
                for target, address in messages(actions[slot])
                if target == worker
            )
            table.append(Slot(action, sends, receives))
        tables.append(table)
    return tables

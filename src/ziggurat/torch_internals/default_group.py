"""The default process group of ``torch.distributed``, which the code of a network must not find.

A network that looks (``if torch.distributed.is_initialized(): torch.distributed.all_reduce(...)``, as quantizers and synchronized
batch norms do) would talk to workers that compute something else at that time, or wait for those that do not call it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch.distributed.distributed_c10d as c10d

from ziggurat.torch_internals.switches import Switch

_hidden: c10d.ProcessGroup | None = None


def _hide() -> None:
    global _hidden
    _hidden, c10d.GroupMember.WORLD = c10d.GroupMember.WORLD, None


def _show() -> None:
    global _hidden
    known = _hidden is not None and _hidden in c10d._world.pg_map  # not destroyed meanwhile
    c10d.GroupMember.WORLD, _hidden = _hidden if known else c10d.GroupMember.WORLD, None


_switch = Switch(_hide, _show)


def default_group_hidden() -> AbstractContextManager[None]:
    """While a block runs, ``torch.distributed`` looks as if nobody had initialized it; groups that one has at hand work as before.

    It is a switch of the whole process, as backward may run in threads of autograd's own; the last of several blocks turns it
    back. No group can be made meanwhile.

    Why: the default group is what ``is_initialized`` asks for, and what every function takes that is given no group. There is
    no documented way to be without it for a while.
    """
    return _switch.held()

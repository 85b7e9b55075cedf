"""Starting a process by a fork, and why that is safe where it is done."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkContext

# Of Python 3.12 and later, whose os.fork counts the threads of the operating system, PyTorch's among them.
THREADS_WARNING = r"This process \(pid=\d+\) is multi-threaded, use of fork\(\)"


def fork_context() -> ForkContext:
    """Return the context that forks, for a child whose work takes no lock that another thread may hold.

    A fork copies the calling thread only: a lock that another thread holds at that instant stays taken in the child.
    Python warns of it since 3.12 whenever there are threads, and there are: those of PyTorch and of gloo. Three kinds of
    children are forked, and the warning is answered here for all of them:

    * workers, before the launcher has started any thread, where they compute with one thread each and no GPU;
    * loader processes and those of `check`: they decode images with Pillow and NumPy, and cut and resize with PyTorch on
      one thread, which is set before anything else, so that OpenMP's pool, which does not survive a fork, is never
      asked; they take part in no collective, log nothing, and glibc and Python make their own locks anew in a child.

    They are forked rather than spawned as they share the data set's pages and start in milliseconds. What is forked must
    not use a GPU.
    """
    # Not around each fork: the filters belong to the whole process, and a second thread would restore the wrong ones.
    warnings.filterwarnings("ignore", message=THREADS_WARNING, category=DeprecationWarning)
    return multiprocessing.get_context("fork")


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Keep Ctrl-C waiting while a process is started, which keeps it waiting for ever: the one that starts it answers.

    The process would else end with a traceback before it has come to say so itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(parent: int) -> None:
    """End this process when the one that started it ends, however that ends (Linux only).

    The end of a pipe does not tell it: processes that were forked after this one hold the same pipe.

    Args:
        parent: Process id of the one that started it, which called for it in a thread that stays.
    """
    if not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
    ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call
        os._exit(1)

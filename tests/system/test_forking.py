from __future__ import annotations

import warnings

from ziggurat.system.forking import THREADS_WARNING, fork_context

# the words of CPython's Modules/posixmodule.c, 3.12 to 3.14
WORDS = "This process (pid=17) is multi-threaded, use of fork() may lead to deadlocks in the child."


def test_the_warning_of_threads_is_answered_and_no_other() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            fork_context()
        warnings.warn(WORDS, DeprecationWarning, stacklevel=1)
        warnings.warn("another", DeprecationWarning, stacklevel=1)
        patterns = [entry[1].pattern for entry in warnings.filters if entry[1] is not None]
        assert patterns.count(THREADS_WARNING) == 1
    assert [str(one.message) for one in caught] == ["another"]

"""What a worker holds once a run's state is spread: its own part, in the eyes of the operating system, too."""

import platform
from pathlib import Path

import pytest

from support.joined import configured, joined
from support.ranks import run_ranks
from ziggurat.parallel.runtime.allocator import give_back_freed_memory, keep_freed_memory


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def held(workers, plan, folder):
    """Return the bytes of memory that the joined models take, and those of both where they are whole."""
    keep_freed_memory()
    give_back_freed_memory()
    before = resident_bytes()
    whole, training = joined(workers, configured(plan), folder)
    taken = resident_bytes() - before
    training.close()
    return taken, whole


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked to give memory back")
@pytest.mark.parametrize("plan", ["fsdp=2", "pp=2", "tp=2"])
def test_what_others_hold_is_given_back(plan, tmp_path):
    for taken, whole in run_ranks(held, 2, (plan, tmp_path)):
        assert taken < 0.75 * whole, "a half, and what the first call of anything leaves behind"

"""A step finds the memory that the step before has freed, without a page fault."""

import json
import os
import platform
import subprocess
import sys

import pytest

from ziggurat.parallel.runtime import allocator

# In a new process: the heap of this one has holes of any size. Gradients, as a rule twelve of 8 MB each, are made, filled and freed.
STEPS = """
import json, resource, runpy, sys
import numpy as np
functions = runpy.run_path(sys.argv[1])
kept = [functions[name]() for name in sys.argv[2].split()]
count, elements = map(int, sys.argv[3:])
def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    gradients = [np.ones(elements, dtype=np.float32) for _ in range(count)]
    del gradients
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([kept, [page_faults() for _ in range(4)]]))
"""


def page_faults(functions, count=12, elements=2 << 20):
    """Run in an environment that leaves the allocator alone, but for these of its functions."""
    chosen = [
        name for name in os.environ if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")
    ]
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    command = [sys.executable, "-c", STEPS, allocator.__file__, functions, str(count), str(elements)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's mallopt: other allocators are left as they are"
)
def test_a_step_takes_what_the_step_before_has_freed():
    kept, faults = page_faults("keep_freed_memory")
    assert kept == [True]
    assert faults[0] > 1000, "the first step's memory is new"
    assert max(faults[1:]) < 100
    _, faults = page_faults("")
    assert min(faults[1:]) > 1000, "what this is for"


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's mallopt: other allocators are left as they are"
)
def test_what_is_large_comes_from_the_heap_where_nothing_is_mapped():
    large = {"count": 2, "elements": 10 << 20}  # 40 MiB each
    kept, faults = page_faults("keep_freed_memory map_nothing", **large)
    assert kept == [True, True]
    assert max(faults[1:]) < 100
    _, faults = page_faults("keep_freed_memory", **large)
    assert min(faults[1:]) > 500, (
        "what this is for: NumPy asks for huge pages, PyTorch has 20 times as many faults"
    )


def test_the_users_choice_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not allocator.keep_freed_memory()

"""A step finds the memory that the step before has freed, without a page fault."""

import json
import os
import platform
import subprocess
import sys

import pytest

from ziggurat.parallel.runtime import allocator

# In a new process: the heap of this one has holes of any size. Twelve gradients of 8 MB each are made, filled and freed.
STEPS = """
import json, resource, runpy, sys
import numpy as np
kept = runpy.run_path(sys.argv[1])["keep_freed_memory"]() if sys.argv[2] == "keep" else False
def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    gradients = [np.ones(2 << 20, dtype=np.float32) for _ in range(12)]
    del gradients
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps([kept, [page_faults() for _ in range(4)]]))
"""


def page_faults(what):
    """Run in an environment that leaves the allocator alone."""
    chosen = [
        name for name in os.environ if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")
    ]
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    command = [sys.executable, "-c", STEPS, allocator.__file__, what]
    return json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's mallopt: other allocators are left as they are"
)
def test_a_step_takes_what_the_step_before_has_freed():
    kept, faults = page_faults("keep")
    assert kept
    assert faults[0] > 1000, "the first step's memory is new"
    assert max(faults[1:]) < 100
    _, faults = page_faults("leave")
    assert min(faults[1:]) > 1000, "what this is for"


def test_the_users_choice_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not allocator.keep_freed_memory()

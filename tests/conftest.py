"""Every test starts from the same seed and leaves no process group, process, thread or environment behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo  # before any fork: each child would import it again, for seconds, and it sets the environment
import torch.distributed as dist

import ziggurat.report.plots  # noqa: F401 - before any fork: matplotlib takes each child that reports a second
from support.cheap_forks import (
    ask_for_entry_points_once,
    probe_once,
    seed_the_processor_alone,
    trace_once,
    use_huge_pages,
)
from support.sampled import leave_to_the_sweep
from ziggurat.data.formats.registry import FORMATS
from ziggurat.data.glyphs import digit_pixels
from ziggurat.data.readers.registry import READERS
from ziggurat.inference.outputs.registry import OUTPUTS
from ziggurat.models.families import FAMILIES
from ziggurat.tasks.registry import TASKS

torch.set_num_threads(1)  # before any fork: a child must not inherit a pool of threads
PROCESS = os.getpid()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has what it runs in the background
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # or programs that tests start would not hear Ctrl-C


def set_num_threads(number: int, original: Callable[[int], None] = torch.set_num_threads) -> None:
    """Refuse a pool of threads in the process of the tests: a child that is forked later and asks for one would hang.

    OpenMP's threads do not survive a fork, and it does not notice. A test with several threads forks a child for them.
    """
    assert number == 1 or os.getpid() != PROCESS, "several threads: in a child only (`run_ranks`)"
    original(number)


torch.set_num_threads = set_num_threads


collect_ignore_glob = [
    "sweep/third_party/*_*.py"
]  # they import packages that need not be there, and hold no tests


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take a selection of long tables, before pytest itself leaves out what is slow."""
    leave_to_the_sweep(items)


def pytest_collection_finish() -> None:
    """Make forks cheap: a child neither reads the digits again nor walks through what the imports have made."""
    digit_pixels()
    ask_for_entry_points_once()
    seed_the_processor_alone()
    probe_once()
    gc.collect()
    gc.freeze()
    trace_once()
    gc.set_threshold(20_000, 20, 20)  # a tenth of all time was looking for garbage


@pytest.fixture(autouse=True, scope="module")
def huge_pages() -> None:
    """What the tests before have made, too, lies in huge pages when this module's workers are forked."""
    use_huge_pages()


@pytest.fixture(autouse=True, scope="module")
def registries() -> Iterator[None]:
    """What a module's tests register is no other module's."""
    with ExitStack() as stack:
        for registry in (TASKS, FORMATS, READERS, FAMILIES, OUTPUTS):
            stack.enter_context(registry.as_before())
        yield


@pytest.fixture(autouse=True)
def leave_no_trace() -> Iterator[None]:
    environment = dict(os.environ)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    assert not dist.is_initialized(), "the test left a process group behind"
    assert not multiprocessing.active_children(), "the test left a process behind"
    assert torch.get_num_threads() == 1, "the test changed the number of threads"
    changed = {name for name in os.environ if environment.get(name) != os.environ[name]}
    assert changed <= {"PYTEST_CURRENT_TEST"}, f"the test changed the environment: {changed}"


@pytest.fixture(scope="session")
def trees() -> Path:
    """The folder of the tree-crown data set, or a skip with the reason."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "trees"
    folder = Path(os.environ.get("ZIGGURAT_TREES", default))
    if not (folder / "train.json").is_file():
        pytest.skip(f"the tree-crown data set is not at {folder}; set ZIGGURAT_TREES to its folder")
    return folder

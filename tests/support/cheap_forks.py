"""Forks that cost little: most tests with several workers fork them, some thousand times in all.

A fork copies the tables of all pages of its parent, and each page that is written afterwards costs a fault. The tests' process
has a gigabyte: with pages of 4 KiB a fork and its end took 45 ms of CPU, with pages of 2 MiB they take 15.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re

import torch
from torch import nn

from ziggurat.models.backbone import create_backbone
from ziggurat.parallel.graph.trace import Tracer, spec_of

HUGE = 1 << 21  # bytes of a page
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25
LEVELS = (["p3", "p4"], ["p3", "p4", "p5"], ["p3", "p4", "p5", "p6"], ["p3", "p4", "p5", "p6", "p7"], ["p5"])
_ANONYMOUS = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0\s*(?:\[heap\])?$")


def use_huge_pages() -> None:
    """Let this process's memory lie in huge pages, as far as the system has any; it changes nothing else."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    with open("/proc/self/maps") as file:
        found = [_ANONYMOUS.match(line.rstrip()) for line in file]
    for start, end in ((int(one[1], 16), int(one[2], 16)) for one in found if one):
        first, last = -(-start // HUGE) * HUGE, end // HUGE * HUGE
        for advice in (MADV_HUGEPAGE, MADV_COLLAPSE) if first < last else ():
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), advice)


def ask_for_entry_points_once() -> None:
    """Keep the answers: each process that joins a group asks all installed packages for theirs, 20 ms long."""
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)


def seed_the_processor_alone() -> None:
    """Leave out devices that are not there: PyTorch keeps a key for each with the lines that gave it, a millisecond's work."""
    if not torch.accelerator.is_available():
        for device in (torch.cuda, torch.xpu, torch.mtia):
            device.manual_seed_all = lambda seed: None


def trace_once() -> None:
    """Let a trace find the caches of all modules, once they are frozen: each child that traces would look for them."""
    Tracer(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())).trace(
        spec_of(torch.empty(1, 3, 8, 8))
    )


def probe_once() -> None:
    """Keep what the levels of the tests' backbone are: each child that builds a detector would run it, 50 ms and more."""
    for levels in LEVELS:
        create_backbone("test_resnet", levels, "batch", 0.0)

"""Checkpoints: all that a run's state is, in folders that are whole or not there.

A state is (step, weights, optimizer, moving average); everything else is recomputed. `docs/reliability.md` says what
is promised and shows the protocol; one file holds each idea:

=============  ======================================================================
`state`        from a checkpoint's tensors to a run's state
`tensors`      named tensors as files, each worker's part of them
`manifest`     size and checksum of every file; what a checkpoint's faults are
`folders`      the names of checkpoints, and the renames that publish and set aside
`retention`    which checkpoints stay
`writing`      one checkpoint, from every worker's part to the rename that publishes it
`checkpoints`  those of a run: written while training goes on, the newest good one found
=============  ======================================================================
"""

from ziggurat.runs.checkpoint.checkpoints import Checkpoints
from ziggurat.runs.checkpoint.folders import checkpoint_folder, published_steps, remove_checkpoint
from ziggurat.runs.checkpoint.manifest import checkpoint_faults, read_manifest
from ziggurat.runs.checkpoint.state import load_state, take_progress
from ziggurat.runs.checkpoint.writing import Progress, write_checkpoint

__all__ = [
    "Checkpoints",
    "Progress",
    "checkpoint_faults",
    "checkpoint_folder",
    "load_state",
    "published_steps",
    "read_manifest",
    "remove_checkpoint",
    "take_progress",
    "write_checkpoint",
]

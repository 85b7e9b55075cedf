"""A checkpoint's manifest: size and SHA-256 of each of its files, and of itself.

Nothing of a checkpoint is read before its manifest has been compared with it, the manifest's own form included: it
must be the exact text that `Manifest.text` gives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 1  # raised when older ones can no longer be read
MAX_BYTES = 1 << 24  # of a manifest; one has a hundred bytes per file
OLD_FILE = "state.json"  # of the checkpoints before there were manifests


@dataclass(frozen=True)
class FileFacts:
    """A file's size in bytes, and its SHA-256 in hexadecimal digits; nothing of a file that never leaves memory."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is made of.

    Attributes:
        step: Optimizer steps that are done.
        run: Names the definition of the run that it belongs to.
        files: By name.
        metric: The task's main metric after this step, where it was evaluated.
        counters: What the run has counted so far, such as skipped steps.
        decisions: What was measured for the run and fixes its bits, such as where its pipeline is cut.
        format: Of the checkpoint.
    """

    step: int
    run: str
    files: Mapping[str, FileFacts]
    metric: float | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def text(self) -> str:
        """Return the manifest as it is written.

        Example:
            >>> Manifest(3, "a", {}).text().splitlines()[1]
            ' "manifest": {'
        """
        body = asdict(self)
        if not self.decisions:  # the text of before there were any
            del body["decisions"]
        return json.dumps({"manifest": body, "sha256": _sha256_of(body)}, indent=1, sort_keys=True) + "\n"


def _sha256_of(body: object) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def file_facts(path: Path, is_summed: bool = True) -> FileFacts:
    """Return size and checksum of a file, or an empty checksum."""
    if not is_summed:
        return FileFacts(path.stat().st_size, "")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileFacts(file.tell(), digest.hexdigest())


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        ValueError: If it is not the text that was written; the message says why.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / OLD_FILE).is_file():
            raise ValueError(
                f"it has no {MANIFEST}: an earlier version has written it, whose form is not read any more"
            )
        raise ValueError(f"it has no {MANIFEST}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES)
        body = json.loads(content)["manifest"]
        files = {name: FileFacts(**facts) for name, facts in body["files"].items()}
        manifest = Manifest(**(body | {"files": files}))
        same = manifest.text().encode() == content
    except OSError as error:
        raise ValueError(f"{MANIFEST} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"{MANIFEST} is damaged: it is not the JSON that was written") from None
    if not same:
        raise ValueError(f"{MANIFEST} is damaged: its own checksum says so")
    return manifest


def checkpoint_faults(folder: Path, step: int, *runs: str, is_summed: bool = True) -> list[str]:
    """Compare a checkpoint with its manifest.

    Args:
        folder: The checkpoint.
        step: Of its name.
        runs: The definition of the run that it should belong to, by each name that it has had.
        is_summed: Whether its files must have the checksums of the manifest, or only the sizes.

    Returns:
        A sentence for each fault, with the file's name; none if every byte is as it was written.
    """
    try:
        manifest = read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    if manifest.format != FORMAT:
        return [f"{MANIFEST} is of format {manifest.format}, this version reads {FORMAT}"]
    faults = []
    if manifest.step != step:
        faults.append(f"{MANIFEST} is that of step {manifest.step}")
    if manifest.run not in runs:
        faults.append(f"{MANIFEST} is that of a run with another definition")
    for name, facts in manifest.files.items():
        faults += _file_faults(folder, name, facts, is_summed)
    known = {MANIFEST, *manifest.files}
    strange = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in known)
    return faults + [f"{name} is not in {MANIFEST}" for name in strange]


def _file_faults(folder: Path, name: str, facts: FileFacts, is_summed: bool) -> list[str]:
    path = folder / name
    if Path(name).name != name or path.is_symlink():
        return [f"{MANIFEST} names {name!r}, which is not a file of the checkpoint's own folder"]
    if not path.is_file():
        return [f"{name} is missing"]
    try:
        found = file_facts(path, is_summed)
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror}"]
    if found.bytes != facts.bytes:
        return [f"{name} has {found.bytes} bytes, not {facts.bytes}"]
    return (
        []
        if found == facts or not is_summed
        else [f"{name} is damaged: its SHA-256 is not that of {MANIFEST}"]
    )

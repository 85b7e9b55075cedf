"""The best plan for a run that goes on: `ziggurat plan RUN` in a process beside its steps, which end when the run ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ziggurat.config import RunConfig, flatten
from ziggurat.errors import UserError

SAYS = "ziggurat: "  # before what is wrong, on standard error


class Search(Protocol):
    """A search for the best plan."""

    def plans(self) -> Sequence[Mapping[str, Any]] | None:
        """Return the plans that were found, best first, as ``--json`` has them; None as long as they are looked for.

        Raises:
            UserError: If there are none.
        """
        ...

    def close(self) -> None:
        """End the search."""
        ...


class PlanSearch:
    """A search by a process of its own.

    Args:
        folder: Of the run.
        num_workers: That the plans are to have.
    """

    def __init__(self, folder: Path, num_workers: int) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - see `close`
        words = ["plan", str(folder), "--workers", str(num_workers), "--json"]
        # it dies with this process, however that ends
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ziggurat.cli.child", str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
        )

    def plans(self) -> Sequence[Mapping[str, Any]] | None:
        """Return the plans that were found, best first, as ``--json`` has them; None as long as they are looked for.

        Raises:
            UserError: If there are none.
        """
        status = self._process.poll()
        if status is None:
            return None
        if status:
            said = _text(self._err)
            why = " ".join(said[said.rfind(SAYS) :].removeprefix(SAYS).split()) if SAYS in said else ""
            raise UserError(why or f"`ziggurat plan` has ended with exit status {status}")
        found: Sequence[Mapping[str, Any]] = json.loads(_text(self._out).splitlines()[-1])["plans"]
        return found

    def close(self) -> None:
        """End the search."""
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._err.close()


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode("utf-8", errors="replace")
    return text


def best_of(plans: Sequence[Mapping[str, Any]], config: RunConfig) -> str:
    """Return the best plan that goes with the settings of a run, which stay as they are.

    Args:
        plans: Best first.
        config: Of the run.

    Raises:
        UserError: If there is none.
    """
    flat = flatten(config)
    for row in plans:
        if all(flat[name] == value for name, value in row["settings"].items()):
            return str(row["plan"])
    raise UserError("no plan that was found goes with the settings of the run; `ziggurat plan` says why")

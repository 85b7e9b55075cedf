"""On which operating system the program runs."""

from __future__ import annotations

import platform

from ziggurat.errors import UserError


def require_linux(system: str | None = None) -> None:
    """Refuse to start workers elsewhere than on Linux, whose processes and memory they are made for.

    Workers and loader processes are forked, share memory files, end with their parent, and are looked at in ``/proc``.

    Args:
        system: What the operating system calls itself; None asks it.

    Raises:
        UserError: If it is another one.
    """
    system = system or platform.system()
    if system != "Linux":
        raise UserError(
            f"Ziggurat runs on Linux only: this is {system or 'unknown'}; use WSL 2 on Windows, and a container or a "
            "virtual machine (Docker, Podman, Lima) on macOS"
        )

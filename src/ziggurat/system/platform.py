"""On which operating system and machine the program runs."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

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


@functools.cache
def processor_facts() -> dict[str, str]:
    """Return what Linux says of the first processor, by its own words (``model name``, ``flags`` ...); nothing where it says nothing."""
    file = Path("/proc/cpuinfo")
    first = file.read_text(encoding="utf-8").partition("\n\n")[0] if file.is_file() else ""
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def processor_name() -> str:
    """Return the name of this machine's processor with the number of its cores."""
    name = processor_facts().get("model name") or platform.processor() or platform.machine()
    return f"{name} x {os.cpu_count()}"


def machine_name() -> str:
    """Return a name that this process shares with those that it reaches without a network: on one kernel, in one network namespace.

    Containers of one machine have a network between them, and names of their own.
    """
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
    booted = boot.read_text(encoding="ascii").strip() if boot.is_file() else ""
    return f"{platform.node()} {booted} {os.readlink(space) if space.is_symlink() else ''}"

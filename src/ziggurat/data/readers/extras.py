"""Packages that only some readers need: what is missing is named with the command that installs it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from ziggurat.system.packages import extra_package


def import_extra(module: str, extra: str, path: Path) -> ModuleType:
    """Import a package of an extra, where an image needs it.

    Args:
        module: Its name in Python.
        extra: The extra of ours that it belongs to.
        path: The image, for the message.

    Raises:
        UserError: If it is not installed.

    Example:
        >>> import_extra("no_such_package", "geo", Path("a.vrt"))
        Traceback (most recent call last):
        ziggurat.errors.UserError: the image a.vrt needs the package no_such_package: pip install 'ziggurat[geo]'
    """
    return extra_package(module, extra, f"the image {path}")

"""Packages that only some readers need: what is missing is named with the command that installs it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from ziggurat.errors import UserError


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
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # it is there, and lacks something itself
        package = module.partition(".")[0]
        raise UserError(
            f"the image {path} needs the package {package}: pip install 'ziggurat[{extra}]'"
        ) from None

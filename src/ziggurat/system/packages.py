"""Packages that only some work needs: what is missing is named with the command that installs it."""

from __future__ import annotations

import importlib
from types import ModuleType

from ziggurat.errors import UserError


def extra_package(module: str, extra: str, what: str) -> ModuleType:
    """Import a package of an extra, where something needs it.

    Args:
        module: Its name in Python.
        extra: The extra of ours that it belongs to.
        what: What needs it, for the message.

    Raises:
        UserError: If it is not installed.

    Example:
        >>> extra_package("no_such_package", "geo", "--format gpkg")
        Traceback (most recent call last):
        ziggurat.errors.UserError: --format gpkg needs the package no_such_package: pip install 'ziggurat[geo]'
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # it is there, and lacks something itself
        raise UserError(f"{what} needs the package {package}: pip install 'ziggurat[{extra}]'") from None

"""What can be told of any object without asking it.

Networks and modules of other people hold stand-ins of packages that are absent, proxies that stand for nothing at the moment, modules
that are imported when they are used: whoever asks one for an attribute, or even for its class, gets an error or an import.
"""

from __future__ import annotations

import types
from typing import Any

OF_PYTHON = (types.GetSetDescriptorType, types.MemberDescriptorType)  # not another's property


def is_a(value: object, *kinds: type) -> bool:
    """Say whether an object is of one of some classes, by its own class and not by what it says that it is.

    Example:
        >>> is_a([], list, tuple), is_a(3, list)
        (True, False)
    """
    return issubclass(type(value), kinds)


def attributes_of(value: object) -> dict[str, Any] | None:
    """Return the dict of an object's own attributes; None where it has none, or says itself what it is.

    Example:
        >>> attributes_of(types.SimpleNamespace(a=1)), attributes_of(3)
        ({'a': 1}, None)
    """
    for base in type(value).__mro__:
        if "__dict__" in vars(base):
            getter = vars(base)["__dict__"]
            found = getter.__get__(value) if type(getter) in OF_PYTHON else None
            return found if type(found) is dict else None
    return None

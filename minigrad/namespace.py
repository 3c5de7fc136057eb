"""Compute the `__all__` of a package."""

from types import ModuleType
from typing import Any


def public_names(namespace: dict[str, Any], *modules: ModuleType) -> list[str]:
    """The names in the namespace of a package, except private ones and modules other than these.

    >>> "Linear" in public_names(vars(mg.nn)), "linear" in public_names(vars(mg.nn))
    (True, False)
    """
    return [
        name
        for name, member in namespace.items()
        if name[0] != "_" and (not isinstance(member, ModuleType) or member in modules)
    ]

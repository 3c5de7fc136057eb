"""Flatten nested dicts, lists and tuples to a list of their leaves, and rebuild them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any


def flatten_tree(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Return the leaves of `tree` in order, and a function that builds the same tree from others.

    Dicts, lists and tuples (including namedtuples) are branches, None is a branch without leaves,
    and everything else is a leaf.

    >>> leaves, rebuild = mg.tree.flatten_tree({"a": 1, "b": (2, [3, None])})
    >>> leaves
    [1, 2, 3]
    >>> rebuild([leaf * 10 for leaf in leaves])
    {'a': 10, 'b': (20, [30, None])}
    """
    leaves: list[Any] = []
    build = _collect(tree, leaves)

    def rebuild(values: list[Any]) -> Any:
        return build(iter(values))

    return leaves, rebuild


def _collect(tree: Any, leaves: list[Any]) -> Callable[[Any], Any]:
    if tree is None:
        return lambda values: None
    if isinstance(tree, dict):
        branches = {key: _collect(value, leaves) for key, value in tree.items()}

        def build_dict(values: Any) -> Any:
            result = copy(tree)  # keeps the type and any other contents
            for key, branch in branches.items():
                result[key] = branch(values)  # `update` of a Counter would add
            return result

        return build_dict
    if isinstance(tree, (list, tuple)):
        items = [_collect(value, leaves) for value in tree]
        kind = list if isinstance(tree, list) else getattr(tree, "_make", tuple)  # a namedtuple's
        return lambda values: kind(item(values) for item in items)
    leaves.append(tree)
    return next
